"""Pruning one block of one group at a time, on a table: a small deterministic world whose optimum is known exactly."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np

from prune_gym.scoring.evaluation import NUMBERS, Score
from prune_gym.simulation.blocks import fractions_of, take_many_blocks
from prune_gym.simulation.schedule import target_budget
from prune_gym.simulation.score_functions import of_rows
from prune_gym.simulation.space import UNITS
from prune_gym.simulation.table import Table
from prune_gym.simulation.target import Target
from prune_gym.simulation.terms import Formula
from prune_gym.simulation.yardsticks import Yardstick


class BlockWorld:
    """The architectures of a table as states, and what taking a block of a group leads to. What belongs to the table alone is
    computed once for all targets.

    Args:
        table: the table.

    Attributes:
        start: the state of the original network. States are numbers: of the architectures in the order of the table's arrays.
        following: the state after a block of each group went, int32 (states, groups). A group with none left passes on to the
            next one that has; where no group has, the state stays.
        levels: how many blocks every group can still lose in every state, int16 (states, groups).
        blocks: how many blocks can still go in every state, int64 (states,).
        scores: a :class:`prune_gym.scoring.evaluation.Score` of arrays (states,), on the validation images.
        widths: int64 (states, groups); ``least`` are those of the smallest network.
        strides: the difference that a block of each group makes to the number of a state, int64 (groups,).
        observations: kept over original widths, float32 (states, groups).
    """

    def __init__(self, table: Table):
        self.table = table
        shape, groups = table.shape, len(table.groups)
        states = np.arange(int(np.prod(shape)), dtype=np.int32)
        self.start = len(states) - 1
        self.strides = np.array([int(np.prod(shape[i + 1 :])) for i in range(groups)])
        self.levels = (states[:, None] // self.strides % shape).astype(np.int16)
        levels = self.levels.astype(np.int64)
        self.following = (states[:, None] - self.strides * (levels > 0)).astype(np.int32)
        for _ in range(groups - 1):
            stuck = self.following == states[:, None]
            self.following = np.where(stuck, np.roll(self.following, -1, axis=1), self.following)
        self.widths = table.widths(levels)
        self.widths.flags.writeable = False  # before scores have views of it
        self.least, self.group_filters = self.widths[0], self.widths[-1] * table.filters_per_unit
        self.observations = (self.widths / self.widths[-1]).astype(np.float32)
        self.blocks = levels.sum(1)
        scores = {name: value for name, value in vars(self._scores(levels)).items() if name in NUMBERS}
        self._records = np.empty(len(states), [(name, array.dtype) for name, array in scores.items()])
        for name, array in scores.items():
            self._records[name] = array
        self._records.flags.writeable = False  # before there are views of it
        self.scores = _as_score(self._records, self.widths)
        self.baseline = self.score(self.start)
        for array in (
            self.following,
            self.levels,
            self.widths,
            self.observations,
            self.blocks,
            self.group_filters,
            self.strides,
        ):
            array.flags.writeable = False  # worlds are shared

    def __reduce__(self) -> tuple:
        return world_of, (self.table,)

    def _scores(self, levels: np.ndarray) -> Score:
        table, full = self.table, self.widths[-1] @ self.table.filters_per_unit
        macs, params = table.macs(levels), table.params(levels)
        return Score(
            accuracy=table.val_accuracy(levels),  # type: ignore[arg-type]  # arrays in place of numbers
            macs=macs,  # type: ignore[arg-type]
            params=params,  # type: ignore[arg-type]
            flops_reduction=1 - macs / macs[-1],
            params_reduction=1 - params / params[-1],
            channel_sparsity=(self.widths[-1] - self.widths) @ table.filters_per_unit / full,
        )

    def states(self, levels: np.ndarray) -> np.ndarray:
        """The states with these levels (N, groups), int64 (N,)."""
        return levels @ self.strides

    def score(self, state: int) -> Score:
        """The score of one state, with numbers."""
        return Score(*self._records[state].item(), self.widths[state])  # type: ignore[call-arg]  # mypy does not count the items

    def scores_of(self, states: np.ndarray) -> Score:
        """A score of arrays, those of the states (N,)."""
        records = self._records.take(states)  # at once, as what belongs to a state lies together
        return _as_score(records, self.widths.take(states, axis=0))

    @property
    def macs(self) -> np.ndarray:
        """MACs of every state, int64 (states,)."""
        return self._records["macs"]

    @cached_property
    def test_accuracy(self) -> np.ndarray:
        """Test accuracy of every state in [0, 1], for reports alone; float64 (states,)."""
        return self.table.test_hits.ravel() / self.table.images[1]


def _as_score(records: np.ndarray, widths: np.ndarray) -> Score:
    """A score of arrays: the fields of the records."""
    return Score(**{name: records[name] for name in NUMBERS}, widths=widths)  # type: ignore[arg-type]  # arrays in place of numbers


@lru_cache(maxsize=8)
def world_of(table: Table) -> BlockWorld:
    """The world of a table, made once for all environments of a process."""
    return BlockWorld(table)


@dataclass(frozen=True, eq=False)
class BlockGame:
    """A block world with a target: the game ends as soon as it is reached.

    Args:
        world: the world.
        target: what the target counts: ``"sparsity"``, ``"macs_reduction"`` or ``"params_reduction"``.
        reduction: the fraction to remove, in (0, 1).

    Raises ValueError for a target that no architecture of the table reaches.
    """

    world: BlockWorld
    target: str
    reduction: float

    def __post_init__(self) -> None:
        if not self.over.any():
            largest = np.floor(self.removed.max() / self.total * 1e4) / 1e4
            table = f"the table of {self.world.table.task!r}"
            raise ValueError(
                f"{self.target}: {self.reduction} cannot be reached on {table}; the largest that can is {largest:.4f}."
            )

    @property
    def goal(self) -> Target:
        """The target as rewards read it."""
        return Target(self.target, self.reduction)

    @cached_property
    def removed(self) -> np.ndarray:
        """How many filters, MACs or parameters are gone in every state, int64 (states,)."""
        world = self.world
        if UNITS[self.target] == "filters":
            return (world.widths[-1] - world.widths) @ world.table.filters_per_unit
        count = world.scores.macs if self.target == "macs_reduction" else world.scores.params
        return count[-1] - count  # type: ignore[index]

    @cached_property
    def total(self) -> int:
        """How many the original network has."""
        world = self.world
        if UNITS[self.target] == "filters":
            return int(world.widths[-1] @ world.table.filters_per_unit)
        return int(world.baseline.macs if self.target == "macs_reduction" else world.baseline.params)

    @cached_property
    def over(self) -> np.ndarray:
        """Whether the target is reached, bool (states,)."""
        return self.removed >= target_budget(self.total, self.reduction)

    def take_many(
        self, actions: np.ndarray, states: np.ndarray, carry: np.ndarray, goals: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """The states (N,) that pruning steps lead to, and what groups owe there, (N, groups); see
        :func:`prune_gym.simulation.blocks.take_many_blocks`."""
        world = self.world
        fractions = fractions_of(actions, world.group_filters)
        return take_many_blocks(fractions, world.levels, carry, goals, states, world.strides, self.removed)

    @cached_property
    def reachable(self) -> np.ndarray:
        """Which states a game may come to, bool (states,)."""
        world, reached = self.world, np.zeros(len(self.over), bool)
        layer = np.array([world.start])
        while len(layer):
            reached[layer] = True
            layer = np.unique(world.following[layer[~self.over[layer]]])
            layer = layer[~reached[layer]]
        return reached

    def ends(self) -> np.ndarray:
        """The states in which a game may end, rising."""
        return np.flatnonzero(self.reachable & self.over)

    def best(self, yardstick: Yardstick) -> tuple[int, float]:
        """The end that is worth most by the yardstick, the first of equal ones, and what it is worth."""
        ends = self.ends()
        worth = of_rows("yardstick", yardstick, [self.world.scores_of(ends)], self.world.baseline)
        best = int(np.argmax(worth))
        return int(ends[best]), float(worth[best])

    def optimal_values(self, reward: Formula, gamma: float) -> np.ndarray:
        """What a game is worth from every reachable state on if it is played best, float64 (states,): the sum of the rewards,
        discounted by ``gamma`` from step to step, by dynamic programming. NaN for states that no game comes to.

        Args:
            reward: a formula, see :func:`prune_gym.simulation.rewards.make_reward`; a function of yours that is not marked as
                elementwise takes some microseconds for every move.
            gamma: in [0, 1].
        """
        world = self.world
        values = np.where(self.over, 0.0, np.nan)
        states = np.flatnonzero(self.reachable & ~self.over)
        for blocks in np.unique(world.blocks[states]):  # the fewest that are left come first
            layer = states[world.blocks[states] == blocks]
            values[layer] = self.action_values(layer, values, reward, gamma).max(1)
        return np.where(self.reachable, values, np.nan)

    def action_values(self, states: np.ndarray, values: np.ndarray, reward: Formula, gamma: float) -> np.ndarray:
        """What taking a block of each group is worth in states (N,), float64 (N, groups), if the states that follow are worth
        ``values``."""
        world, groups = self.world, len(self.world.table.groups)
        after = world.following[states].ravel()
        before = np.repeat(states, groups)
        scores = [world.scores_of(before), world.scores_of(after)]
        rewards = of_rows("reward", reward, scores, world.baseline, self.goal, self.over[after])
        return (rewards + gamma * values[after]).reshape(-1, groups)
