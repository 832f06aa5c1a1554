"""The program form of a pruned network: that it is a network like any other."""

from __future__ import annotations

import copy
import io
import pickle
import warnings
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
import zoo
from architectures import traced
from torch import Tensor, nn
from zoo import Net, conv, mean, random_architecture, relative_error

import prune_gym
from prune_gym import PrunedNetwork, mask, trace

compact = partial(prune_gym.compact, form="program")


@torch.no_grad()
@pytest.mark.parametrize("name", zoo.NETWORKS)
def test_it_traces_again_to_the_same_groups(name: str) -> None:
    model, images, graph = traced(name)
    architecture = random_architecture(graph, 0)
    small = compact(model, graph, architecture)
    again = trace(small, images)
    expected = [(group.name, group.layers, group.filters_per_unit) for group in graph.groups]
    assert [(group.name, group.layers, group.filters_per_unit) for group in again.groups] == expected
    if name != "unregistered_tensors":  # in the compact network these are registered, so a mask would zero them
        assert [group.mixed for group in again.groups] == [group.mixed for group in graph.groups]
    assert again.widths.tolist() == architecture.widths.tolist()
    assert again.cost(again.full()) == graph.cost(architecture)
    smaller = random_architecture(again, 1)
    twice = compact(small, again, smaller)
    # the same units, named from the start
    kept = [k.copy() for k in architecture.kept]
    for k, inner in zip(kept, smaller.kept, strict=True):
        k[np.flatnonzero(k)] = inner
    once = compact(model, graph, graph.architecture(kept))
    assert relative_error(twice(*images), once(*images)) < 1e-12


@torch.no_grad()
@pytest.mark.parametrize("name", zoo.NETWORKS)
def test_any_batch_size(name: str) -> None:
    if name in ("plain", "one_dimensional"):
        pytest.skip("normalises with the statistics of the batch")
    model, images, graph = traced(name)
    small = compact(model, graph, random_architecture(graph, 0))
    expected = zoo.tensors_in(small(*images))
    for n in (1, 5):
        many = [x[:1].repeat(n, *[1] * (x.ndim - 1)) for x in images]
        for a, b in zip(zoo.tensors_in(small(*many)), expected, strict=True):
            assert a.shape == (n, *b.shape[1:])
            assert relative_error(a[-1], b[0]) < 1e-9


@pytest.mark.parametrize("name", zoo.NETWORKS)
def test_gradients_reach_every_parameter_that_the_network_uses(name: str) -> None:
    model, images, graph = traced(name)
    small = compact(model, graph, random_architecture(graph, 0)).train()

    def used(network: nn.Module) -> set[str]:
        network.zero_grad()
        loss = sum(x.square().sum() for x in zoo.tensors_in(network(*(x.clone() for x in images))) if x.requires_grad)
        assert isinstance(loss, Tensor)
        loss.backward()
        return {key for key, parameter in network.named_parameters() if parameter.grad is not None}

    assert used(small) == used(mask(model, graph, graph.full()))
    assert all(torch.isfinite(p.grad).all() for p in small.parameters() if p.grad is not None)


def test_it_learns() -> None:
    torch.manual_seed(0)
    model = zoo.prepare(Net(
        lambda net, x: net.head(net.drop(mean(F.relu(net.bn2(net.conv2(F.relu(net.bn1(net.conv1(x))))))))),
        conv1=conv(3, 8), bn1=nn.BatchNorm2d(8), conv2=conv(8, 8), bn2=nn.BatchNorm2d(8), drop=nn.Dropout(0.1),
        head=nn.Linear(8, 3),
    ))  # fmt: skip
    untouched = copy.deepcopy(model.state_dict())
    images = torch.randn(32, 3, 8, 8, dtype=torch.float64)
    labels = images.mean((2, 3)).argmax(1)
    graph = trace(model, images)
    small = compact(model, graph, random_architecture(graph, 0))
    before = {key: tensor.clone() for key, tensor in small.state_dict().items()}
    optimizer = torch.optim.SGD(small.parameters(), lr=0.1, momentum=0.9)
    small.train()
    losses = []
    for _ in range(40):
        loss = F.cross_entropy(small(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    after = small.state_dict()
    for key in ("bn1.running_mean", "bn2.running_var", "conv1.weight", "bn1.weight", "head.bias"):
        assert not torch.equal(before[key], after[key]), key
    assert all(torch.equal(tensor, untouched[key]) for key, tensor in model.state_dict().items())


def test_modes() -> None:
    """Dropout and the statistics of norms follow train() and eval(), and a compact network starts in the mode of the model."""

    def run(net: Net, x: Tensor) -> Tensor:
        x = net.drop2d(net.norm(net.bn(net.conv1(x))))
        return net.head(F.dropout(mean(x), 0.5, net.training))

    norm = nn.InstanceNorm2d(6, affine=True, track_running_stats=True)
    net = Net(run, conv1=conv(3, 6), bn=nn.BatchNorm2d(6), norm=norm, drop2d=nn.Dropout2d(0.5), head=nn.Linear(6, 3))
    x = torch.randn(4, 3, 8, 8)
    graph = trace(net.train(), x)
    small = compact(net, graph, random_architecture(graph, 0))
    assert small.training
    assert not torch.equal(small(x), small(x))
    small.eval()
    statistics = {key: tensor.clone() for key, tensor in small.named_buffers()}
    assert torch.equal(small(x), small(x))
    assert all(torch.equal(tensor, statistics[key]) for key, tensor in small.named_buffers())
    small.train()(x)
    moved = {key for key, tensor in small.named_buffers() if not torch.equal(tensor, statistics[key])}
    assert moved == {f"{norm}.running_{kind}" for norm in ("bn", "norm") for kind in ("mean", "var")}
    assert not compact(net.eval(), graph, graph.full()).training

    # full width, training mode, no dropout: the statistics move as the original's do
    net.drop2d.p = 0.0
    net.run = lambda net, x: net.head(mean(net.drop2d(net.norm(net.bn(net.conv1(x))))))
    graph = trace(net, x)
    full = compact(net, graph, graph.full()).train()
    net.train()
    torch.testing.assert_close(full(x), net(x))
    for key, tensor in full.named_buffers():
        if "running" in key:
            torch.testing.assert_close(tensor, dict(net.named_buffers())[key])


def test_norms_whose_mode_is_fixed_stay_fixed() -> None:
    """A batch norm that always uses the statistics of the batch does so in evaluation mode too."""

    def run(net: Net, x: Tensor) -> Tensor:
        return net.head(mean(F.batch_norm(net.conv1(x), net.mean, net.var, training=True)))

    net = Net(run, conv1=conv(3, 6), head=nn.Linear(6, 3)).eval()
    net.register_buffer("mean", torch.full((6,), 3.0))
    net.register_buffer("var", torch.full((6,), 7.0))
    x = torch.randn(4, 3, 8, 8)
    graph = trace(net, x)
    small = compact(net, graph, graph.full())
    torch.testing.assert_close(small(x), net(x))
    assert "constant" not in "".join(small.state_dict())


@torch.no_grad()
@pytest.mark.parametrize("name", ["residual", "vision_transformer", "blurred", "dynamic_convolution", "in_place"])
def test_it_can_be_copied_saved_and_moved(name: str) -> None:
    model, images, graph = traced(name)
    small = compact(model, graph, random_architecture(graph, 0))
    expected = small(*images)

    twin = copy.deepcopy(small)
    for parameter in twin.parameters():
        parameter.zero_()
    assert relative_error(small(*images), expected) == 0
    twin.load_state_dict(small.state_dict())
    assert relative_error(twin(*images), expected) == 0

    file = io.BytesIO()
    torch.save(small, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    assert isinstance(loaded, PrunedNetwork)
    assert relative_error(loaded(*images), expected) == 0

    single = copy.deepcopy(small).float()
    assert relative_error(single(*(x.float() for x in images)), [x.float() for x in zoo.tensors_in(expected)]) < 1e-3
    meta = copy.deepcopy(small).to("meta")(*(x.to("meta") for x in images))
    assert [x.shape for x in zoo.tensors_in(meta)] == [x.shape for x in zoo.tensors_in(expected)]


def test_names_types_and_memory() -> None:
    model = zoo.prepare(torchvision.models.resnet18(num_classes=4))
    model.layer1.requires_grad_(False)
    model.register_buffer("scratch", torch.zeros(3, dtype=torch.int32), persistent=False)
    before = copy.deepcopy(model.state_dict())
    x = torch.randn(1, 3, 32, 32, dtype=torch.float64)
    graph = trace(model, x)
    small = compact(model, graph, random_architecture(graph, 0))
    assert set(small.state_dict()) == set(model.state_dict())
    assert [key for key, _ in small.named_parameters()] == [key for key, _ in model.named_parameters()]
    originals = dict([*model.named_parameters(), *model.named_buffers()])
    for key, tensor in [*small.named_parameters(), *small.named_buffers()]:
        assert tensor.dtype == originals[key].dtype
        assert tensor.requires_grad == originals[key].requires_grad
        assert tensor.is_contiguous()
        tensor.data.fill_(1)
    assert set(dict(small.named_buffers())) == set(dict(model.named_buffers()))
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())


def test_constants_are_no_part_of_the_state() -> None:
    """Tensors that the forward pass uses without registering them go with the network, but not into its state_dict."""
    model, _, graph = traced("unregistered_tensors")
    small = compact(model, graph, random_architecture(graph, 0))
    assert set(small.state_dict()) == set(model.state_dict())
    sizes = sorted(tuple(tensor.shape) for key, tensor in small.named_buffers() if key.startswith("constant"))
    n = int(random_architecture(graph, 0).widths[0])
    assert (n, 1, 3, 3) in sizes
    assert (n, 1, 1) in sizes
    assert model.scale.shape == (5, 1, 1)


def test_constants_lie_where_the_network_does() -> None:
    """Also if they were made from numbers, which have no device."""
    model, images, _ = traced("unregistered_tensors")
    far = copy.deepcopy(model).to("meta")
    graph = trace(far, images)
    small = compact(far, graph, random_architecture(graph, 0))
    assert {tensor.device.type for tensor in small.buffers()} == {"meta"}
    assert small(images[0].to("meta")).shape == (2, 3)


def test_writing_to_the_data_of_a_parameter() -> None:
    """Clipped in every forward pass, and trained all the same."""

    def run(net: Net, x: Tensor) -> Tensor:
        net.conv1.weight.data.clamp_(-0.1, 0.1)
        return net.head(mean(F.relu(net.conv1(x))))

    net = Net(run, conv1=conv(3, 5), head=nn.Linear(5, 2))
    with torch.no_grad():
        net.conv1.weight.mul_(10)
    x = torch.randn(2, 3, 8, 8)
    graph = trace(net, x)
    assert net.conv1.weight.abs().max() > 0.1
    small = compact(net, graph, graph.full())
    small(x).sum().backward()
    torch.testing.assert_close(small(x), net(x))
    assert small.conv1.weight.grad.abs().sum() > 0


def test_a_constant_finds_a_free_name() -> None:
    def run(net: Net, x: Tensor) -> Tensor:
        return net.head(mean(net.constant0(x) * torch.tensor(0.5) * torch.tensor(3.0) * net.constant1))

    net = Net(run, constant0=conv(3, 5), constant1=nn.Parameter(torch.rand(5, 1, 1)), head=nn.Linear(5, 2)).eval()
    x = torch.randn(2, 3, 8, 8)
    graph = trace(net, x)
    small = compact(net, graph, random_architecture(graph, 0))
    torch.testing.assert_close(small(x), mask(net, graph, random_architecture(graph, 0))(x))


def test_an_image_is_not_changed_in_place() -> None:
    """Even if the network itself would."""
    model, images, graph = traced("in_place")
    small = compact(model, graph, random_architecture(graph, 0))
    before = images[0].clone()
    small(*images)
    assert torch.equal(images[0], before)


def test_a_compact_network_wants_its_inputs() -> None:
    model = nn.Sequential(conv(3, 4), nn.ReLU(), conv(4, 2)).eval()
    graph = trace(model, torch.empty(1, 3, 8, 8))
    small = compact(model, graph, graph.full())
    with pytest.raises(TypeError, match=r"Expected 1 input tensors, got 2"):
        small(torch.ones(1, 3, 8, 8), torch.ones(1))
    assert prune_gym.PrunedNetwork is type(small)


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = conv(3, 4), conv(4, 2)

    def forward(self, x: Tensor, *, scale: Tensor) -> Tensor:
        return self.b(self.a(x) * scale)


class ScaledInOneDict(Scaled):
    def forward(self, batch: dict[str, Tensor]) -> Tensor:  # type: ignore[override]
        return super().forward(batch["x"], scale=batch["scale"])


@torch.no_grad()
@pytest.mark.parametrize("kind", [Scaled, ScaledInOneDict])
def test_inputs_have_the_names_of_the_trace(kind: type[Scaled]) -> None:
    model = zoo.prepare(kind())
    x, scale = zoo.inputs(((3, 8, 8), (1, 8, 8)))
    batch = {"scale": scale, "x": x}
    graph = trace(model, batch)
    small = compact(model, graph, graph.full())
    expected = model(**batch) if kind is Scaled else model(batch)
    for twin in (
        small,
        copy.deepcopy(small),
        pickle.loads(pickle.dumps(small)),
        compact(small, trace(small, batch), graph.full()),
    ):
        for given in (twin(scale, x), twin(x=x, scale=scale), twin(scale, x=x), twin(batch)):
            assert torch.equal(given, expected)
    for args, kwargs in (((x,), {"scale": scale}), ((), {"x": x}), ((scale, x), {"x": x}), ((), {**batch, "y": x})):
        with pytest.raises(TypeError, match=rf"Expected 2 input tensors.*, got {len(args)} without a name, and '\w+'"):
            small(*args, **kwargs)


def test_inputs_that_are_no_tensors() -> None:
    model = nn.Sequential(conv(3, 4), conv(4, 2)).eval()
    graph = trace(model, torch.empty(1, 3, 8, 8))
    small = compact(model, graph, graph.full())
    with pytest.raises(TypeError, match="Expected 1 input tensors, got NoneType"):
        small(None)
    with pytest.raises(TypeError, match="Expected 1 input tensors, got 0 without a name, and 'x'"):
        small(x=torch.ones(1, 3, 8, 8))


@pytest.mark.parametrize("form", ["auto", "model", "program"])
def test_a_program_is_cut_once_more_in_any_form(form: str) -> None:
    """Its class is that of the program form, so there is nothing to fall back to."""
    model, images, graph = traced("halves_added")
    network = compact(model, graph, random_architecture(graph, 0))
    again = trace(network, images)
    architecture = random_architecture(again, 1)
    assert network.program != again.program.at(architecture.mask)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        smaller = prune_gym.compact(network, again, architecture, form=form)
    assert type(smaller) is PrunedNetwork
    assert smaller.program == again.program.at(architecture.mask)
