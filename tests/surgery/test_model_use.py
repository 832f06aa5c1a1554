"""What users do with a model they can do with the model form, and mostly with the program form."""

from __future__ import annotations

import copy
import io
import warnings
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import zoo
from architectures import Residual, small_residual, traced
from torch import Tensor, nn
from zoo import conv, mean, random_architecture, relative_error

import prune_gym
from prune_gym import compact, load_pruned, mask, save_pruned, trace


@torch.no_grad()
def test_hooks_run() -> None:
    calls: list[Any] = []
    model = zoo.prepare(Residual())
    model.stem.register_forward_hook(lambda module, args, output: calls.append(tuple(output.shape)) or output * 2)
    images = zoo.inputs(((3, 8, 8),))
    graph = trace(model, images)
    architecture = random_architecture(graph, 0)
    small = compact(model, graph, architecture, form="model")
    calls.clear()
    output = small(*images)
    assert calls == [(2, small.stem.out_channels, 8, 8)]
    assert relative_error(output, compact(model, graph, architecture, form="program")(*images)) < 1e-9
    seen = []
    small.act.register_forward_hook(lambda module, args, output: seen.append(output.shape[1]))
    small(*images)
    assert seen == [small.depthwise.out_channels]


def test_types_are_those_of_pytorch() -> None:
    _, small, _, _ = small_residual()
    assert small.classes == ["a", "b", "c", "d"]
    assert sum(isinstance(module, nn.Conv2d) for module in small.modules()) == 4
    norms = {id(p) for m in small.modules() if isinstance(m, nn.BatchNorm2d | nn.GroupNorm) for p in m.parameters()}
    decayed = [p for p in small.parameters() if id(p) not in norms]
    assert (len(norms), len(decayed)) == (4, 10)
    synced = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(small))
    assert isinstance(synced.bn, nn.SyncBatchNorm)
    assert synced.bn.num_features == small.stem.out_channels


@torch.no_grad()
def test_quantised_and_symbolically_traced() -> None:
    _, small, images, _ = small_residual(torch.float32)
    expected = small(images)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantised = torch.ao.quantization.quantize_dynamic(copy.deepcopy(small), {nn.Linear})
    assert not isinstance(quantised.fc, nn.Linear)
    torch.testing.assert_close(quantised(images), expected, atol=0.1 * float(expected.abs().max()), rtol=0)
    torch.testing.assert_close(torch.fx.symbolic_trace(small)(images), expected)


@torch.no_grad()
@pytest.mark.parametrize("form", ["model", "program"])
def test_compiled_as_one_graph(form: str) -> None:
    """Before it has ever run, too."""
    model, _, images, _ = small_residual(torch.float32)
    graph = trace(model, images)
    small = compact(model, graph, random_architecture(graph, 0), form=form)
    torch._dynamo.reset()
    compiled = torch.compile(small, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(images), small(images))


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_other_types(dtype: torch.dtype) -> None:
    _, small, images, _ = small_residual(torch.float32)
    expected = small(images)
    output = small.to(dtype)(images.to(dtype))
    assert output.dtype == dtype
    torch.testing.assert_close(output.float(), expected, atol=0.05 * float(expected.abs().max()), rtol=0)
    model = zoo.prepare(Residual()).to(dtype)
    graph = trace(model, images.to(dtype))
    assert isinstance(compact(model, graph, random_architecture(graph, 0), form="model").stem, nn.Conv2d)


def test_a_new_head_and_a_training_step() -> None:
    model, small, images, _ = small_residual()
    before = copy.deepcopy(model.state_dict())
    small.fc = nn.Linear(small.fc.in_features, 5).double()
    optimizer = torch.optim.SGD(small.parameters(), lr=0.1)
    small.train()
    loss = F.cross_entropy(small(images), torch.tensor([0, 1, 2, 4]))
    loss.backward()
    assert all(parameter.grad is not None for parameter in small.parameters())
    state = copy.deepcopy(small.state_dict())
    optimizer.step()
    moved = [key for key, tensor in small.state_dict().items() if not torch.equal(tensor, state[key])]
    # what project.bias adds, the norm behind it takes away
    assert {*moved, "project.bias"} == {name for name, _ in small.named_parameters()}
    assert F.cross_entropy(small.eval()(images), torch.tensor([0, 1, 2, 4])).isfinite()
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())


@torch.no_grad()
def test_copied_saved_and_loaded() -> None:
    _, small, images, program = small_residual()
    expected = small(images)
    twin = copy.deepcopy(small)
    for parameter in twin.parameters():
        parameter.zero_()
    assert relative_error(small(images), expected) == 0
    twin.load_state_dict(small.state_dict())
    assert relative_error(twin(images), expected) == 0
    twin.load_state_dict(program.state_dict())  # both forms have the same tensors by the same names
    assert relative_error(twin(images), expected) == 0
    for saved in (small.state_dict(), small):
        file = io.BytesIO()
        torch.save(saved, file)
        file.seek(0)
        loaded = torch.load(file, weights_only=not isinstance(saved, nn.Module))
        network = loaded if isinstance(loaded, nn.Module) else twin
        network.load_state_dict(loaded if not isinstance(loaded, nn.Module) else loaded.state_dict())
        assert relative_error(network(images), expected) == 0


@torch.no_grad()
def test_pruned_twice() -> None:
    model, small, images, _ = small_residual()
    graph = trace(small, images)
    assert graph.widths.tolist() == random_architecture(trace(model, images), 0).widths.tolist()
    smaller = compact(small, graph, random_architecture(graph, 1), form="model")
    assert isinstance(smaller, Residual)
    assert relative_error(smaller(images), compact(small, graph, random_architecture(graph, 1), form="program")(images)) < 1e-12


@torch.no_grad()
def test_it_can_be_saved_as_a_file(tmp_path: Any) -> None:
    """Its program is traced from the state it is in."""
    _, small, images, program = small_residual(torch.float32)
    save_pruned(tmp_path / "a", small)
    torch.testing.assert_close(load_pruned(tmp_path / "a")(images), program(images))
    changed = copy.deepcopy(small)
    changed.fc = nn.Linear(changed.fc.in_features, 9)
    changed.bfloat16()
    save_pruned(tmp_path / "b", changed)
    loaded = load_pruned(tmp_path / "b")
    assert loaded(images.bfloat16()).shape == (4, 9)
    torch.testing.assert_close(loaded(images.bfloat16()), changed(images.bfloat16()), atol=0.05, rtol=0.05)
    with pytest.raises(TypeError, match=r"network: expected a network from prune_gym.compact, got Residual;.*form='program'"):
        save_pruned(tmp_path / "c", Residual())
    with pytest.raises(TypeError, match=r"network: expected a network from prune_gym.compact, got dict"):
        save_pruned(tmp_path / "c", {})


def test_training_mode_is_that_of_the_class() -> None:
    """A norm that train() freezes stays frozen, and a branch that only training runs runs."""

    class Frozen(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.bn, self.head = conv(3, 6), nn.BatchNorm2d(6), nn.Linear(6, 2)

        def train(self, mode: bool = True) -> Frozen:
            super().train(mode)
            self.bn.eval()
            return self

        def forward(self, x: Tensor) -> Any:
            x = mean(self.bn(self.conv(x)))
            return (self.head(x), x.square().sum()) if self.training else self.head(x)

    model = Frozen().train()
    graph = trace(model, torch.empty(1, 3, 8, 8))
    small = compact(model, graph, random_architecture(graph, 0), form="model").train()
    assert small.training
    assert not small.bn.training
    output, penalty = small(torch.randn(3, 3, 8, 8))
    assert output.shape == (3, 2)
    assert penalty.ndim == 0


def test_the_random_state_is_left_alone() -> None:
    model, _, graph = traced("residual")
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    compact(model, graph, random_architecture(graph, 0), form="model")
    assert torch.equal(torch.rand(2), expected)


def test_on_the_meta_device() -> None:
    model = Residual().to("meta").eval()
    graph = trace(model, torch.empty(1, 3, 8, 8))
    small = compact(model, graph, random_architecture(graph, 0), form="model")
    assert small(torch.empty(2, 3, 8, 8, device="meta")).shape == (2, 4)


@pytest.mark.parametrize("name", ["program", "_names", "_owner", "steps", "run", "at"])
@pytest.mark.parametrize("kind", ["parameter", "buffer", "module"])
@torch.no_grad()
def test_names_that_the_program_form_uses_itself(name: str, kind: str) -> None:
    class Clashing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.head = conv(3, 6), nn.Linear(6, 2)
            if kind == "parameter":
                self.register_parameter(name, nn.Parameter(torch.randn(6)))
            elif kind == "buffer":
                self.register_buffer(name, torch.randn(6))
            else:
                self.add_module(name, nn.BatchNorm1d(6))

        def forward(self, x: Tensor) -> Tensor:
            x = mean(F.relu(self.conv(x)))
            own = getattr(self, name)
            return self.head(own(x) if kind == "module" else x * own)

    model, images = zoo.prepare(Clashing()), zoo.inputs(((3, 8, 8),))
    graph = trace(model, images)
    architecture = random_architecture(graph, 0)
    expected = mask(model, graph, architecture)(*images)
    for form in ("model", "program"):
        small = compact(model, graph, architecture, form=form)
        assert small.state_dict().keys() == model.state_dict().keys()
        for network in (small, copy.deepcopy(small)):
            assert relative_error(network(*images), expected) < 1e-9
            network.load_state_dict(small.state_dict())


def test_prune_gym_exports_the_error() -> None:
    assert issubclass(prune_gym.FormError, ValueError)
