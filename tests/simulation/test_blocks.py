"""Whole blocks from a distribution: the rule for one state against the rule for many, and what both promise."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from prune_gym.simulation.blocks import fractions_of, take_blocks, take_many_blocks

COSTS = np.array([5, 1, 3, 2, 7, 1, 4, 2, 6])  # of a block of each group
FULL = np.array([4, 2, 3, 1, 4, 4, 2, 3, 5])
FILTERS = np.array([8, 16, 24, 4, 32, 64, 2, 9, 10])


def removed(levels: np.ndarray) -> np.ndarray:
    return (FULL - levels) @ COSTS


@st.composite
def cases(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Actions, levels, carry and goals of some states."""
    n, groups = draw(st.integers(1, 5)), draw(st.integers(1, 9))
    number = st.one_of(st.just(0.0), st.floats(0, 1), st.sampled_from([1e-300, 1e300]))
    actions = [draw(st.lists(number, min_size=groups, max_size=groups)) for _ in range(n)]
    levels = [[draw(st.integers(0, int(most))) for most in FULL[:groups]] for _ in range(n)]
    for row in levels:
        row[0] = max(1, row[0])
    carry = [draw(st.lists(st.floats(-1, 1), min_size=groups, max_size=groups)) for _ in range(n)]
    goals = draw(st.lists(st.integers(0, 90), min_size=n, max_size=n))
    return np.array(actions), np.array(levels, np.int64), np.array(carry), np.array(goals)


@given(cases())
def test_many_states_at_once_to_the_bit(case: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]) -> None:
    actions, levels, carry, goals = case
    groups = actions.shape[1]
    fractions = fractions_of(actions, FILTERS[:groups])

    def gone(levels: np.ndarray) -> np.ndarray:
        return (FULL[:groups] - levels) @ COSTS[:groups]

    strides = np.array([int(np.prod(FULL[g + 1 : groups] + 1)) for g in range(groups)])
    every = np.stack(np.unravel_index(np.arange(int(np.prod(FULL[:groups] + 1))), FULL[:groups] + 1), -1)
    numbers, owed = take_many_blocks(fractions, every, carry, goals, levels @ strides, strides, gone(every))
    after = every[numbers]
    for i in range(len(actions)):
        one = fractions_of(actions[i], FILTERS[:groups])
        assert (one == fractions[i]).all()
        single = take_blocks(
            one.tolist(), levels[i].tolist(), carry[i].tolist(), int(goals[i]), lambda levels: int(gone(np.array(levels)))
        )
        assert (after[i].tolist(), owed[i].tolist()) == single
        # at least one block goes, none more than the goal needs or than there are, and nothing is lost of what is owed
        assert (after[i] <= levels[i]).all()
        assert (after[i] >= 0).all()
        taken = levels[i] - after[i]
        assert taken.sum() >= 1
        assert gone(after[i]) >= goals[i] or not after[i].any()
        if taken.sum() > 1:
            assert any(gone(after[i] + np.eye(groups, dtype=int)[g]) < goals[i] for g in np.flatnonzero(taken))
        np.testing.assert_allclose(owed[i].sum(), carry[i].sum(), atol=1e-9)


@given(st.lists(st.floats(0.01, 1), min_size=9, max_size=9))
def test_in_the_long_run_groups_lose_what_the_action_asks_for(action: list[float]) -> None:
    share = fractions_of(np.array(action), FILTERS)
    levels, carry = [1000] * 9, [0.0] * 9
    for _ in range(30):
        levels, carry = take_blocks(share.tolist(), levels, carry, 0, lambda levels: 1)  # one block a step
    lost = 1000 - np.array(levels)
    assert lost.sum() == 30
    assert np.abs(lost - 30 * share / share.sum()).max() < len(action)
    assert np.abs(np.array(carry)).max() < len(action)


def test_groups_without_blocks_and_actions_of_zeros() -> None:
    def taken(action: list[float], levels: list[int], goal: int) -> list[int]:
        fractions = fractions_of(np.array(action), FILTERS[:3])
        after, _ = take_blocks(fractions.tolist(), levels, [0.0] * 3, goal, lambda levels: int((FULL[:3] - levels) @ COSTS[:3]))
        return [a - b for a, b in zip(levels, after, strict=True)]

    assert taken([1, 0, 0], [4, 2, 3], 11) == [3, 0, 0]
    assert taken([1, 0, 0], [1, 2, 3], 15 + 10) == [1, 2, 1]  # what the action names is used up; then all lose alike
    assert taken([0, 0, 0], [4, 2, 3], 9) == [1, 1, 1]
    assert taken(FILTERS[:3].tolist(), [4, 2, 3], 9) == [1, 1, 1]  # in proportion to the filters: the same fraction
    assert taken([0, 0, 1], [4, 2, 3], 0) == [0, 0, 1]


@given(st.lists(st.integers(1, 300), min_size=9, max_size=9))
def test_uniform_pruning_is_the_same_in_any_precision(filters: list[int]) -> None:
    exact = np.array(filters) / sum(filters)
    for action in (exact, exact.astype(np.float32), (3 * exact / 7).astype(np.float32)):
        assert (fractions_of(action.astype(np.float64), np.array(filters)) == 1).all()
