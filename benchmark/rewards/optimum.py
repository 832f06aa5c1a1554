"""What the best play under a reward leads to, by dynamic programming over every architecture of a table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from prune_gym.simulation.block_world import BlockGame
from prune_gym.simulation.score_functions import of_rows
from prune_gym.simulation.terms import Formula, Named, Number, Operation, Shaping, operation
from prune_gym.simulation.yardsticks import Yardstick

EQUAL = 1e-12  # values that differ by less, as a fraction of the largest, are the same


@dataclass(frozen=True)
class Optimum:
    """The best play under a reward, and what it is worth by the yardstick.

    Attributes:
        values: of every state, float64 (states,), NaN where no game comes to.
        best_actions: whether taking a block of a group is best, bool (states, groups); none where a game is over.
        ends: the states that best play ends in; several, where moves are equally good.
        worth: the yardstick of each of these ends, float64.
        regret: how much less the worst of them is worth than the best network at the target, in the yardstick's unit.
        steps: the fewest and the most moves of a best play.
    """

    values: np.ndarray
    best_actions: np.ndarray
    ends: np.ndarray
    worth: np.ndarray
    regret: float
    steps: tuple[int, int]


def optimum(game: BlockGame, reward: Formula, gamma: float, yardstick: Yardstick) -> Optimum:
    """The best play of a game for a learner with the discount ``gamma`` in [0, 1]. Raises ValueError for a reward that is not
    finite somewhere."""
    values = game.optimal_values(reward, gamma)
    running = np.flatnonzero(game.reachable & ~game.over)
    groups = len(game.world.table.groups)
    best_actions = np.zeros((len(values), groups), bool)
    tolerance = EQUAL * float(np.nanmax(np.abs(values)))
    best_actions[running] = game.action_values(running, values, reward, gamma) >= values[running, None] - tolerance
    ends, steps = _ends_of(game, best_actions)
    worth = of_rows("yardstick", yardstick, [game.world.scores_of(ends)], game.world.baseline)
    return Optimum(values, best_actions, ends, worth, game.best(yardstick)[1] - float(worth.min()), steps)


def _ends_of(game: BlockGame, best_actions: np.ndarray) -> tuple[np.ndarray, tuple[int, int]]:
    """The states in which games end that take best actions alone, and after how few and how many moves."""
    here, ends, lengths = np.array([game.world.start]), [], []
    for step in range(1, int(game.world.blocks[game.world.start]) + 1):
        rows, actions = np.nonzero(best_actions[here])
        here = np.unique(game.world.following[here[rows], actions])
        over = game.over[here]
        if over.any():
            ends.append(here[over])
            lengths.append(step)
        here = here[~over]
    return np.unique(np.concatenate(ends)), (lengths[0], lengths[-1])


def same_policy(game: BlockGame, one: Optimum, other: Optimum) -> bool:
    """Whether the same moves are best in every state that a game may come to."""
    running = game.reachable & ~game.over
    return bool((one.best_actions[running] == other.best_actions[running]).all())


def without_shaping(reward: Formula) -> Formula:
    """The reward without its summands that are neutral shaping, times a number or not; 0 if nothing is left."""
    match reward:
        case Shaping(kept=False):
            return Number(0)
        case Named():
            return without_shaping(reward.formula)
        case Operation("negative", (inner,)):
            return _changed(reward, inner, lambda left: -left)
        case Operation("*", (Number() as number, inner)):
            return _changed(reward, inner, lambda left: number * left)
        case Operation("*" | "/" as name, (inner, Number() as number)):
            return _changed(reward, inner, lambda left: operation(name, left, number))
        case Operation("+" | "-" as name, (left, right)):
            one, other = without_shaping(left), without_shaping(right)
            if other == Number(0):
                return one
            if one == Number(0):
                return other if name == "+" else -other
            return operation(name, one, other)
    return reward


def _changed(reward: Formula, inner: Formula, again: Callable[[Formula], Formula]) -> Formula:
    """The reward made ``again`` of what is left of its part ``inner``; the same where all of it is left, 0 where nothing is."""
    left = without_shaping(inner)
    if left == inner:
        return reward
    return left if left == Number(0) else again(left)
