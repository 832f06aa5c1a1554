"""From a sparsity distribution to whole blocks, for groups whose widths are cut into few levels: no roots and no rounding.

Block by block, every group that has blocks left is owed its share of one, and the group that is owed most pays one, the first of
equal ones, until the goal is reached; at least one goes. So in the long run groups lose blocks in the proportion that actions ask
for, and what is carried over says what they owe.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from math import inf
from operator import add

import numpy as np

TINY = np.finfo(np.float64).tiny


def fractions_of(actions: np.ndarray, group_filters: np.ndarray) -> np.ndarray:
    """What groups should lose in proportion, as fractions of their filters, for actions (..., groups): at most 1, in millionths,
    so that fractions which differ by rounding alone, as those of uniform pruning in float32 do, are equal."""
    fractions = actions / group_filters
    largest = np.maximum.reduce(fractions.T.copy()).T  # faster than fractions.max(-1) for many actions
    fractions /= np.maximum(largest, TINY)[..., None]
    return np.rint(fractions * 1e6) / 1e6


def take_blocks(
    fractions: Sequence[float],
    levels: Sequence[int],
    carry: Sequence[float],
    goal: int,
    removed: Callable[[list[int]], int],
) -> tuple[list[int], list[float]]:
    """One pruning step: the levels and the carry after it.

    Args:
        fractions: what groups should lose in proportion, see :func:`fractions_of`. All zeros, or none for a group that has blocks
            left, mean the same for all.
        levels: blocks that every group can still lose, at least one of them.
        carry: blocks that groups owe; negative where they lost more than they should.
        goal: how much is to be gone after the step.
        removed: says how much is gone at levels.
    """
    left, owed = list(levels), list(carry)
    shares = _shares(fractions, left)
    while True:
        owed = [debt + share for debt, share in zip(owed, shares, strict=True)]
        payable = [debt if level else -inf for debt, level in zip(owed, left, strict=True)]
        payer = payable.index(max(payable))
        owed[payer] -= 1
        left[payer] -= 1
        if removed(left) >= goal or not any(left):
            return left, owed
        if not left[payer]:
            shares = _shares(fractions, left)


def _shares(fractions: Sequence[float], left: Sequence[int]) -> list[float]:
    """What groups with so many blocks left are owed with every block that goes."""
    wanted = [fraction if level else 0.0 for fraction, level in zip(fractions, left, strict=True)]
    if not any(wanted):
        wanted = [1.0 if level else 0.0 for level in left]
    total = reduce(add, wanted)  # one after the other, to the bit; sum() of Python 3.12 rounds less
    return [each / total for each in wanted]


def take_many_blocks(
    fractions: np.ndarray,
    levels: np.ndarray,
    carry: np.ndarray,
    goals: np.ndarray,
    states: np.ndarray,
    strides: np.ndarray,
    removed: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """:func:`take_blocks` for N states at once, to the bit; gives the numbers of the states after it, int64 (N,), and the carry.

    Args:
        fractions, carry: float64 (N, groups).
        levels: integers (all states, groups), of every state by its number.
        goals: int64 (N,).
        states: the numbers of the states, int64 (N,); a block of a group makes a difference of ``strides`` (groups,).
        removed: how much is gone in every state, by its number; state 0 has no block left.
    """
    goals = np.minimum(goals, removed[0])
    states, owed = _take_one(fractions, levels, carry, states, strides)
    (rows,) = (removed[states] < goals).nonzero()
    while len(rows):  # few of the states, after the first block
        after, owed[rows] = _take_one(fractions.take(rows, 0), levels, owed.take(rows, 0), states[rows], strides)
        states[rows] = after
        rows = rows[removed[after] < goals[rows]]
    return states, owed


def _take_one(
    fractions: np.ndarray, levels: np.ndarray, owed: np.ndarray, states: np.ndarray, strides: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """One block of every state: the numbers of the states after it, and what groups owe there."""
    free = levels.take(states, 0) > 0
    wanted = fractions * free
    total = reduce(add, wanted.T)  # one group after the other, as take_blocks adds; wanted.sum(1) has another order
    if not total.all():  # no group that has blocks left is to lose any: all of them do
        wanted = np.where(total[:, None] == 0, free, wanted)
        total = reduce(add, wanted.T)
    owed = owed + wanted / total[:, None]
    payer = np.where(free, owed, -np.inf).argmax(1)
    owed.ravel()[np.arange(0, owed.size, owed.shape[1]) + payer] -= 1  # faster than owed[arange, payer]
    return states - strides[payer], owed
