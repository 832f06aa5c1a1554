"""From a sparsity distribution to whole blocks, for groups whose widths are cut into few levels: no roots and no rounding.

Block by block, every group that has blocks left is owed its share of one, and the group that is owed most pays one, the first of
equal ones, until the goal is reached; at least one goes. So in the long run groups lose blocks in the proportion that actions ask
for, and what is carried over says what they owe.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np


def fractions_of(actions: np.ndarray, group_filters: np.ndarray) -> np.ndarray:
    """What groups should lose in proportion, as fractions of their filters, for actions (..., groups): at most 1."""
    fractions = actions / group_filters
    return fractions / np.maximum(fractions.max(-1, keepdims=True), np.finfo(np.float64).tiny)


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
    removed: Callable[[np.ndarray], np.ndarray],
) -> tuple[np.ndarray, np.ndarray]:
    """:func:`take_blocks` for N states at once, to the bit: arrays (N, groups) and goals (N,), and a function of levels (N,
    groups). Levels are int64, all else is float64."""
    after, owed_after, levels, rows = levels.copy(), carry.copy(), levels.copy(), np.arange(len(levels))
    goals = np.minimum(goals, removed(np.zeros_like(levels)))  # where no block is left
    while len(rows):  # those that have not met their goals yet
        free = levels > 0
        wanted = fractions * free
        total = wanted.cumsum(1)[:, -1:]  # which adds one after the other, as the loop above
        if not total.all():
            wanted = np.where(total == 0, free, wanted)
            total = wanted.cumsum(1)[:, -1:]
        owed = carry + wanted / total
        place = np.arange(len(rows)), np.where(free, owed, -np.inf).argmax(1)
        owed[place] -= 1
        levels[place] -= 1
        left = removed(levels) < goals
        met = ~left
        after[rows[met]], owed_after[rows[met]] = levels[met], owed[met]
        rows, levels, carry, fractions, goals = rows[left], levels[left], owed[left], fractions[left], goals[left]
    return after, owed_after
