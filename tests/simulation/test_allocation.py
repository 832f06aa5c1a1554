"""From a distribution to whole units: what every rounding promises, for any architecture, action and budget."""

from __future__ import annotations

from fractions import Fraction
from itertools import combinations, permutations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from prune_gym import Architecture, ChannelGraph, ChannelGroup, allocate
from prune_gym.graph.cost import CostModel
from prune_gym.graph.program import Program
from prune_gym.simulation.allocation import ROUNDINGS, complete, distribution, shares
from prune_gym.simulation.space import PruningSpace


def architecture(widths: list[int], filters_per_unit: list[int], kept: list[int] | None = None) -> Architecture:
    """An architecture of a network that consists of nothing but groups."""
    groups = tuple(
        ChannelGroup(f"layer{i}", width, (f"layer{i}",), filters, False)
        for i, (width, filters) in enumerate(zip(widths, filters_per_unit, strict=True))
    )
    cost_model = CostModel(*[np.zeros((1, 1))] * 5)
    graph = ChannelGraph(groups, (), Program(1, (), None), {}, {}, {}, cost_model)
    return graph.architecture([np.arange(w) < k for w, k in zip(widths, kept or widths, strict=True)])


@st.composite
def cases(
    draw: st.DrawFn, distinct: bool = False, filters_per_unit: tuple[int, int] = (1, 4)
) -> tuple[Architecture, np.ndarray, int]:
    """An architecture with something left to remove, an action and a budget that can be met."""
    n = draw(st.integers(1, 6))
    widths = draw(st.lists(st.integers(1, 12), min_size=n, max_size=n))
    kept = [draw(st.integers(1, width)) for width in widths]
    assume(max(kept) > 1)
    filters = draw(st.lists(st.integers(*filters_per_unit), min_size=n, max_size=n))
    action = draw(st.lists(st.integers(0, 1000), min_size=n, max_size=n, unique=distinct))
    room = sum((k - 1) * f for k, f in zip(kept, filters, strict=True))
    return architecture(widths, filters, kept), np.array(action, np.float64), draw(st.integers(1, min(room, 40)))


def capacity(at: Architecture) -> np.ndarray:
    return at.widths - 1


# ------------------------------------------------------------------------------------------------ every rounding


@pytest.mark.parametrize("rounding", ROUNDINGS)
@given(case=cases())
def test_some_unit_goes_and_one_stays_in_every_group(rounding: str, case: tuple[Architecture, np.ndarray, int]) -> None:
    at, action, budget = case
    counts = allocate(action, at, budget, rounding)
    assert counts.dtype == np.int64
    assert counts.shape == action.shape
    assert (counts >= 0).all()
    assert (counts <= capacity(at)).all()
    assert counts.sum() >= 1


@pytest.mark.parametrize("rounding", ROUNDINGS)
@given(case=cases(), exponent=st.sampled_from([-1000, -60, 1, 60, 1000]))
def test_only_the_ratios_of_an_action_count(rounding: str, case: tuple[Architecture, np.ndarray, int], exponent: int) -> None:
    at, action, budget = case
    np.testing.assert_array_equal(
        allocate(np.ldexp(action, exponent), at, budget, rounding), allocate(action, at, budget, rounding)
    )


@pytest.mark.parametrize("rounding", ROUNDINGS)
@given(case=cases())
def test_zeros_stand_for_the_filters_of_the_original_network(rounding: str, case: tuple[Architecture, np.ndarray, int]) -> None:
    at, action, budget = case
    filters = at.graph.widths * at.graph.filters_per_unit
    np.testing.assert_allclose(distribution(0 * action, filters), filters / filters.sum(), rtol=1e-12)
    np.testing.assert_array_equal(allocate(0 * action, at, budget, rounding), allocate(filters, at, budget, rounding))


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize(
    ("action", "like"),
    [
        ([1.7e308, 1.7e308, 1.7e308], [1, 1, 1]),
        ([1.7e308, 5e-324, 0], [1, 0, 0]),
        ([5e-324, 0, 5e-324], [1, 0, 1]),
        ([-0.0, 0.0, 0.0], [0, 0, 0]),
        ([True, 1, 0], [1, 1, 0]),
    ],
)
def test_numbers_at_the_ends_of_the_range(rounding: str, action: list[float], like: list[float]) -> None:
    at = architecture([20, 20, 30], [1, 2, 1])
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        found = allocate(np.array(action, np.float64), at, 12, rounding)
    np.testing.assert_array_equal(found, allocate(np.array(like), at, 12, rounding))


@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_inputs_are_left_alone(rounding: str) -> None:
    at, action, carry = architecture([9, 9], [1, 2]), np.array([2.0, 3.0]), np.array([0.25, -0.5])
    allocate(action, at, 5, rounding, None if rounding == "paper" else carry)
    assert action.tolist() == [2.0, 3.0]
    assert carry.tolist() == [0.25, -0.5]
    assert at.widths.tolist() == [9, 9]


# ------------------------------------------------------------------------------------------------ shares


@given(case=cases())
def test_shares_hold_the_budget(case: tuple[Architecture, np.ndarray, int]) -> None:
    at, action, budget = case
    wanted = shares(action, at, budget)
    assert (wanted >= 0).all()
    assert (wanted <= capacity(at)).all()
    assert wanted @ at.graph.filters_per_unit == pytest.approx(budget, abs=1e-6)


@given(case=cases())
def test_shares_of_groups_with_room_are_as_the_action(case: tuple[Architecture, np.ndarray, int]) -> None:
    at, action, budget = case
    wanted, room = shares(action, at, budget), capacity(at)
    assume(action.any())
    weights = action / action.sum()
    with_room = wanted < room - 1e-9
    if not with_room.any() or not (with_room & (weights > 0)).any():
        return  # all that the action names are exhausted
    filters = wanted * at.graph.filters_per_unit
    per_weight = filters[with_room & (weights > 0)] / weights[with_room & (weights > 0)]
    np.testing.assert_allclose(per_weight, per_weight[0], rtol=1e-6)
    assert (filters[with_room & (weights == 0)] == 0).all()
    assert (filters[~with_room] <= weights[~with_room] * per_weight[0] + 1e-6).all()  # an exhausted one wanted no less


def test_shares_by_hand() -> None:
    at = architecture([10, 3, 10], [1, 1, 2])
    np.testing.assert_allclose(shares(np.array([1, 0, 1]), at, 6), [3, 0, 1.5])
    np.testing.assert_allclose(shares(np.array([1, 4, 1]), at, 6), [2, 2, 1])  # the second has two to give, not four
    np.testing.assert_allclose(shares(np.array([0, 1, 0]), at, 5), [1, 2, 1])  # the rest as the original widths
    np.testing.assert_allclose(shares(np.array([1, 0, 1]), at, 6, np.array([0.5, 0.0, -0.25])), [3.5, 0, 1.25])


# ------------------------------------------------------------------------------------------------ largest remainder


@given(case=cases())
def test_the_total_is_the_budget_wherever_single_filters_are_left(case: tuple[Architecture, np.ndarray, int]) -> None:
    at, action, budget = case
    counts = allocate(action, at, budget)
    filters, room = at.graph.filters_per_unit, capacity(at) - counts
    total = int(counts @ filters)
    if total > budget:
        assert counts.sum() == 1  # the one unit that must go
        assert (filters > budget)[capacity(at) > 0].all()
    elif total < budget:
        assert (filters > budget - total)[room > 0].all()  # no unit that is left would fit


@given(case=cases(filters_per_unit=(1, 1)))
def test_with_single_filters_no_count_is_a_unit_off_its_share(case: tuple[Architecture, np.ndarray, int]) -> None:
    at, action, budget = case
    counts, wanted = allocate(action, at, budget), shares(action, at, budget)
    assert counts.sum() == budget
    assert (np.abs(counts - wanted) < 1).all()
    rounded_up = wanted[counts > wanted] % 1
    rounded_down = wanted[(counts < wanted)] % 1
    if len(rounded_up) and len(rounded_down):
        assert rounded_up.min() >= rounded_down.max() - 1e-6


@given(case=cases(distinct=True), seed=st.integers(0, 1000))
def test_the_order_of_the_groups_does_not_matter(case: tuple[Architecture, np.ndarray, int], seed: int) -> None:
    at, action, budget = case
    order = np.random.default_rng(seed).permutation(len(action))
    graph = at.graph
    permuted = architecture(graph.widths[order].tolist(), graph.filters_per_unit[order].tolist(), at.widths[order].tolist())
    assume(shares(action, at, budget)[action == 0].sum() == 0)  # else it is the widths that count, and they may be equal
    np.testing.assert_array_equal(allocate(action[order], permuted, budget), allocate(action, at, budget)[order])


@pytest.mark.parametrize("filters", [(1, 1, 1), (1, 2, 3)])
def test_nor_does_it_where_remainders_are_equal(filters: tuple[int, int, int]) -> None:
    """All actions of three different small numbers, among which there are many ties."""
    orders = [list(order) for order in permutations(range(3))]
    networks = [architecture([9, 9, 9], [filters[i] for i in order]) for order in orders]
    for action in combinations(range(9), 3):
        for budget in (1, 2, 4, 5, 7):
            first, *others = (
                allocate(np.array([action[i] for i in order]), at, budget)[np.argsort(order)].tolist()
                for order, at in zip(orders, networks, strict=True)
            )
            assert others == [first] * 5, (action, budget)


def test_of_equal_remainders_the_larger_share_is_rounded_up() -> None:
    assert allocate(np.array([1, 3]), architecture([9, 9], [1, 1]), 2).tolist() == [0, 2]
    assert allocate(np.array([3, 1]), architecture([9, 9], [1, 1]), 2).tolist() == [2, 0]
    assert allocate(np.array([1, 2]), architecture([9, 9], [2, 4]), 1).tolist() == [0, 1]  # the unit that must go
    assert allocate(np.array([2, 1]), architecture([9, 9], [4, 2]), 1).tolist() == [1, 0]


def test_remainders_that_differ_by_rounding_alone_are_equal() -> None:
    """24 filters by (7, 9) are 10.5 and 13.5, though not in floating point."""
    assert allocate(np.array([7, 9]), architecture([20, 20], [1, 1]), 24).tolist() == [10, 14]
    assert allocate(np.array([9, 7]), architecture([20, 20], [1, 1]), 24).tolist() == [14, 10]
    assert allocate(np.array([9, 4, 1, 7]), architecture([20] * 4, [1] * 4), 28).tolist() == [12, 5, 1, 10]


def test_largest_remainder_by_hand() -> None:
    assert allocate(np.array([1, 1, 1]), architecture([9, 9, 9], [1, 1, 1]), 4).tolist() == [2, 1, 1]
    assert allocate(np.array([5, 3, 2]), architecture([9, 9, 9], [1, 1, 1]), 4).tolist() == [2, 1, 1]  # 2.0, 1.2, 0.8
    assert allocate(np.array([5, 3, 2]), architecture([9, 9, 9], [2, 1, 1]), 4).tolist() == [1, 1, 1]  # 1.0, 1.2, 0.8
    assert allocate(np.array([5, 3, 2]), architecture([2, 9, 9], [1, 1, 1]), 4).tolist() == [1, 2, 1]  # at most 1, 1.8, 1.2
    assert allocate(np.array([0, 1]), architecture([9, 9], [1, 5]), 3).tolist() == [3, 0]  # the second costs too much
    assert allocate(np.array([0, 1]), architecture([9, 9], [4, 5]), 3).tolist() == [0, 1]  # but something has to go


# ------------------------------------------------------------------------------------------------ the paper's


@given(case=cases())
def test_paper_takes_the_nudged_budget_that_comes_nearest(case: tuple[Architecture, np.ndarray, int]) -> None:
    at, action, budget = case
    assume(action.any())
    exact = [Fraction(int(a)) / int(action.sum()) for a in action]
    best: tuple[int, int, list[int]] | None = None
    for nudged in range(2 * budget + 1):
        counts = []
        for a, f, most in zip(exact, at.graph.filters_per_unit.tolist(), capacity(at).tolist(), strict=True):
            share = a * nudged / f
            assume(share.denominator != 2)  # a half is rounded up or down, as floating point has it
            counts.append(min(round(share), most))
        miss = abs(sum(c * f for c, f in zip(counts, at.graph.filters_per_unit.tolist(), strict=True)) - budget)
        if best is None or (miss, abs(nudged - budget)) < best[:2]:
            best = miss, abs(nudged - budget), counts
    assert best is not None
    found = allocate(action, at, budget, "paper")
    if any(best[2]):
        assert found.tolist() == best[2]
    else:  # the one unit that must go is of the group with the largest share of those that have one
        assert found.sum() == 1
        assert action[found.argmax()] == action[capacity(at) > 0].max()


def test_paper_by_hand() -> None:
    wide = architecture([99] * 4, [1] * 4)
    assert allocate(np.array([4, 3, 2, 1]), wide, 10, "paper").tolist() == [4, 3, 2, 1]
    # 2.5 each rounds to 2: the total jumps from 8 to 12, and 12 is reached first at 11
    assert allocate(np.array([1, 1, 1, 1]), wide, 10, "paper").tolist() == [2, 2, 2, 2]
    # with a budget of 11 the next step up is nearer
    assert allocate(np.array([1, 1, 1, 1]), wide, 11, "paper").tolist() == [3, 3, 3, 3]
    # what an exhausted group would have to give is dropped
    assert allocate(np.array([1, 0]), architecture([3, 99], [1, 1]), 10, "paper").tolist() == [2, 0]
    assert allocate(np.array([1, 0]), architecture([1, 99], [1, 1]), 10, "paper").tolist() == [0, 1]


# ------------------------------------------------------------------------------------------------ carry


@st.composite
def journeys(draw: st.DrawFn) -> tuple[Architecture, np.ndarray, int]:
    """A network that is not exhausted soon, an action for each of 30 steps, and a budget that pays for any unit."""
    n = draw(st.integers(2, 6))
    filters = draw(st.lists(st.integers(1, draw(st.sampled_from([1, 4]))), min_size=n, max_size=n))
    budget = draw(st.integers(max(filters), 12))
    rows = draw(st.lists(st.lists(st.integers(0, 9), min_size=n, max_size=n).filter(any), min_size=1, max_size=30))
    return architecture([500] * n, filters), np.resize(np.array(rows, np.float64), (30, n)), budget


@given(journey=journeys())
def test_carry_loses_nothing_in_the_long_run(journey: tuple[Architecture, np.ndarray, int]) -> None:
    at, actions, budget = journey
    filters = at.graph.filters_per_unit
    exact, removed, carry = np.zeros(len(filters)), np.zeros(len(filters), np.int64), np.zeros(len(filters))
    for steps, action in enumerate(actions, 1):
        owed = round(float(carry @ filters))
        assert 0 <= owed < filters.max()
        counts = allocate(action, at, budget + owed, "carry", carry)
        carry = shares(action, at, budget + owed, carry) - counts
        exact += action / action.sum() * budget / filters
        removed += counts
        at = at.graph.architecture([np.arange(500) < width for width in at.widths - counts])
        np.testing.assert_allclose(exact - removed, carry, atol=1e-6)
        assert (removed < exact + 1).all()
        assert (exact < removed + (1 if filters.max() == 1 else 2)).all()  # a dear unit may have to wait for a turn
        assert 0 <= steps * budget - removed @ filters < filters.max()


def test_carry_gives_every_group_its_turn() -> None:
    """Ten equal groups and a budget of four: nothing may be rounded to zero for ever, nor come all at once."""
    at, carry, total = architecture([20] * 10, [1] * 10), np.zeros(10), np.zeros(10, np.int64)
    for _ in range(10):
        counts = allocate(np.ones(10), at, 4, "carry", carry)
        carry = shares(np.ones(10), at, 4, carry) - counts
        assert counts.sum() == 4
        total += counts
    assert total.tolist() == [4] * 10


def test_carry_never_asks_for_less_than_nothing() -> None:
    at = architecture([9, 9], [3, 3])
    counts = allocate(np.array([1, 1]), at, 1, "carry", np.array([-1.5, 1.1]))
    assert counts.tolist() == [0, 1]
    assert allocate(np.array([1, 1]), at, 1, "carry", np.array([-1.5, -1.2])).sum() == 1


# ------------------------------------------------------------------------------------------------ errors


@pytest.mark.parametrize(
    ("action", "message"),
    [
        ([1.0, 2.0], r"action: expected one number for each of 3 groups, shape \(3,\); got shape \(2,\)\."),
        ([[1.0, 2.0, 3.0]], r"action: .*got shape \(1, 3\)"),
        (1.0, r"action: .*got shape \(\)"),
        ([1.0, np.nan, 2.0], r"action: expected finite numbers, got nan for group 1\."),
        ([1.0, 2.0, np.inf], r"action: expected finite numbers, got inf for group 2\."),
        ([1.0, 2.0, -0.5], r"action: expected numbers >= 0, got -0\.5 for group 2\."),
        (np.array([1, 2, None], object), r"action: expected real numbers, got dtype object\."),
        (["1", "2", "3"], r"action: expected real numbers, got dtype <U1\."),
        ([1j, 2, 3], r"action: expected real numbers, got dtype complex128\."),
        ([True, False, True], r"action: expected real numbers, got dtype bool\."),
    ],
)
@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_bad_actions(rounding: str, action: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        allocate(action, architecture([5, 5, 5], [1, 1, 2]), 3, rounding)  # type: ignore[arg-type]


@pytest.mark.parametrize("budget", [0, -3])
def test_bad_budget(budget: int) -> None:
    with pytest.raises(ValueError, match=rf"budget: expected an integer >= 1, got {budget}\."):
        allocate(np.ones(2), architecture([5, 5], [1, 1]), budget)


def test_bad_rounding() -> None:
    with pytest.raises(ValueError, match=r"rounding: expected one of .*carry; got 'pappr'\. Did you mean 'paper'\?"):
        allocate(np.ones(2), architecture([5, 5], [1, 1]), 3, "pappr")


def test_nothing_left() -> None:
    with pytest.raises(ValueError, match="every group is at its least width; nothing is left to remove"):
        allocate(np.ones(2), architecture([5, 5], [1, 1], [1, 1]), 3)


@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_a_budget_that_cannot_be_met(rounding: str) -> None:
    at = architecture([5, 9], [1, 3], [4, 3])  # 3 * 1 + 2 * 3 filters can go
    assert allocate(np.ones(2), at, 9, rounding).tolist() == [3, 2] or rounding == "paper"
    for budget in (10, 10**9):
        with pytest.raises(ValueError, match=rf"budget: expected at most 9 filters, .* got {budget}\."):
            allocate(np.ones(2), at, budget, rounding)


def test_paper_carries_nothing_over() -> None:
    at = architecture([5, 5], [1, 1])
    assert allocate(np.ones(2), at, 2, "paper", np.zeros(2)).tolist() == [1, 1]
    with pytest.raises(ValueError, match=r"carry: expected None with rounding 'paper'"):
        allocate(np.ones(2), at, 2, "paper", np.array([0.5, 0.0]))


def test_bad_carry() -> None:
    for carry in (np.zeros(3), np.array([0.0, np.nan]), 0.5):
        with pytest.raises(ValueError, match=r"carry: expected finite numbers of shape \(2,\)"):
            allocate(np.ones(2), architecture([5, 5], [1, 1]), 2, "carry", carry)  # type: ignore[arg-type]


def test_something_else_than_an_architecture() -> None:
    with pytest.raises(TypeError, match="architecture: expected an Architecture, got list"):
        allocate(np.ones(2), [5, 5], 2)  # type: ignore[arg-type]


def test_what_is_owed_beyond_the_capacity_goes_to_others() -> None:
    at = architecture([9, 9, 9], [1, 1, 1], [2, 9, 9])  # the first has one unit to give, and five are owed
    carry = np.array([5.0, 0.5, 0.0])
    np.testing.assert_allclose(shares(np.array([1, 1, 3]), at, 4, carry), [1, 0.5 + 2.5 / 4, 7.5 / 4])
    for rounding in ("largest_remainder", "carry"):
        counts = allocate(np.array([1, 1, 3]), at, 4, rounding, carry)
        assert counts.tolist() == [1, 1, 2]


def test_carry_gives_no_group_more_than_its_share_rounded_up() -> None:
    at = architecture([9, 9], [3, 2])
    # shares of 5 filters by (1, 0): 5/3 of the first, none of the second; 2 filters are left for which the first is too dear
    assert allocate(np.array([1, 0]), at, 5, "largest_remainder").tolist() == [1, 1]
    assert allocate(np.array([1, 0]), at, 5, "carry").tolist() == [1, 0]


def test_the_nearest_of_two_equally_good_nudged_budgets() -> None:
    """The totals 8 and 12 miss 10 by the same; 10 itself gives 8, so no nudge is better."""
    wide = architecture([99] * 4, [1] * 4)
    assert allocate(np.ones(4), wide, 10, "paper").sum() == 8
    assert allocate(np.ones(4), wide, 9, "paper").sum() == 8
    assert allocate(np.array([1, 1, 0, 0]), wide, 5, "paper").tolist() == [2, 2, 0, 0]


# ------------------------------------------------------------------------------------------------ the last step


def completed(counts: list[int], goal: int, widths: list[int], filters_per_unit: list[int]) -> list[int]:
    """Units that a step from the original network removes, completed."""
    before = np.array(widths)
    after = complete(before - counts, before, goal, PruningSpace(architecture(widths, filters_per_unit).graph))
    return (before - after).tolist()


def test_completion_goes_beyond_the_goal_by_as_little_as_it_can() -> None:
    network = [6, 3, 6], [4, 2, 3]
    assert completed([1, 0, 0], 5, *network) == [1, 1, 0]
    assert completed([1, 1, 0], 7, *network) == [1, 2, 0]
    assert completed([1, 2, 0], 9, *network) == [1, 1, 1]  # the second has no more to give; with the third, it has one to spare
    assert completed([1, 2, 0], 10, *network) == [1, 2, 1]
    assert completed([0, 0, 0], 8, *network) == [2, 0, 0]
    assert completed([1, 1, 0], 6, *network) == [1, 1, 0]  # met already
    assert completed([1, 1, 1], 2, *network) == [0, 1, 0]  # more than met


def test_completion_gives_back_what_the_step_took_and_no_more() -> None:
    """The first group lost a unit before."""
    space = PruningSpace(architecture([6, 3, 6], [4, 2, 3]).graph)
    assert complete(np.array([4, 2, 6]), np.array([5, 3, 6]), 1, space).tolist() == [5, 3, 6]
    assert complete(np.array([4, 2, 6]), np.array([5, 3, 6]), 5, space).tolist() == [5, 2, 6]


def test_completion_leaves_its_arguments_alone_and_knows_its_limits() -> None:
    space, before, after = PruningSpace(architecture([2, 3], [2, 3]).graph), np.array([2, 3]), np.array([2, 3])
    assert complete(after, before, 8, space).tolist() == [1, 1]
    assert after.tolist() == before.tolist() == [2, 3]
    with pytest.raises(ValueError, match="goal: expected at most 8 filters, as many as can be removed, got 9"):
        complete(after, before, 9, space)
