"""From a sparsity distribution to whole blocks, for groups whose widths are cut into few levels: no roots and no rounding.

Block by block, every group that has blocks left is owed its share of one, and the group that is owed most pays one, the first of
equal ones, until the goal is reached; at least one goes. So in the long run groups lose blocks in the proportion that actions ask
for, and what is carried over says what they owe.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

TINY = np.finfo(np.float64).tiny


def fractions_of(actions: np.ndarray, group_filters: np.ndarray) -> np.ndarray:
    """What groups should lose in proportion, as fractions of their filters, for actions (..., groups): at most 1, in millionths,
    so that fractions which differ by rounding alone, as those of uniform pruning in float32 do, are equal."""
    fractions = actions / group_filters
    fractions /= np.maximum(np.maximum.reduce(fractions, axis=-1, keepdims=True), TINY)
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
    while True:
        wanted = [fraction if level else 0.0 for fraction, level in zip(fractions, left, strict=True)]
        if not any(wanted):
            wanted = [1.0 if level else 0.0 for level in left]
        total = 0.0
        for each in wanted:
            total += each
        owed = [debt + each / total for debt, each in zip(owed, wanted, strict=True)]
        payer = max((group for group, level in enumerate(left) if level), key=owed.__getitem__)
        owed[payer] -= 1
        left[payer] -= 1
        if removed(left) >= goal or not any(left):
            return left, owed


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
        fractions, levels, carry: (N, groups), of the states; levels are integers, all else is float64.
        goals: int64 (N,).
        states: the numbers of the states, int64 (N,); a block of a group makes a difference of ``strides`` (groups,).
        removed: how much is gone in every state, by its number; state 0 has no block left.
    """
    after, owed_after, rows = np.empty_like(states), np.empty_like(carry), np.arange(len(states))
    starts = rows * levels.shape[1]
    states, levels, goals = states.copy(), levels.copy(), np.minimum(goals, removed[0])
    free, settled = levels > 0, carry.copy()  # what groups owe when they have no block left
    owed, wanted = np.where(free, carry, -np.inf), fractions * free
    share = _shares(wanted, owed)
    while len(rows):  # those that have not met their goals yet
        owed += share
        payer = owed.argmax(1)
        place = starts[: len(rows)] + payer
        debts, lost = owed.ravel(), levels.ravel()  # views
        paid, stay = debts[place] - 1, lost[place] - 1
        debts[place], lost[place] = paid, stay
        states -= strides[payer]
        emptied = stay == 0
        (none,) = emptied.nonzero()
        settled[rows[none], payer[none]] = paid[none]
        debts[place[none]], wanted.ravel()[place[none]] = -np.inf, 0
        left = removed[states] < goals
        if not left.all():
            (met,), (left,) = (~left).nonzero(), left.nonzero()
            done = rows[met]
            after[done], owed_after[done] = states[met], owed[met]
            rows, states, goals, emptied = rows[left], states[left], goals[left], emptied[left]
            levels, owed, wanted, share = (array.take(left, 0) for array in (levels, owed, wanted, share))
        if emptied.any():  # shares change with the groups that have blocks left
            (fewer,) = emptied.nonzero()
            share[fewer] = _shares(wanted.take(fewer, 0), owed.take(fewer, 0))
    return after, np.where(np.isneginf(owed_after), settled, owed_after)


def _shares(wanted: np.ndarray, owed: np.ndarray) -> np.ndarray:
    """What groups are owed with every block, (N, groups): in proportion to what they want, which is nothing where no block is
    left; the same for all that have some left, if none of these wants anything."""
    total = wanted.cumsum(1)[:, -1:]  # which adds one after the other, as take_blocks does
    if not total.all():
        wanted = np.where(total == 0, owed > -np.inf, wanted)
        total = wanted.cumsum(1)[:, -1:]
    return wanted / total
