"""Compact and masked networks: that they compute the pruned function, and that a compact one is a network like any other."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
import zoo
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from zoo import Net, conv, mean, random_architecture, relative_error

import prune_gym
from prune_gym import Architecture, ChannelGraph, PrunedNetwork, compact, mask, trace

MIXED = [name for name, entry in zoo.NETWORKS.items() if any(group[-1] for group in entry.groups)]
UNMIXED = [name for name in zoo.NETWORKS if name not in MIXED]
# some of every family, at the smallest images they take
HANDFUL = {
    "densenet121": 32, "efficientnet_b0": 32, "googlenet": 32, "mnasnet0_5": 32, "mobilenet_v3_small": 32, "regnet_y_400mf": 32,
    "resnet18": 32, "resnext50_32x4d": 32, "shufflenet_v2_x0_5": 32, "squeezenet1_1": 48,
}  # fmt: skip


def traced(name: str) -> tuple[nn.Module, list[Tensor], ChannelGraph]:
    model, images = zoo.built(name), zoo.inputs(zoo.NETWORKS[name].shapes)
    return model, images, trace(model, images)


def from_torchvision(name: str) -> nn.Module:
    options = {"aux_logits": False, "init_weights": False} if name in ("googlenet", "inception_v3") else {}
    return zoo.prepare(torchvision.models.get_model(name, weights=None, num_classes=10, **options))


def zeroed_by_hand(model: nn.Module, graph: ChannelGraph, architecture: Architecture) -> nn.Module:
    """A copy with zeros in everything that a removed unit owns, entry by entry."""
    zeroed = copy.deepcopy(model)
    tensors = {name: tensor.data for name, tensor in [*zeroed.named_parameters(), *zeroed.named_buffers()]}
    for group, kept in zip(graph.groups, architecture.kept, strict=True):
        for piece in group.slices:
            for unit in np.flatnonzero(~kept):
                for index in piece.indices[unit]:
                    if piece.tensor in tensors:
                        tensors[piece.tensor].select(piece.dim, int(index)).zero_()
    return zeroed


def only(graph: ChannelGraph, architecture: Architecture, wanted: Callable[[Any], bool]) -> Architecture:
    """The same, but with all units of the groups that are not wanted."""
    kept = [k if wanted(group) else np.ones_like(k) for group, k in zip(graph.groups, architecture.kept, strict=True)]
    return graph.architecture(kept)


# ------------------------------------------------------------------------------------------- what they compute


@torch.no_grad()
@pytest.mark.parametrize("name", zoo.NETWORKS)
def test_the_full_architecture_is_the_network(name: str) -> None:
    model, images, graph = traced(name)
    expected = model(*(x.clone() for x in images))
    small = compact(model, graph, graph.full())
    assert relative_error(small(*images), expected) < 1e-12
    assert relative_error(mask(model, graph, graph.full())(*(x.clone() for x in images)), expected) == 0
    assert type(small(*images)) is type(expected)


@torch.no_grad()
@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("name", UNMIXED)
def test_compact_and_mask_compute_the_same(name: str, seed: int) -> None:
    model, images, graph = traced(name)
    architecture = random_architecture(graph, seed)
    masked = mask(model, graph, architecture)(*(x.clone() for x in images))
    assert relative_error(compact(model, graph, architecture)(*images), masked) < 1e-9
    # and there is something to see
    assert relative_error(model(*(x.clone() for x in images)), masked) > 1e-3


@torch.no_grad()
@pytest.mark.parametrize("name", MIXED)
def test_mixed_groups_cannot_be_masked(name: str) -> None:
    model, images, graph = traced(name)
    architecture = random_architecture(graph, 0)
    (first, *_) = (group for group in graph.groups if group.mixed)
    with pytest.raises(ValueError, match=rf"group '{first.name}' is normalised or reduced across its channels.*compact"):
        mask(model, graph, architecture)
    without = only(graph, architecture, lambda group: not group.mixed)
    masked = mask(model, graph, without)(*(x.clone() for x in images))
    assert relative_error(compact(model, graph, without)(*images), masked) < 1e-9


# here the flag is cautious: zeroed channels happen to be the neutral element of what runs across them
CAUTIOUS = {
    "a_product_per_channel", "channel_and_spatial_attention", "parametrized", "parametrized_by_hooks", "several_inputs"
}  # fmt: skip


@torch.no_grad()
@pytest.mark.parametrize("name", sorted(set(MIXED) - CAUTIOUS))
def test_where_zeros_are_not_the_same_as_nothing(name: str) -> None:
    """The flag is there for a reason: zeroing the slices of a mixed group gives another function than removing them."""
    model, images, graph = traced(name)
    errors = []
    for seed in range(3):
        architecture = only(graph, random_architecture(graph, seed), lambda group: group.mixed)
        zeroed = zeroed_by_hand(model, graph, architecture)(*(x.clone() for x in images))
        errors.append(relative_error(zeroed, compact(model, graph, architecture)(*images)))
    assert any(not error < 1e-6 for error in errors)  # it may be no number


@torch.no_grad()
@pytest.mark.parametrize("name", UNMIXED)
def test_mask_zeroes_what_the_slices_say(name: str) -> None:
    model, _, graph = traced(name)
    architecture = random_architecture(graph, 2)
    masked, by_hand = mask(model, graph, architecture), zeroed_by_hand(model, graph, architecture)
    assert type(masked) is type(model)
    expected = dict([*by_hand.named_parameters(), *by_hand.named_buffers()])
    for key, tensor in [*masked.named_parameters(), *masked.named_buffers()]:
        assert torch.equal(tensor, expected.pop(key)), key
    assert not expected


@torch.no_grad()
@pytest.mark.parametrize("name", zoo.NETWORKS)
def test_down_to_one_unit_per_group(name: str) -> None:
    """As little as can be left still runs, for any batch, and without a channel that could not be counted."""
    model, images, graph = traced(name)
    rng = np.random.default_rng(0)
    architecture = graph.architecture([np.arange(g.width) == rng.integers(g.width) for g in graph.groups])
    small = compact(model, graph, architecture)
    output = small(*images)
    if name in UNMIXED:
        assert relative_error(output, mask(model, graph, architecture)(*(x.clone() for x in images))) < 1e-9
    if name not in ("plain", "one_dimensional"):  # their norms know no statistics but those of the batch
        one = small(*(x[:1] for x in images))
        for a, b in zip(zoo.tensors_in(one), zoo.tensors_in(output), strict=True):
            assert relative_error(a[:1], b[:1]) < 1e-9


@torch.no_grad()
@pytest.mark.parametrize("name", HANDFUL)
def test_torchvision_networks(name: str) -> None:
    check_torchvision(name, HANDFUL[name])


@torch.no_grad()
@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [n for n in torchvision.models.list_models(module=torchvision.models) if not n.startswith(("vit", "swin", "maxvit"))],
)
def test_every_torchvision_network(name: str) -> None:
    check_torchvision(name, {"alexnet": 64, "inception_v3": 75}.get(name, 48))


def check_torchvision(name: str, size: int) -> None:
    model = from_torchvision(name)
    images = zoo.inputs(((3, size, size),))
    graph = trace(model, images)
    expected = model(*images)
    assert relative_error(compact(model, graph, graph.full())(*images), expected) < 1e-9
    architecture = random_architecture(graph, 0)
    small = compact(model, graph, architecture)
    output = small(*images)
    assert relative_error(expected, output) > 1e-3
    if not any(group.mixed for group in graph.groups):
        assert relative_error(output, mask(model, graph, architecture)(*images)) < 1e-9
    cost = graph.cost(architecture)
    assert (cost.macs, cost.params) == (zoo.macs(small, images), zoo.parameters(small))
    again = trace(small, images)
    assert [(g.name, g.layers) for g in again.groups] == [(g.name, g.layers) for g in graph.groups]
    assert again.widths.tolist() == architecture.widths.tolist()


# ------------------------------------------------------------------------------------------------ random networks

RECIPES = st.lists(st.tuples(st.sampled_from(zoo.KINDS), st.integers(0, 4), st.integers(0, 3)), min_size=1, max_size=7)


@torch.no_grad()
@settings(max_examples=120, deadline=None, derandomize=True)
@given(recipe=RECIPES, flatten=st.booleans(), seed=st.integers(0, 3))
def test_random_networks(recipe: list[tuple[str, int, int]], flatten: bool, seed: int) -> None:
    check_random_network(recipe, flatten, seed)


@torch.no_grad()
@pytest.mark.slow
@settings(max_examples=2000, deadline=None)
@given(recipe=RECIPES, flatten=st.booleans(), seed=st.integers(0, 99))
def test_many_random_networks(recipe: list[tuple[str, int, int]], flatten: bool, seed: int) -> None:
    check_random_network(recipe, flatten, seed)


def check_random_network(recipe: list[tuple[str, int, int]], flatten: bool, seed: int) -> None:
    model = zoo.prepare(zoo.random_network(recipe, flatten))
    images = zoo.inputs(((3, 4, 4),))
    graph = trace(model, images)
    assert relative_error(compact(model, graph, graph.full())(*images), model(*images)) < 1e-10
    architecture = random_architecture(graph, seed)
    small = compact(model, graph, architecture)
    cost = graph.cost(architecture)
    assert (cost.macs, cost.params) == (zoo.macs(small, images), zoo.parameters(small))
    unmixed = only(graph, architecture, lambda group: not group.mixed)
    masked = mask(model, graph, unmixed)
    assert relative_error(compact(model, graph, unmixed)(*images), masked(*images)) < 1e-9
    if architecture.widths.size and architecture.widths.min() > 1:  # of one unit it cannot be said what it went with
        again = trace(small, images)
        assert [group[0::2] for group in zoo.groups_of(again)] == [group[0::2] for group in zoo.groups_of(graph)]
        assert again.widths.tolist() == architecture.widths.tolist()


# ------------------------------------------------------------------------------- smaller networks written by hand


def normalised(norm: str, a: int, b: int, c: int) -> nn.Module:
    """Two blocks with the given norm; the channels of the second go in pairs."""

    def run(net: Net, x: Tensor) -> Tensor:
        x = F.relu(net.norm1(net.conv1(x)))
        x = F.relu(net.norm2(net.conv2(x)))
        return net.head(mean(net.norm3(net.conv3(x))))

    norms = {
        "group": [nn.GroupNorm(1, a), nn.GroupNorm(2, 2 * b), nn.GroupNorm(c, c)],
        "layer": [nn.LayerNorm([a, 8, 8]), nn.GroupNorm(2, 2 * b, affine=False), nn.LayerNorm([c, 8, 8], bias=False)],
        "batch": [nn.BatchNorm2d(a), nn.GroupNorm(2, 2 * b), nn.InstanceNorm2d(c, affine=True)],
    }[norm]
    net = Net(run, conv1=conv(3, a), conv2=conv(a, 2 * b), conv3=conv(2 * b, c), head=nn.Linear(c, 3))
    for i, module in enumerate(norms, 1):
        net.add_module(f"norm{i}", module)
    return net


def group_norm(a: int, b: int, c: int) -> nn.Module:
    return normalised("group", a, b, c)


def layer_norm(a: int, b: int, c: int) -> nn.Module:
    return normalised("layer", a, b, c)


def batch_and_instance_norm(a: int, b: int, c: int) -> nn.Module:
    return normalised("batch", a, b, c)


def channels_last(a: int, b: int) -> nn.Module:
    """A ConvNeXt block."""

    def run(net: Net, x: Tensor) -> Tensor:
        x = net.stem(x)
        y = net.norm(net.depthwise(x).permute(0, 2, 3, 1))
        return net.head(mean(x + net.project(F.gelu(net.expand(y))).permute(0, 3, 1, 2)))

    return Net(
        run, stem=conv(3, a), depthwise=conv(a, a, groups=a), norm=nn.LayerNorm(a), expand=nn.Linear(a, b),
        project=nn.Linear(b, a), head=nn.Linear(a, 3),
    )  # fmt: skip


def mobile(a: int, b: int, c: int) -> nn.Module:
    """An inverted residual with squeeze and excitation, and a grouped convolution."""

    def run(net: Net, x: Tensor) -> Tensor:
        x = net.stem(x)
        y = F.hardswish(net.bn(net.depthwise(F.relu6(net.expand(x)))))
        y = y * torch.sigmoid(net.fc2(F.relu(net.fc1(F.adaptive_avg_pool2d(y, 1)))))
        return net.head(mean(net.grouped(x + net.project(y))))

    return Net(
        run, stem=conv(3, 2 * a), expand=conv(2 * a, b, 1), depthwise=conv(b, b, groups=b), bn=nn.BatchNorm2d(b),
        fc1=conv(b, c, 1), fc2=conv(c, b, 1), project=conv(b, 2 * a, 1), grouped=conv(2 * a, 6, groups=2), head=nn.Linear(6, 3),
    )  # fmt: skip


def up_and_down(a: int, b: int, c: int) -> nn.Module:
    """Transposed convolutions, dense and grouped, a concatenation, and a flatten."""

    def run(net: Net, x: Tensor) -> Tensor:
        low = F.relu(net.down(F.relu(net.conv1(x))))
        x = torch.cat([net.conv1(x), net.up(low)], 1)
        return net.head(F.avg_pool2d(x, 4).flatten(1))

    return Net(
        run, conv1=conv(3, a), down=conv(a, 2 * b, stride=2), up=nn.ConvTranspose2d(2 * b, 2 * c, 2, 2, groups=2),
        head=nn.Linear(4 * (a + 2 * c), 3),
    )  # fmt: skip


def neighbours(a: int, b: int) -> nn.Module:
    """Efficient channel attention and response normalisation run over however many channels there are."""

    def run(net: Net, x: Tensor) -> Tensor:
        x = net.conv1(x)
        x = x * net.eca(mean(x)[:, None]).sigmoid().squeeze(1)[:, :, None, None]
        x = F.local_response_norm(net.conv2(x), 3)
        return net.head(mean(F.normalize(x, dim=1)))

    return Net(run, conv1=conv(3, a), eca=nn.Conv1d(1, 1, 3, padding=1), conv2=conv(a, b), head=nn.Linear(b, 3))


SMALLER: list[tuple[Callable[..., nn.Module], tuple[int, ...], list[tuple[str, bool]]]] = [
    (group_norm, (6, 4, 5), [("conv1", True), ("conv2", True), ("conv3", False)]),
    (layer_norm, (6, 4, 5), [("conv1", True), ("conv2", True), ("conv3", True)]),
    (batch_and_instance_norm, (6, 4, 5), [("conv1", False), ("conv2", True), ("conv3", False)]),
    (channels_last, (6, 9), [("stem", True), ("expand", False)]),
    (mobile, (4, 7, 3), [("stem", False), ("expand", False), ("fc1", False), ("grouped", False)]),
    (up_and_down, (5, 4, 3), [("conv1", False), ("down", False), ("up", False)]),
    (neighbours, (7, 6), [("conv1", True), ("conv2", True)]),
]


@torch.no_grad()
@pytest.mark.parametrize(("build", "widths", "groups"), SMALLER, ids=[build.__name__ for build, *_ in SMALLER])
def test_the_compact_network_is_the_one_built_narrower(
    build: Callable[..., nn.Module], widths: tuple[int, ...], groups: list[tuple[str, bool]]
) -> None:
    model = zoo.prepare(build(*widths))
    images = zoo.inputs(((3, 8, 8),))
    graph = trace(model, images)
    assert [(g.name, g.mixed) for g in graph.groups] == groups
    assert tuple(graph.widths.tolist()[: len(widths)]) == widths
    for seed in range(3):
        architecture = random_architecture(graph, seed, 0.5)
        if build is mobile:  # its last layer is of fixed width in the network built by hand
            architecture = only(graph, architecture, lambda group: group.name != "grouped")
        small = compact(model, graph, architecture)
        narrow = build(*architecture.widths.tolist()[: len(widths)]).double().eval()
        narrow.load_state_dict(small.state_dict())
        assert relative_error(small(*images), narrow(*images)) < 1e-10
        assert zoo.macs(small, images) == zoo.macs(narrow, images) == graph.cost(architecture).macs
        assert zoo.parameters(small) == zoo.parameters(narrow) == graph.cost(architecture).params


@torch.no_grad()
def test_the_kept_units_are_those_asked_for() -> None:
    """Not merely as many of them."""
    model = zoo.prepare(nn.Sequential(conv(2, 4), nn.ReLU(), conv(4, 3), nn.Flatten(), nn.Linear(3 * 16, 2)))
    graph = trace(model, torch.empty(1, 2, 4, 4, dtype=torch.float64))
    small = compact(model, graph, graph.architecture([np.array([0, 1, 0, 1], bool), np.array([1, 0, 1], bool)]))
    tensors, state = dict(model.named_parameters()), small.state_dict()
    assert torch.equal(state["0.weight"], tensors["0.weight"][[1, 3]])
    assert torch.equal(state["0.bias"], tensors["0.bias"][[1, 3]])
    assert torch.equal(state["2.weight"], tensors["2.weight"][[0, 2]][:, [1, 3]])
    assert torch.equal(state["2.bias"], tensors["2.bias"][[0, 2]])
    assert torch.equal(state["4.weight"], tensors["4.weight"].reshape(2, 3, 16)[:, [0, 2]].reshape(2, 32))
    assert torch.equal(state["4.bias"], tensors["4.bias"])


# --------------------------------------------------------------------------------- a compact network is a network


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


def test_the_masked_network_is_one_of_its_kind() -> None:
    model = torchvision.models.squeezenet1_1(num_classes=3).train()
    graph = trace(model, torch.empty(1, 3, 64, 64))
    masked = mask(model, graph, random_architecture(graph, 0))
    assert type(masked) is type(model)
    assert masked.training
    assert all(p.requires_grad for p in masked.parameters())
    assert {k: t.shape for k, t in masked.state_dict().items()} == {k: t.shape for k, t in model.state_dict().items()}
    assert not any(a.data_ptr() == b.data_ptr() for a, b in zip(masked.parameters(), model.parameters(), strict=True))


# ------------------------------------------------------------------------------------------------ bad input


def pair() -> tuple[nn.Module, ChannelGraph]:
    model = nn.Sequential(conv(3, 4), nn.ReLU(), conv(4, 5), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 2))
    return model, trace(model, torch.empty(1, 3, 8, 8))


@pytest.mark.parametrize("operate", [compact, mask])
def test_a_model_that_is_not_the_one_traced(operate: Callable[..., nn.Module]) -> None:
    model, graph = pair()
    wider = nn.Sequential(conv(3, 6), nn.ReLU(), conv(6, 5), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 2))
    with pytest.raises(ValueError, match=r"model: expected the network .*'0.bias' has shape \(6,\) instead of \(4,\).*trace"):
        operate(wider, graph, graph.full())
    with pytest.raises(ValueError, match=r"'0.bias' has shape None instead of \(4,\)"):
        operate(nn.Sequential(conv(3, 4, bias=False), *list(model)[1:]), graph, graph.full())
    with pytest.raises(ValueError, match=r"'6.bias' has shape \(2,\) instead of None"):
        operate(nn.Sequential(*model, nn.Linear(2, 2)), graph, graph.full())
    with pytest.raises(TypeError, match=r"model: expected a torch.nn.Module, got OrderedDict"):
        operate(model.state_dict(), graph, graph.full())


@pytest.mark.parametrize("operate", [compact, mask])
def test_an_architecture_of_another_graph(operate: Callable[..., nn.Module]) -> None:
    model, graph = pair()
    other = trace(nn.Sequential(conv(3, 9), conv(9, 2)), torch.empty(1, 3, 8, 8))
    with pytest.raises(ValueError, match=r"architecture: expected one of this graph, got one of another"):
        operate(model, graph, other.full())
    with pytest.raises(TypeError, match=r"architecture: expected an Architecture, got tuple"):
        operate(model, graph, graph.full().kept)
    # a second trace of the same network gives the same units
    operate(model, graph, trace(model, torch.empty(2, 3, 8, 8)).full())


def test_a_compact_network_wants_its_inputs() -> None:
    model, graph = pair()
    small = compact(model, graph, graph.full())
    with pytest.raises(TypeError, match=r"Expected 1 input tensors, got 2"):
        small(torch.ones(1, 3, 8, 8), torch.ones(1))
    assert prune_gym.PrunedNetwork is type(small)
