"""Which widths groups may have, and budgets in filters, MACs and parameters that bind."""

from __future__ import annotations

from itertools import pairwise
from math import ceil
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prune_gym import ChannelGraph, models, trace
from prune_gym.envs import PruningEnv
from prune_gym.simulation.allocation import allocate, complete
from prune_gym.simulation.blocks import fractions_of, take_blocks
from prune_gym.simulation.simulator import Simulator
from prune_gym.simulation.space import UNITS, PruningSpace, at_least, by_level
from prune_gym.tasks import Task

WIDTHS = (3, 8, 6, 12, 7, 9)
CONVOLUTIONS = [torch.nn.Sequential(torch.nn.Conv2d(i, o, 3, padding=1), torch.nn.ReLU()) for i, o in pairwise(WIDTHS)]
GRAPH = trace(torch.nn.Sequential(*CONVOLUTIONS, torch.nn.Flatten(), torch.nn.Linear(9 * 16, 4)), torch.zeros(1, 3, 4, 4))


def counted(graph: ChannelGraph, target: str, widths: np.ndarray) -> int:
    """What is gone, from the costs of whole networks."""
    cost, full = graph.costs(widths[None]), graph.costs(graph.widths[None])
    return {
        "sparsity": int((graph.widths - widths) @ graph.filters_per_unit),
        "macs_reduction": int(full.macs[0] - cost.macs[0]),
        "params_reduction": int(full.params[0] - cost.params[0]),
    }[target]


def test_widths_of_groups_with_different_numbers_of_levels() -> None:
    allowed = (np.array([2, 4, 6]), np.array([5]), np.array([1, 2, 3, 8]))
    assert by_level(allowed).tolist() == [[2, 4, 6, 6], [5, 5, 5, 5], [1, 2, 3, 8]]
    rng = np.random.default_rng(0)
    for wanted in (np.array([4.0, 5.0, 3.5]), np.array([7.0, -1.0, 9.0]), 10 * rng.random((2, 7, 3))):
        found = at_least(allowed, wanted)
        assert found.shape == wanted.shape
        for row, widths in zip(found.reshape(-1, 3), wanted.reshape(-1, 3), strict=True):
            each = zip(allowed, widths, strict=True)
            assert row.tolist() == [min([w for w in mine if w >= width], default=mine[-1]) for mine, width in each]


@pytest.mark.parametrize("target", UNITS)
def test_what_is_gone(tiny_task: Task, target: str) -> None:
    graph = tiny_task.graph
    space = PruningSpace(graph, target)
    rng = np.random.default_rng(0)
    for _ in range(20):
        widths = rng.integers(1, graph.widths + 1)
        assert space.removed(widths) == counted(graph, target, widths)
    full = graph.cost(graph.full())
    assert space.total == dict(zip(UNITS, (graph.n_filters, full.macs, full.params), strict=True))[target]
    assert space.largest == counted(graph, target, np.ones_like(graph.widths))


def test_the_tiny_network_by_hand(tiny_task: Task) -> None:
    """Widths 8, 6, 6, 4, 10."""
    graph = tiny_task.graph
    assert PruningSpace(graph).lowest.tolist() == [1, 1, 1, 1, 1]
    assert PruningSpace(graph, min_width=3).lowest.tolist() == [3, 3, 3, 3, 3]
    assert PruningSpace(graph, min_width=5).lowest.tolist() == [5, 5, 5, 4, 5]
    assert PruningSpace(graph, min_width=0.5).lowest.tolist() == [4, 3, 3, 2, 5]
    assert PruningSpace(graph, min_width=0.3).lowest.tolist() == [3, 2, 2, 2, 3]
    assert PruningSpace(graph, min_width={"outer": 0.5, "*": 2}).lowest.tolist() == [4, 2, 2, 2, 2]
    assert PruningSpace(graph, exclude=["inner", "dep*"]).lowest.tolist() == [1, 6, 6, 1, 1]
    assert PruningSpace(graph, round_to=4).lowest.tolist() == [4, 4, 2, 2, 4]  # two units hold two channels each
    assert PruningSpace(graph, round_to=4, min_width=5).lowest.tolist() == [8, 6, 6, 4, 8]


def test_steps_between_widths() -> None:
    graph = trace(models.create("digits_vgg", num_classes=10, in_channels=1), torch.zeros(1, 1, 8, 8))
    space = PruningSpace(graph, round_to=10, min_width=15)  # widths 16, 32, 48, 48, 64, 64, 64, 128
    assert space.lowest.tolist() == [16, 20, 20, 20, 20, 20, 20, 20]
    below = space.next_below(graph.widths)
    assert below.tolist() == [16, 30, 40, 40, 60, 60, 60, 120]
    assert space.next_below(below).tolist() == [16, 20, 30, 30, 50, 50, 50, 110]
    assert space.next_below(space.lowest).tolist() == space.lowest.tolist()
    assert space.next_above(below, graph.widths).tolist() == graph.widths.tolist()
    assert space.next_above(space.lowest, graph.widths).tolist() == [16, 30, 30, 30, 30, 30, 30, 30]
    assert space.at_least(np.array([3.0, 20.1, 30, 30.5, 1, 60.1, 64, 120])).tolist() == [16, 30, 30, 40, 20, 64, 64, 120]


def test_levels_are_blocks_as_equal_as_units_allow() -> None:
    graph = trace(models.create("digits_vgg", num_classes=10, in_channels=1), torch.zeros(1, 1, 8, 8))
    for levels in (1, 2, 3, 5, 16, 40):
        space = PruningSpace(graph, levels=levels)
        for width, allowed in zip(graph.widths.tolist(), space.allowed, strict=True):
            blocks = np.diff([0, *allowed.tolist()])
            assert len(allowed) == min(levels, width)
            assert blocks.sum() == width
            assert blocks.max() - blocks.min() <= 1
    space = PruningSpace(graph, levels=5)  # widths 16, 32, 48, 48, 64, 64, 64, 128
    assert [allowed.tolist() for allowed in space.allowed[:3]] == [[4, 7, 10, 13, 16], [7, 13, 20, 26, 32], [10, 20, 29, 39, 48]]
    assert space.next_below(graph.widths).tolist() == [13, 26, 39, 39, 52, 52, 52, 103]
    assert space.next_below(space.lowest).tolist() == space.lowest.tolist() == [4, 7, 10, 10, 13, 13, 13, 26]
    some = PruningSpace(graph, levels=5, min_width=0.5, exclude=["classifier.0"])
    assert [allowed.tolist() for allowed in some.allowed[:2]] == [[10, 13, 16], [20, 26, 32]]
    assert some.allowed[-1].tolist() == [128]


@pytest.mark.parametrize(
    ("settings", "kind", "message"),
    [
        ({"target": "flops"}, ValueError, "target: expected one of sparsity, macs_reduction, params_reduction"),
        ({"min_width": 0}, ValueError, r"min_width: expected a number in \(0, inf\), got 0"),
        ({"min_width": 2.5}, ValueError, "min_width: expected a fraction in .* or a whole number of units, got 2.5"),
        ({"min_width": "x"}, TypeError, "min_width: expected a number"),
        ({"min_width": {"iner": 2}}, ValueError, "min_width: no group and no layer of one fits 'iner'. Did you mean 'inner'"),
        ({"exclude": "inner"}, TypeError, "exclude: expected a sequence of names or patterns, got 'inner'"),
        ({"exclude": None}, TypeError, "exclude: expected a sequence of names or patterns, got None"),
        ({"exclude": ["nothing.*"]}, ValueError, "exclude: no group and no layer of one fits 'nothing.*'. Groups: stem, inner"),
        ({"round_to": 0}, ValueError, "round_to: expected an integer >= 1, got 0"),
        ({"levels": 0}, ValueError, "levels: expected an integer >= 1, got 0"),
        (
            {"levels": 3, "round_to": 8},
            ValueError,
            "levels: expected levels or multiples of channels, got levels 3 and round_to 8",
        ),
    ],
)
def test_bad_arguments_are_named(tiny_task: Task, settings: dict[str, Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        PruningSpace(tiny_task.graph, **settings)


# ------------------------------------------------------------------------------------------------ targets


def finished(env: PruningEnv, rng: np.random.Generator | None) -> tuple[np.ndarray, np.ndarray]:
    """The widths at the end of an episode, of uniform or of random actions, and those before the last step."""
    env.reset()
    while env.steps_left:
        before = env.architecture.widths
        env.step(env.uniform_action if rng is None else rng.dirichlet(np.ones(len(env.graph.groups))))
    return env.architecture.widths, before


LIMITS = [
    {},
    {"round_to": 2},
    {"min_width": 0.3, "exclude": ["inner", "hidden"]},
    {"round_to": 2, "min_width": {"stem": 4}},
]


@pytest.mark.parametrize("rounding", ["largest_remainder", "carry", "paper"])
@pytest.mark.parametrize("limits", LIMITS, ids=str)
@pytest.mark.parametrize("target", [{"sparsity": 0.4}, {"macs_reduction": 0.47}, {"params_reduction": 0.31}], ids=str)
def test_targets_are_met_from_above_and_no_unit_more(
    tiny_task: Task, target: dict[str, float], limits: dict[str, Any], rounding: str
) -> None:
    env = PruningEnv(tiny_task, **target, **limits, rounding=rounding, step_ratio=0.1, fidelity="original")
    ((name, value),) = target.items()
    graph, space = env.graph, PruningSpace(env.graph, name, **limits)
    for seed in (None, 0, 1, 2):
        widths, before = finished(env, None if seed is None else np.random.default_rng(seed))
        assert counted(graph, name, widths) >= value * space.total - 1e-6
        assert (widths >= space.lowest).all()
        assert all(width in allowed for width, allowed in zip(widths, space.allowed, strict=True))
        for group in np.flatnonzero(widths < before):
            more = widths.copy()
            more[group] = space.next_above(widths, before)[group]
            assert counted(graph, name, more) < value * space.total


def test_with_levels_steps_take_whole_blocks(tiny_task: Task) -> None:
    """As :mod:`prune_gym.simulation.blocks` says, until each goal of the schedule is met."""
    simulator = Simulator(tiny_task, macs_reduction=0.6, step_ratio=0.1, levels=4, fidelity="original")
    graph, space, rng = tiny_task.graph, simulator.space, np.random.default_rng(0)
    state = simulator.initial()
    while not simulator.is_terminal(state):
        action = rng.dirichlet(np.ones(len(graph.groups)))
        (after,) = simulator.successors(state, [action])
        levels, carry = take_blocks(
            fractions_of(action, graph.group_filters).tolist(),
            space.levels_at(state.widths).tolist(),
            state.carry.tolist(),
            simulator.schedule.goal(state.steps),
            lambda levels: int(space.removed(space.widths_at(np.array(levels)))),
        )
        assert after.widths.tolist() == space.widths_at(np.array(levels)).tolist()
        assert after.carry.tolist() == carry
        assert simulator.removed(after) >= simulator.schedule.goal(state.steps)
        state = after
    with pytest.raises(ValueError, match=r"rounding: with levels steps take whole blocks, .* got 'paper'"):
        Simulator(tiny_task, macs_reduction=0.6, levels=4, rounding="paper")


def test_a_target_that_cannot_be_met_says_the_largest_that_can(tiny_task: Task) -> None:
    for name in UNITS:
        space = PruningSpace(tiny_task.graph, name, 0.5, ("inner",))
        largest = np.floor(space.largest / space.total * 1e4) / 1e4
        with pytest.raises(ValueError, match=f"{name}: 0.99 cannot be reached .*; the largest that can is {largest:.4f}"):
            Simulator(tiny_task, **{name: 0.99}, min_width=0.5, exclude=["inner"])
        Simulator(tiny_task, **{name: largest}, min_width=0.5, exclude=["inner"])


def test_exactly_one_target(tiny_task: Task) -> None:
    with pytest.raises(ValueError, match="target: expected one of sparsity, macs_reduction, params_reduction, got none"):
        Simulator(tiny_task)
    with pytest.raises(ValueError, match="got sparsity and macs_reduction"):
        PruningEnv(tiny_task, sparsity=0.5, macs_reduction=0.5)
    with pytest.raises(ValueError, match=r"params_reduction: expected a number in \(0, 1\), got 1.5"):
        PruningEnv(tiny_task, params_reduction=1.5)
    assert PruningEnv(tiny_task).simulator.schedule.target == np.ceil(0.5 * tiny_task.graph.n_filters)


def test_steps_are_counted_in_the_unit_of_the_target(tiny_task: Task) -> None:
    env = PruningEnv(tiny_task, macs_reduction=0.5, step_ratio=0.1, fidelity="original")
    total = env.graph.cost(env.graph.full()).macs
    assert env.simulator.schedule.per_step == ceil(0.1 * total)
    env.reset()
    assert env.steps_left == 5
    reductions = []
    while env.steps_left:
        reductions.append(env.step(env.uniform_action)[-1]["flops_reduction"])
    assert all(later > earlier for earlier, later in pairwise(reductions))
    assert np.abs(np.array(reductions) - [0.1, 0.2, 0.3, 0.4, 0.5]).max() < 0.06


@settings(max_examples=200)
@given(
    st.lists(st.floats(0, 1), min_size=5, max_size=5),
    st.sampled_from(list(UNITS)),
    st.floats(0.01, 0.5),
    st.sampled_from(
        [{"round_to": 1}, {"round_to": 2}, {"round_to": 3}, {"levels": 1}, {"levels": 2}, {"levels": 5}, {"levels": 40}]
    ),
    st.sampled_from(["largest_remainder", "carry", "paper"]),
)
def test_allocations_keep_to_budget_and_space(
    action: list[float], target: str, share: float, limits: dict[str, int], rounding: str
) -> None:
    graph = GRAPH
    space = PruningSpace(graph, target, **limits)
    if not space.largest:
        return  # one level: nothing can go
    budget = max(1, int(share * space.largest))
    counts = allocate(np.array(action), graph.full(), budget, rounding, space=space)
    after = graph.widths - counts
    assert counts.sum() >= 1
    assert (after >= space.lowest).all()
    assert all(width in allowed for width, allowed in zip(after, space.allowed, strict=True))
    if "round_to" in limits:
        step = limits["round_to"]
        assert all(width == full or width % step == 0 for width, full in zip(after, graph.widths, strict=True))
    if rounding != "paper":
        blocks = sum(
            ((allowed > width) & (allowed <= full)).sum()
            for allowed, width, full in zip(space.allowed, after, graph.widths, strict=True)
        )
        assert blocks == 1 or space.removed(after) <= budget
    met = complete(after, graph.widths, budget, space)
    assert space.removed(met) >= budget
    assert (met >= space.lowest).all()
