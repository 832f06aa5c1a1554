"""The model form of a pruned network: the user's own class, with narrower layers, for whatever users do with their models."""

from __future__ import annotations

import copy
import io
import threading
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
import zoo
from architectures import traced
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from zoo import Net, conv, mean, random_architecture, relative_error

import prune_gym
from prune_gym import FormError, PrunedNetwork, compact, load_pruned, mask, save_pruned, trace

# Networks of the zoo whose forward pass holds numbers of channels, and so works at the original widths only.
HARD_CODED = {
    "a_part_passes_through", "attention_gate", "attention_over_channels", "attention_over_positions", "blurred", "both_shuffles",
    "channels_sliced", "convolution_by_hand", "dual_path", "dynamic_convolution", "generator", "halves_to_different_layers",
    "hierarchical_split", "involution", "lenet_with_hard_coded_view", "maxout", "non_local", "one_channel_selected",
    "padded_shortcut", "scaled_standardisation", "shifted_in_time", "shifted_windows", "shortcut_with_new_zeros",
    "shortcut_with_zeros_behind", "sums_over_channels", "unregistered_tensors", "vision_transformer",
}  # fmt: skip


class Residual(nn.Module):
    """A stem, two blocks, one of them grouped, and a head, with what a user hangs on a model."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(8)
        self.expand = nn.Conv2d(8, 12, 1)
        self.depthwise = nn.Conv2d(12, 12, 3, padding=1, groups=12)
        self.act = nn.PReLU(12)
        self.project = nn.Conv2d(12, 8, 1)
        self.norm = nn.GroupNorm(8, 8)
        self.drop = nn.Dropout(0.2)
        self.fc = nn.Linear(8, 4)
        self.classes = ["a", "b", "c", "d"]

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn(self.stem(x)))
        x = x + F.relu(self.norm(self.project(self.act(self.depthwise(self.expand(x))))))
        return self.fc(self.drop(x.mean((2, 3))))


def small_residual(dtype: torch.dtype = torch.float64) -> tuple[nn.Module, nn.Module, Tensor, PrunedNetwork]:
    """A network, its model form, images, and its program form."""
    model = zoo.prepare(Residual()).to(dtype)
    images = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0)).to(dtype)
    graph = trace(model, images)
    architecture = random_architecture(graph, 0)
    small = compact(model, graph, architecture, form="model")
    return model, small, images, compact(model, graph, architecture, form="program")


# --------------------------------------------------------------------------------------------------- what it computes


@torch.no_grad()
@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("name", sorted(zoo.NETWORKS))
def test_it_computes_what_the_program_does(name: str, seed: int) -> None:
    model, images, graph = traced(name)
    architecture = random_architecture(graph, seed)
    program = compact(model, graph, architecture, form="program")
    try:
        small = compact(model, graph, architecture, form="model")
    except FormError:
        assert name in HARD_CODED
        return
    assert type(small) is type(model)
    assert relative_error(small(*(x.clone() for x in images)), program(*images)) < 1e-9
    assert small.state_dict().keys() == model.state_dict().keys()
    assert {key: t.shape for key, t in small.named_parameters()} == {key: t.shape for key, t in program.named_parameters()}
    again = trace(small, images)
    assert again.cost(again.full()) == graph.cost(architecture)
    if architecture.widths.min() > 1:  # of one unit it cannot be said what it went with
        assert again.widths.tolist() == architecture.widths.tolist()


@pytest.mark.parametrize("name", sorted(HARD_CODED))
def test_hard_coded_widths_are_refused_or_warned_about(name: str) -> None:
    model, _, graph = traced(name)
    architecture = random_architecture(graph, 1 if name == "dynamic_convolution" else 0)
    with pytest.raises(FormError, match="does not work at the widths of this architecture"):
        compact(model, graph, architecture, form="model")
    with pytest.warns(UserWarning, match=r"compact returns the program form, since .* does not work at the widths"):
        assert isinstance(compact(model, graph, architecture), PrunedNetwork)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert type(compact(model, graph, graph.full())) is type(model)  # at its own widths every model works
        compact(model, graph, random_architecture(graph, 0), form="program")


class Block(nn.Module):
    def __init__(self, shortcut: Callable[[Tensor], Tensor]):
        super().__init__()
        self.conv = conv(4, 8, stride=2)
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.conv(x) + self.shortcut(x))


def test_the_module_at_fault_is_named() -> None:
    block = Block(lambda x: F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2)))
    model = nn.Sequential(nn.Sequential(conv(3, 4), block), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))
    graph = trace(model, torch.empty(1, 3, 8, 8))
    expected = (
        r"module '0\.1' \(Block\) does not work at the widths .*: it raises RuntimeError \(The size of tensor.*form='program'"
    )
    with pytest.raises(FormError, match=expected):
        compact(model, graph, random_architecture(graph, 0), form="model")


def test_a_silent_difference_is_found_where_it_is() -> None:
    """The forward pass runs at any width, but takes another channel than the one it took."""

    class Third(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * x[:, 2:3].sigmoid()

    model = nn.Sequential(conv(3, 6), Third(), nn.ReLU(), conv(6, 2)).eval()
    graph = trace(model, torch.empty(1, 3, 8, 8))
    units = graph.prunable_layers[0].units
    kept = np.ones(graph.groups[0].width, bool)
    kept[units[0]] = False  # a channel before it
    with pytest.raises(FormError, match=r"module '1' \(Third\) .*what it gives differs by .* of the largest value"):
        compact(model, graph, graph.architecture([kept]), form="model")
    kept = np.ones(graph.groups[0].width, bool)
    kept[units[4]] = False  # one behind it
    compact(model, graph, graph.architecture([kept]), form="model")


def test_branches_that_weights_hide_are_compared_too() -> None:
    """The last norm of a block starts at zero, so the model's own weights would not show what its block computes."""

    class Quiet(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.a, self.b = conv(3, 6), conv(6, 6), conv(6, 6)
            self.norm = nn.BatchNorm2d(6)
            self.head = nn.Linear(6, 2)
            nn.init.zeros_(self.norm.weight)

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            y = self.a(x)
            return self.head(mean(x + self.norm(self.b(y * y[:, 2:3].sigmoid()))))

    model = Quiet().eval()
    graph = trace(model, torch.empty(1, 3, 8, 8))
    kept = [np.ones(group.width, bool) for group in graph.groups]
    (inner,) = (i for i, group in enumerate(graph.groups) if group.name == "a")
    kept[inner][0] = False
    with pytest.raises(FormError, match="differs"):
        compact(model, graph, graph.architecture(kept), form="model")


def test_the_form_is_checked() -> None:
    model = nn.Sequential(conv(3, 4), conv(4, 2))
    graph = trace(model, torch.empty(1, 3, 8, 8))
    with pytest.raises(ValueError, match=r"form: expected one of auto, model, program; got 'modle'. Did you mean 'model'\?"):
        compact(model, graph, graph.full(), form="modle")
    own = compact(model, graph, graph.full(), form="program")
    again = trace(own, torch.empty(1, 3, 8, 8))
    assert isinstance(compact(own, again, again.full(), form="model"), PrunedNetwork)  # that is its own class


# ----------------------------------------------------------------------------------------------------- attributes


def test_the_sizes_of_layers_are_corrected() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.PReLU(8),
        nn.Conv2d(8, 16, 3, padding=1, groups=8), nn.GroupNorm(4, 16), nn.Conv2d(16, 12, 1, groups=2), nn.GroupNorm(12, 12),
        nn.ConvTranspose2d(12, 12, 2, groups=12), nn.InstanceNorm2d(12), nn.ConvTranspose2d(12, 6, 2, groups=2),
        nn.BatchNorm2d(6, affine=False, track_running_stats=False), nn.GroupNorm(6, 6, affine=False),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LayerNorm(6), nn.Linear(6, 5), nn.RMSNorm(5), nn.BatchNorm1d(5),
        nn.Linear(5, 2),
    )  # fmt: skip
    graph = trace(zoo.prepare(model), torch.empty(1, 3, 8, 8, dtype=torch.float64))
    small = compact(model, graph, random_architecture(graph, 0, 0.5), form="model")
    shapes = {name: tuple(tensor.shape) for name, tensor in small.named_parameters()}
    stem = shapes["0.weight"][0]
    inner, up = shapes["5.weight"][0], 2 * shapes["9.weight"][1]
    assert 0 < stem < 8
    assert 0 < inner < 12
    assert 0 < up < 6
    assert (small[0].in_channels, small[0].out_channels, small[0].groups) == (3, stem, 1)
    assert small[1].num_features == small[2].num_parameters == stem
    assert (small[3].in_channels, small[3].out_channels, small[3].groups) == (stem, 2 * stem, stem)
    assert (small[4].num_channels, small[4].num_groups) == (2 * stem, 4)
    assert (small[5].in_channels, small[5].out_channels, small[5].groups) == (2 * stem, inner, 2)
    assert (small[6].num_channels, small[6].num_groups) == (inner, inner)
    assert (small[7].in_channels, small[7].out_channels, small[7].groups) == (inner, inner, inner)
    assert small[8].num_features == inner
    assert (small[9].in_channels, small[9].out_channels, small[9].groups) == (inner, up, 2)
    assert small[10].num_features == up
    assert (small[11].num_channels, small[11].num_groups) == (up, up)
    assert small[14].normalized_shape == (up,)
    hidden = shapes["15.weight"][0]
    assert (small[15].in_features, small[15].out_features) == (up, hidden)
    assert small[16].normalized_shape == (hidden,)
    assert small[17].num_features == hidden
    assert (small[18].in_features, small[18].out_features) == (hidden, 2)
    # attributes that equal a width by chance stay
    assert small[0].kernel_size == (3, 3)
    assert model[0].out_channels == 8


def test_attributes_of_other_modules_are_corrected() -> None:
    """As timm's modules and a user's own keep them; and what only looks like a width stays."""

    class Split(nn.Module):
        def __init__(self, c: int, rest: int):
            super().__init__()
            self.in_chs, self.c, self.sizes = c + rest, c, [c, rest]
            self.conv, self.mix = conv(c, c, groups=c), conv(c + rest, c + rest, 1)
            self.out_chs = c + rest

        def forward(self, x: Tensor) -> Tensor:
            a, b = x[:, : self.c], x.split(self.sizes, 1)[1]
            return self.mix(torch.cat([self.conv(a), b], 1))

    class Whole(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.heads = 3
            self.stem = conv(3, 12)
            self.split = Split(5, 7)
            self.last = conv(12, 9)
            self.num_features = 9
            self.rows = nn.Unflatten(1, (9, 1))
            self.fc = nn.Linear(9, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = F.avg_pool2d(self.last(self.split(self.stem(x))), 8).flatten(1)
            return self.fc(self.rows(x).reshape(-1, self.num_features))

    model = zoo.prepare(Whole())
    images = zoo.inputs(((3, 8, 8),))
    graph = trace(model, images)
    for seed in range(3):
        architecture = random_architecture(graph, seed, 0.4)
        small = compact(model, graph, architecture, form="model")
        part, rest, last = (
            small.split.conv.in_channels,
            small.stem.out_channels - small.split.conv.in_channels,
            small.last.out_channels,
        )
        assert part < 5
        assert last < 9
        assert (small.split.c, small.split.sizes) == (part, [part, rest])
        assert (small.split.in_chs, small.split.out_chs) == (part + rest, small.split.mix.out_channels)
        assert (small.num_features, small.rows.unflattened_size, small.heads) == (last, (last, 1), 3)
        assert (model.split.c, model.split.sizes, model.num_features) == (5, [5, 7], 9)


def test_a_number_that_is_no_width_gets_its_value_back() -> None:
    """The repetitions equal the width of the layer in the module, and are used as they are."""

    class Repeated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = conv(6, 6)
            self.times = 6

        def forward(self, x: Tensor) -> Tensor:
            for _ in range(self.times):
                x = self.conv(x)
            return x

    model = zoo.prepare(nn.Sequential(conv(3, 6), Repeated(), nn.Flatten(), nn.Linear(6 * 64, 2)))
    graph = trace(model, torch.empty(1, 3, 8, 8, dtype=torch.float64))
    small = compact(model, graph, random_architecture(graph, 0), form="model")
    assert small[1].times == 6
    assert small[1].conv.in_channels == 4


# ------------------------------------------------------------------------------------------------------- a deep copy


def test_types_memory_and_modes() -> None:
    model = zoo.prepare(torchvision.models.resnet18(num_classes=4)).float()
    model.layer1.requires_grad_(False)
    model.register_buffer("scratch", torch.zeros(3, dtype=torch.int32), persistent=False)
    model.fc.weight.no_decay = True
    model.train()
    model.layer2.eval()
    model.to(memory_format=torch.channels_last)
    before = copy.deepcopy(model.state_dict())
    graph = trace(model, torch.empty(1, 3, 32, 32))
    small = compact(model, graph, random_architecture(graph, 0), form="model")
    assert list(small.state_dict()) == list(model.state_dict())
    assert [m.training for m in small.modules()] == [m.training for m in model.modules()]
    assert "scratch" not in small.state_dict()
    assert small.fc.weight.no_decay
    originals = dict([*model.named_parameters(), *model.named_buffers()])
    tensors = dict([*small.named_parameters(), *small.named_buffers()])
    assert tensors.keys() == originals.keys()
    for key, tensor in tensors.items():
        assert type(tensor) is type(originals[key])
        assert (tensor.dtype, tensor.device) == (originals[key].dtype, originals[key].device)
        assert tensor.requires_grad == originals[key].requires_grad
        if tensor.ndim == 4:
            assert tensor.is_contiguous(memory_format=torch.channels_last)
        tensor.data.fill_(1)
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())


@torch.no_grad()
def test_the_values_may_be_others() -> None:
    model, _, images, _ = small_residual()
    graph = trace(model, images)
    other = zoo.prepare(Residual(), seed=5)
    weights = dict([*other.named_parameters(), *other.named_buffers()])
    architecture = random_architecture(graph, 1)
    small = compact(model, graph, architecture, form="model", weights=weights)
    assert relative_error(small(images), compact(other, graph, architecture, form="program")(images)) < 1e-12
    with pytest.raises(ValueError, match=r"weights: expected a tensor of shape \(8, 3, 3, 3\) for 'stem.weight', got none"):
        compact(model, graph, architecture, weights={})
    weights["fc.bias"] = torch.zeros(3)
    with pytest.raises(ValueError, match=r"weights: expected a tensor of shape \(4,\) for 'fc.bias', got \(3,\)"):
        compact(model, graph, architecture, weights=weights)


@torch.no_grad()
def test_shared_tensors_stay_shared() -> None:
    def run(net: Net, x: Tensor) -> Tensor:
        x = F.relu(net.encoder(x))
        return net.head(mean(F.conv2d(F.conv_transpose2d(x, net.decoder.weight, padding=1), net.weights[0], padding=1)))

    net = Net(run, encoder=conv(3, 6), decoder=conv(3, 6, bias=False), head=nn.Linear(6, 2))
    net.decoder.weight = net.encoder.weight
    net.weights = [net.encoder.weight]  # not registered here, but there
    model, images = zoo.prepare(net), zoo.inputs(((3, 8, 8),))
    graph = trace(model, images)
    small = compact(model, graph, random_architecture(graph, 0), form="model")
    assert small.decoder.weight is small.encoder.weight is small.weights[0]
    assert small.encoder.weight.shape[0] == 4
    assert relative_error(small(*images), mask(model, graph, random_architecture(graph, 0))(*images)) < 1e-9


@torch.no_grad()
def test_a_weight_and_its_transpose() -> None:
    """Tied like this one tensor has prunable channels in both dimensions."""

    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.weight, self.head = conv(3, 7), nn.Parameter(torch.randn(6, 7)), nn.Linear(7, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = F.relu(F.linear(mean(F.relu(self.stem(x))), self.weight))
            return self.head(F.relu(F.linear(x, self.weight.t())))

    model, images = zoo.prepare(Tied()), zoo.inputs(((3, 8, 8),))
    graph = trace(model, images)
    architecture = random_architecture(graph, 0)
    expected = mask(model, graph, architecture)(*images)
    for form in ("model", "program"):
        small = compact(model, graph, architecture, form=form)
        assert small.get_parameter("weight").shape == tuple(architecture.widths[::-1])
        assert relative_error(small(*images), expected) < 1e-9


@torch.no_grad()
def test_computed_weights() -> None:
    """Weight norm, spectral norm and pruning masks, in both of PyTorch's ways to write them, depthwise too."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = nn.Sequential(
            parametrizations.weight_norm(conv(3, 6)), parametrizations.weight_norm(conv(6, 6, groups=6)),
            parametrizations.spectral_norm(conv(6, 8)), nn.utils.weight_norm(conv(8, 7)), nn.utils.spectral_norm(conv(7, 6)),
            nn.utils.prune.random_unstructured(conv(6, 5), "weight", 0.3), nn.Flatten(), nn.Linear(5 * 64, 2),
        )  # fmt: skip
    model, images = zoo.prepare(model), zoo.inputs(((3, 8, 8),))
    graph = trace(model, images)
    architecture = random_architecture(graph, 0)
    small = compact(model, graph, architecture, form="model")
    assert relative_error(small(*images), compact(model, graph, architecture, form="program")(*images)) < 1e-9
    assert [type(module) for module in small] == [type(module) for module in model]
    assert small[1].groups == small[1].in_channels == small[0].out_channels == 4
    for module, layer in zip(small, model, strict=True):
        if isinstance(module, nn.Conv2d):
            assert module.weight.shape == (module.out_channels, module.in_channels // module.groups, 3, 3)
            assert layer.weight.shape == (layer.out_channels, layer.in_channels // layer.groups, 3, 3)
    for index in (3, 4, 5):  # those of the older kind keep what they computed last
        model[index].weight.sum()
    optimizer = torch.optim.SGD(small.parameters(), lr=0.1)
    with torch.enable_grad():
        small.train()(*images).sum().backward()
    optimizer.step()
    assert small(*images).isfinite().all()


@torch.no_grad()
def test_what_deepcopy_cannot_copy() -> None:
    """A lock, a tensor with a history, and functions that hold the model."""

    def scaled(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        return lambda x: 2 * function(x)

    net = Net(
        lambda net, x: net.head(mean(net.middle(net.steps[0](x)))), conv1=conv(3, 6), conv2=conv(6, 5), head=nn.Linear(5, 2)
    )
    net.lock = threading.Lock()
    with torch.enable_grad():
        net.seen = net.conv1.weight * 2
    net.middle = scaled(lambda x: F.relu(net.conv2(x)))
    net.steps = [lambda x: F.relu(net.conv1(x))]
    net = net.double().eval()
    images = zoo.inputs(((3, 8, 8),))
    graph = trace(net, images)
    architecture = random_architecture(graph, 0)
    small = compact(net, graph, architecture, form="model")
    masked = mask(net, graph, architecture)
    assert small.lock is masked.lock is net.lock
    assert relative_error(small(*images), masked(*images)) < 1e-9
    assert relative_error(small(*images), net(*images)) > 1e-3
    for twin in (small, masked):
        expected = net(*images)
        for parameter in twin.parameters():
            parameter.zero_()
        assert relative_error(net(*images), expected) == 0
        assert twin(*images).abs().max() == 0


# ------------------------------------------------------------------------------------- what users do with a model


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
    assert set(moved) == {name for name, _ in small.named_parameters()}
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
        save_pruned(tmp_path / "c", small.state_dict())


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
