"""The program form of a pruned network: that it computes the pruned function."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import zoo
from architectures import MIXED, UNMIXED, only, traced, zeroed_by_hand
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from zoo import Net, conv, mean, random_architecture, relative_error

import prune_gym
from prune_gym import mask, trace

compact = partial(prune_gym.compact, form="program")


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
