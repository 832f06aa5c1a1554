"""Costs of architectures: to the last integer those of the smaller network, for one of them and for many at once."""

from __future__ import annotations

import re
import time
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import zoo
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from zoo import Net, conv, mean, random_architecture

from prune_gym import Architecture, ChannelGraph, Cost, compact, models, trace
from prune_gym.graph.cost import links
from prune_gym.tasks import Task


def small_graph() -> ChannelGraph:
    """Groups of 4 and 3 units, the first of two layers."""

    def run(net: Net, x: Tensor) -> Tensor:
        x = net.a(x)
        return net.head(mean(net.c(x + net.b(x))))

    return trace(Net(run, a=conv(3, 4), b=conv(4, 4), c=conv(4, 3), head=nn.Linear(3, 2)), torch.empty(1, 3, 8, 8))


# ------------------------------------------------------------------------------------------- against other counts


@pytest.mark.parametrize("name", zoo.NETWORKS)
def test_costs_of_the_zoo(name: str) -> None:
    model, images = zoo.built(name), zoo.inputs(zoo.NETWORKS[name].shapes)
    graph = trace(model, images)
    assert graph.cost(graph.full()) == Cost(zoo.macs(model, [x.clone() for x in images]), zoo.parameters(model))
    for seed in range(2):
        architecture = random_architecture(graph, seed, 0.5)
        small = compact(model, graph, architecture, form="program")
        cost = graph.cost(architecture)
        assert type(cost.macs) is type(cost.params) is int
        assert cost == Cost(zoo.macs(small, images), zoo.parameters(small))


def test_macs_and_parameters_by_hand() -> None:
    """Grouped, depthwise and transposed convolutions, with and without bias; norms have parameters and no MACs."""

    def run(net: Net, x: Tensor) -> Tensor:
        x = net.bn(net.depthwise(net.conv1(x)))
        x = net.up(net.grouped(x))
        return net.fc(F.max_pool2d(x, 4).flatten(1))

    net = Net(
        run, conv1=conv(3, 8, bias=False), depthwise=conv(8, 16, stride=2, groups=8), bn=nn.BatchNorm2d(16),
        grouped=conv(16, 6, 1, groups=2), up=nn.ConvTranspose2d(6, 10, 2, 2, groups=2, bias=False), fc=nn.Linear(40, 5),
    )  # fmt: skip
    graph = trace(net, torch.empty(1, 3, 8, 8))
    assert [(g.name, g.width, g.filters_per_unit) for g in graph.groups] == [
        ("conv1", 4, 6), ("grouped", 3, 2), ("up", 5, 2)
    ]  # fmt: skip
    for a, b, c in [(4, 3, 5), (3, 1, 2), (1, 2, 4)]:
        channels, grouped, up = 2 * a, 2 * b, 2 * c
        macs = [
            64 * 9 * 3 * channels,
            16 * 9 * 2 * channels,
            16 * grouped * channels,  # 2 channels / 2 groups
            16 * 4 * grouped * c,  # the kernel at every place of the input
            5 * 4 * up,
        ]
        params = [
            27 * channels, 10 * 2 * channels, 2 * 2 * channels, (channels + 1) * grouped, 4 * grouped * c, (4 * up + 1) * 5
        ]  # fmt: skip
        cost = graph.costs(np.array([[a, b, c]]))
        assert (cost.macs.tolist(), cost.params.tolist()) == ([sum(macs)], [sum(params)])


def test_the_papers_convention_by_hand() -> None:
    """MACs, and 4 per element that enters a batch norm, 1 per output of an average pooling, area + 1 per adaptive output."""

    def run(net: Net, x: Tensor) -> Tensor:
        x = F.avg_pool2d(F.relu(net.bn1(net.conv1(x))), 2)  # 8x8 to 4x4
        x = F.adaptive_avg_pool2d(net.bn2(net.conv2(x)), 2)  # 4x4 to 2x2
        x = net.bn3(net.fc(F.max_pool2d(x, 2).flatten(1)))
        return net.head(x)

    net = Net(
        run, conv1=conv(3, 5), bn1=nn.BatchNorm2d(5), conv2=conv(5, 6), bn2=nn.BatchNorm2d(6, affine=False),
        fc=nn.Linear(6, 7), bn3=nn.BatchNorm1d(7), head=nn.Linear(7, 2),
    )  # fmt: skip
    graph = trace(net, torch.empty(2, 3, 8, 8))
    widths = np.array([[5, 6, 7], [3, 6, 1], [1, 2, 3]])
    for (a, b, c), macs, flops in zip(
        widths.tolist(), graph.costs(widths).macs, graph.costs(widths, "paper").macs, strict=True
    ):  # fmt: skip
        expected = 64 * 27 * a + 16 * 9 * a * b + b * c + c * 2
        assert macs == expected
        assert flops == expected + 4 * (64 * a + 16 * b + c) + 16 * a + (4 + 1) * 4 * b
    assert graph.costs(widths, "paper").params.tolist() == graph.costs(widths).params.tolist()
    assert graph.cost(graph.full(), convention="paper").macs == graph.costs(widths[:1], convention="paper").macs[0]


def test_a_norm_used_twice_costs_twice() -> None:
    net = Net(lambda net, x: net.head(mean(net.bn(F.relu(net.bn(net.conv1(x)))))), conv1=conv(3, 4), bn=nn.BatchNorm2d(4),
              head=nn.Linear(4, 2))  # fmt: skip
    graph = trace(net, torch.empty(1, 3, 8, 8))
    cost = graph.costs(np.array([[4], [3]]), "paper")
    plain = graph.costs(np.array([[4], [3]]))
    assert (cost.macs - plain.macs).tolist() == [2 * 4 * 64 * 4, 2 * 4 * 64 * 3]


def test_biases_are_no_macs_and_all_parameters_count() -> None:
    """Also those that the forward pass never uses."""
    net = nn.Sequential(conv(3, 4), nn.Flatten(), nn.Linear(256, 2))
    net.unused = nn.Parameter(torch.zeros(11))
    graph = trace(net, torch.empty(1, 3, 8, 8))
    assert graph.cost(graph.full()) == Cost(64 * 27 * 4 + 512, 27 * 4 + 4 + 514 + 11)


# ------------------------------------------------------------------------------------------------ many at once


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    recipe=st.lists(st.tuples(st.sampled_from(zoo.KINDS), st.integers(0, 4), st.integers(0, 3)), min_size=1, max_size=5),
    seed=st.integers(0, 9),
)
def test_many_costs_are_those_one_by_one(recipe: list[tuple[str, int, int]], seed: int) -> None:
    graph = trace(zoo.random_network(recipe, False), torch.empty(1, 3, 4, 4))
    architectures = [
        graph.full(),
        *(random_architecture(graph, seed + i, fraction) for i, fraction in enumerate((0.2, 0.5, 0.9))),
    ]
    widths = np.array([architecture.widths for architecture in architectures])
    for convention in ("macs", "paper"):
        costs = graph.costs(widths, convention)
        assert costs.macs.shape == costs.params.shape == (4,)
        assert costs.macs.dtype == costs.params.dtype == np.int64
        one_by_one = [graph.cost(architecture, convention) for architecture in architectures]
        assert [Cost(int(m), int(p)) for m, p in zip(costs.macs, costs.params, strict=True)] == one_by_one
    assert (graph.costs(widths).macs <= graph.costs(widths[:1]).macs).all()


@pytest.mark.slow  # fast, but a busy machine slows it down
def test_ten_thousand_candidates_at_once() -> None:
    graph = trace(models.create("resnet56", num_classes=10), torch.empty(1, 3, 32, 32))
    widths = np.random.default_rng(0).integers(1, graph.widths + 1, (10_000, len(graph.groups)))
    best = np.inf
    for _ in range(5):
        start = time.perf_counter()
        costs = graph.costs(widths)
        best = min(best, time.perf_counter() - start)
    assert best < 0.05
    for row in (0, 5_000, 9_999):
        kept = [np.arange(group.width) < w for group, w in zip(graph.groups, widths[row], strict=True)]
        assert graph.cost(graph.architecture(kept)) == Cost(int(costs.macs[row]), int(costs.params[row]))


def test_no_candidates_and_no_groups() -> None:
    graph = small_graph()
    assert graph.costs(np.zeros((0, 2), np.int64)).macs.shape == (0,)
    bare = trace(nn.Sequential(nn.Flatten(), nn.Linear(12, 3)), torch.empty(1, 3, 2, 2))
    assert bare.costs(np.zeros((2, 0), np.int64)).macs.tolist() == [36, 36]


def test_large_costs_are_exact() -> None:
    """The products are far above 2**32, and neither rounded nor wrapped."""
    with torch.device("meta"):
        net = nn.Sequential(conv(3, 4093), conv(4093, 4091), conv(4091, 7))
    graph = trace(net, torch.empty(1, 3, 1021, 1021, device="meta"))
    a, b = 4087, 3989
    assert graph.costs(np.array([[a, b]], np.int32)).macs.tolist() == [1021**2 * 9 * (3 * a + a * b + b * 7)]


# ------------------------------------------------------------------------------------------------ architectures


def test_architectures() -> None:
    graph = small_graph()
    full = graph.full()
    assert graph.widths.tolist() == full.widths.tolist() == [4, 3]
    assert graph.filters_per_unit.tolist() == [2, 1]
    assert (graph.n_units, graph.n_filters) == (7, 11)
    assert graph.max_sparsity == pytest.approx((3 * 2 + 2 * 1) / 11)
    assert full.channel_sparsity == 0
    assert all(kept.all() for kept in full.kept)

    some = graph.architecture([np.array([True, False, True, False]), [False, True, True]])
    assert some.widths.tolist() == [2, 2]
    assert [kept.tolist() for kept in some.kept] == [[True, False, True, False], [False, True, True]]
    assert some.channel_sparsity == pytest.approx((2 * 2 + 1) / 11)
    assert some == graph.architecture(some.kept)
    assert hash(some) == hash(graph.architecture(some.kept))
    assert some.digest == graph.architecture(some.kept).digest != full.digest
    others = [graph.architecture([np.array([True, True, False, False]), [False, True, True]]), full]
    assert len({some, *others}) == 3
    assert "[2, 2]" in repr(some)
    assert repr(graph) == "ChannelGraph(2 groups, 7 units, 11 filters)"
    assert repr(graph.groups[0]) == "ChannelGroup('a', width=4, layers=2, filters_per_unit=2)"


def test_an_architecture_cannot_be_changed() -> None:
    graph = small_graph()
    kept = [np.ones(4, bool), np.ones(3, bool)]
    architecture = graph.architecture(kept)
    kept[0][0] = False
    assert architecture.widths.tolist() == [4, 3]
    with pytest.raises(ValueError, match="read-only"):
        architecture.kept[0][0] = False
    with pytest.raises(ValueError, match="read-only"):
        graph.full().mask[:] = False


def test_the_digest_is_the_same_everywhere() -> None:
    """Pinned: results are cached under it."""
    graph = small_graph()
    assert graph.full().digest == "aa464922a4633f5c242b46c3566b9ca6"
    assert Architecture(graph, np.array([1, 0, 1, 1, 0, 1, 1], bool)).digest == "9a5ecc871708216f2ccab8bc4ecfd4b4"


# ------------------------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("kept", "message"),
    [
        ([np.ones(4, bool)], r"kept: expected one boolean array for each of 2 groups, got 1"),
        ([np.ones(4, bool)] * 3, r"each of 2 groups, got 3"),
        ([np.ones(4, bool), np.ones(4, bool)], r"boolean array of shape \(3,\) for group 'c', got bool of shape \(4,\)"),
        ([np.ones((4, 1), bool), np.ones(3, bool)], r"shape \(4,\) for group 'a', got bool of shape \(4, 1\)"),
        ([np.ones(4, int), np.ones(3, bool)], r"for group 'a', got int64 of shape \(4,\)"),
        ([np.ones(4, bool), np.ones(3)], r"for group 'c', got float64"),
        ([[[True], [True, False]], np.ones(3, bool)], r"boolean array of shape \(4,\) for group 'a', but .*inhomogeneous"),
        ([[0, 1], np.ones(3, bool)], r"for group 'a', got int64 of shape \(2,\)"),
        ([np.zeros(4, bool), np.ones(3, bool)], r"kept: group 'a' would lose all its 4 units; keep at least one"),
        ([np.ones(4, bool), np.zeros(3, bool)], r"group 'c' would lose all its 3 units"),
    ],
)
def test_bad_kept_units(kept: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small_graph().architecture(kept)


@pytest.mark.parametrize("mask", [np.ones(6, bool), np.ones(7, int), np.ones((1, 7), bool)])
def test_a_mask_of_another_form(mask: np.ndarray) -> None:
    found = rf"got {mask.dtype} of shape {re.escape(str(mask.shape))}; see graph.architecture"
    with pytest.raises(ValueError, match=rf"mask: expected a boolean array \(7,\), {found}"):
        Architecture(small_graph(), mask)


@pytest.mark.parametrize("kept", [None, 2, iter([np.ones(4, bool), np.ones(3, bool)])])
def test_kept_units_of_another_type(kept: Any) -> None:
    with pytest.raises(TypeError, match=r"kept: expected one boolean array for each of 2 groups, got "):
        small_graph().architecture(kept)
    with pytest.raises(TypeError, match=r"mask: expected a boolean array, got .*; see graph.architecture"):
        Architecture(small_graph(), kept)


@pytest.mark.parametrize(
    ("widths", "message"),
    [
        ([4, 3], r"widths: expected an integer array \(N, 2\), got int64 of shape \(2,\)"),
        ([[4, 3, 1]], r"got int64 of shape \(1, 3\)"),
        ([[4.0, 3.0]], r"got float64 of shape \(1, 2\)"),
        ([[True, True]], r"got bool of shape \(1, 2\)"),
        ([[5, 3]], r"widths: expected every width between 1 and that of the original network"),
        ([[4, 3], [4, 0]], r"between 1 and"),
        ([[-1, 3]], r"between 1 and"),
    ],
)
def test_bad_widths(widths: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small_graph().costs(np.array(widths))


@pytest.mark.parametrize("convention", ["flops", "Paper", "", None])
def test_unknown_convention(convention: Any) -> None:
    graph = small_graph()
    with pytest.raises(ValueError, match=r"convention: expected one of macs, paper, got"):
        graph.costs(np.array([[4, 3]]), convention)
    with pytest.raises(ValueError, match=r"convention: expected one of macs, paper, got"):
        graph.cost(graph.full(), convention=convention)


def test_groups_that_meet_in_a_layer(tiny_task: Task) -> None:
    """By perturbation: the MACs that two groups save together differ from the sum of what each saves alone."""
    graph = tiny_task.graph
    model, full = graph.cost_model, graph.widths

    def saved(*groups: int) -> int:
        widths = full.copy()
        widths[list(groups)] -= 1
        return graph.costs(full[None]).macs[0] - graph.costs(widths[None]).macs[0]

    found = links(model.over_widths(model.macs))
    for one, other in product(range(len(full)), repeat=2):
        assert found[one, other] == (one != other and saved(one, other) != saved(one) + saved(other))
    names = [group.name for group in graph.groups]
    assert {(names[i], names[j]) for i, j in np.argwhere(np.triu(found))} == {
        ("stem", "inner"), ("stem", "expand"), ("expand", "grouped"), ("grouped", "hidden")
    }  # fmt: skip
    widths = np.random.default_rng(0).integers(1, full + 1, (20, len(full)))
    ones = np.column_stack([widths, np.ones(20)])
    form = model.over_widths(model.params)
    np.testing.assert_array_equal(np.einsum("ng,gh,nh->n", ones, form, ones), graph.costs(widths).params)
