"""Budgets and goals against episodes that are counted out filter by filter."""

from __future__ import annotations

from itertools import product
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prune_gym.simulation.schedule import Schedule, step_budget, target_budget


def space(total: int, target: str = "sparsity") -> Any:
    return SimpleNamespace(total=total, target=target)


@pytest.mark.parametrize(
    ("ratio", "filters", "per_step", "target"),
    [
        (0.29, 100, 29, 29),
        (0.07, 100, 7, 7),
        (0.141, 100, 14, 15),
        (0.5, 7, 3, 4),
        (1e-9, 50, 1, 1),
        (0.999, 10, 9, 10),
        (1.0, 10, 10, 10),
    ],
)
def test_fractions_of_the_filters(ratio: float, filters: int, per_step: int, target: int) -> None:
    assert step_budget(space(filters), ratio) == per_step
    assert target_budget(filters, ratio) == target
    for other in ("macs_reduction", "params_reduction"):  # no step is left over for a few of them
        assert step_budget(space(filters, other), ratio) == target_budget(space(filters, other).total, ratio) == target


@given(target=st.integers(1, 60), per_step=st.integers(1, 25))
def test_an_episode_that_removes_what_it_should(target: int, per_step: int) -> None:
    schedule = Schedule(target, per_step)
    left, steps, removed = target, 0, 0
    expected_steps = sum(1 for i in range(target) if i % per_step == 0)
    assert schedule.steps == expected_steps
    while not schedule.is_over(removed):
        assert schedule.budget(removed, steps) == min(per_step, left)
        assert schedule.goal(steps) == removed + min(per_step, left)
        assert schedule.is_last(steps) is (left <= per_step)
        assert schedule.steps_left(removed, steps) == expected_steps - steps
        assert schedule.progress(removed) == removed / target
        removed, left, steps = removed + min(per_step, left), max(0, left - per_step), steps + 1
    assert (removed, steps) == (target, expected_steps)
    assert schedule.steps_left(removed, steps) == 0
    assert schedule.progress(removed) == schedule.progress(removed + 1) == 1
    assert schedule.is_over(removed + 1)
    assert not schedule.is_over(removed - 1)


def test_a_step_makes_up_for_those_before() -> None:
    schedule = Schedule(20, 6)
    assert schedule.budget(6, 1) == 6
    assert schedule.budget(4, 1) == 8  # two filters were missing
    assert schedule.budget(7, 1) == 5  # one was too many
    assert schedule.budget(13, 1) == 1  # at least one goes
    assert schedule.budget(12, 1) == 1
    assert schedule.budget(15, 3) == 5  # never beyond the target


def test_steps_left_is_never_negative() -> None:
    """From any state, by taking the steps: each goes to the next multiple of six, the last to 20, and removes a filter at least.
    An episode that is ahead of its plan may end earlier than that says."""
    schedule = Schedule(20, 6)
    for removed, steps in product(range(25), range(10)):
        gone, after = removed, steps
        while gone < 20:
            after += 1
            gone = min(20, max(gone + 1, 6 * after))
        left = schedule.steps_left(removed, steps)
        assert left == after - steps or (removed > 6 * steps and 0 < after - steps < left)


@pytest.mark.parametrize("rounding", ["largest_remainder", "paper", "carry"])
def test_the_last_step_is_exact(rounding: str) -> None:
    assert [Schedule(20, 6, rounding).rounding_at(steps) for steps in range(5)] == [rounding] * 3 + ["largest_remainder"] * 2
    assert Schedule(18, 6, rounding).rounding_at(2) == "largest_remainder"
    assert Schedule(18, 6, rounding).rounding_at(1) == rounding
    assert Schedule(5, 6, rounding).rounding_at(0) == "largest_remainder"
