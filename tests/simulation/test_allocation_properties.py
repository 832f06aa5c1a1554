"""Ties and nudges of allocation: the rules that decide between equally good roundings, against slow re-statements."""

from __future__ import annotations

import numpy as np
from hypothesis import assume, given
from hypothesis import strategies as st

from prune_gym import Architecture, ChannelGraph, ChannelGroup, allocate
from prune_gym.graph.cost import CostModel
from prune_gym.graph.program import Program


def architecture(widths: list[int], filters_per_unit: list[int]) -> Architecture:
    """The full architecture of a network that consists of nothing but groups."""
    groups = tuple(
        ChannelGroup(f"layer{i}", width, (f"layer{i}",), filters, False)
        for i, (width, filters) in enumerate(zip(widths, filters_per_unit, strict=True))
    )
    return ChannelGraph(groups, (), Program(1, (), None), {}, {}, {}, CostModel(*[np.zeros((1, 1))] * 5)).full()


@st.composite
def cases(draw: st.DrawFn) -> tuple[list[int], list[int], list[int], int]:
    """Widths, filters per unit, an action, and a budget that can be met."""
    n = draw(st.integers(1, 5))
    widths = draw(st.lists(st.integers(1, 9), min_size=n, max_size=n))
    filters = draw(st.lists(st.integers(1, 4), min_size=n, max_size=n))
    action = draw(st.lists(st.integers(1, 20), min_size=n, max_size=n))
    most = sum((width - 1) * f for width, f in zip(widths, filters, strict=True))
    assume(most > 0)
    return widths, filters, action, draw(st.integers(1, most))


@given(case=cases())
def test_the_paper_takes_the_nearest_nudge_to_the_nearest_total(case: tuple[list[int], list[int], list[int], int]) -> None:
    widths, filters, action, budget = case
    shares = np.array(action, np.float64) / max(action)
    shares = shares / shares.sum()

    def counts(nudged: int) -> list[int]:
        wanted = [round(share * nudged / f) for share, f in zip(shares.tolist(), filters, strict=True)]
        return [min(count, width - 1) for count, width in zip(wanted, widths, strict=True)]

    def preference(nudged: int) -> tuple[int, int, int]:
        total = sum(count * f for count, f in zip(counts(nudged), filters, strict=True))
        return abs(total - budget), abs(nudged - budget), nudged

    expected = counts(min(range(2 * budget + 1), key=preference))
    assume(any(expected))  # otherwise one unit goes in any case
    assert allocate(np.array(action), architecture(widths, filters), budget, "paper").tolist() == expected


def test_of_equal_remainders_the_group_with_more_filters_rounds_up() -> None:
    """The shares are 2.5, 3 and 0.5 filters, which are 2.5, 1.5 and 0.5 units; two filters are left after rounding down."""
    for order in ([0, 1, 2], [2, 1, 0], [1, 2, 0]):
        action, filters = np.array([2.5, 3.0, 0.5])[order], np.array([1, 2, 1])[order]
        at = architecture([9, 9, 9], filters.tolist())
        assert allocate(action, at, 6).tolist() == np.array([2, 2, 0])[order].tolist()


def test_if_no_unit_fits_into_the_budget_the_largest_claim_loses_one() -> None:
    """One unit goes in any case: that of the largest share in units, of equal shares that with more filters."""
    at = architecture([4, 4, 4], [3, 2, 2])
    assert allocate(np.array([3.0, 1.0, 1.0]), at, 1).tolist() == [1, 0, 0]
    assert allocate(np.array([3.0, 2.0, 2.0]), at, 1).tolist() == [1, 0, 0]  # all claims are equal
    assert allocate(np.array([2.0, 2.0, 3.0]), at, 1).tolist() == [0, 0, 1]
