"""Pruning by blocks on a table: discrete actions, no network that runs, and an optimum that is known."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from prune_gym import tables
from prune_gym.arguments import as_integer, check_integer
from prune_gym.scoring.evaluation import Score
from prune_gym.simulation.block_world import BlockGame, world_of
from prune_gym.simulation.rewards import Reward, VectorReward, make_cost, make_reward
from prune_gym.simulation.score_functions import finite
from prune_gym.simulation.table import Table
from prune_gym.simulation.target import the_target
from prune_gym.simulation.terms import Transition
from prune_gym.simulation.yardsticks import Yardstick, make_yardstick

DEFAULT_REDUCTION = 0.75  # of the MACs, if no target is given: there the good architectures stand apart


@dataclass(frozen=True)
class Found:
    """A network at the target: its state, its score and what it is worth by the environment's yardstick."""

    state: int
    score: Score
    yardstick: float


class BlocksEnv(gymnasium.Env[np.ndarray, np.int64]):
    """An agent takes one block of units of one group after the other, until the target is reached.

    **Action**: ``Discrete(groups)``, the group that loses its least important block. A group that has none left passes on to the
    next one that has; ``info["action_mask"]`` says which groups have one.

    **Observation**: as of :class:`prune_gym.envs.PruningEnv`, ``Box(0, 1, (groups,), float32)``: kept width over original width.

    **Reward**, **yardstick** and **info**: as there, but for ``compute``, as nothing is computed. Accuracies are those on the
    validation images; :meth:`test_accuracy` is for reports.

    Attributes:
        game: the rules, with the best network and the best play; see :class:`prune_gym.simulation.block_world.BlockGame`.
        evaluations: steps since this environment was made.
        best: the best network at the target so far, by the yardstick, the first of equal ones; None before any.

    Args:
        table: the accuracies of all architectures, or the name of a task whose table comes with the package; of its networks
            ``base`` chooses one, see :func:`prune_gym.tables.load`.
        sparsity, macs_reduction, params_reduction: the target, at most one of them, in (0, 1); by default 75% of the MACs.
        reward, reward_weights, yardstick, cost: as of :class:`prune_gym.envs.PruningEnv`, but for ``"vector"``.

    Raises TypeError or ValueError for a bad argument, by its name.
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012  # Gymnasium's name

    def __init__(
        self,
        table: str | Table,
        sparsity: float | None = None,
        macs_reduction: float | None = None,
        params_reduction: float | None = None,
        reward: str | Reward = "accuracy",
        reward_weights: tuple[float, float, float] | None = None,
        yardstick: str | Yardstick = "accuracy",
        base: int = 0,
        cost: Reward | None = None,
    ):
        table = tables.find(table, base)
        if sparsity is macs_reduction is params_reduction is None:
            macs_reduction = DEFAULT_REDUCTION
        chosen = make_reward(reward, reward_weights)
        if isinstance(chosen, VectorReward):
            raise ValueError("reward: expected one that is a number, got 'vector'.")
        self.reward, self.yardstick, self.cost = chosen, make_yardstick(yardstick), make_cost(cost)
        self.world = world_of(table)
        chosen.check_widths("reward", self.world.widths[self.world.start])
        if self.cost is not None:
            self.cost.check_widths("cost", self.world.widths[self.world.start])
        self.game = BlockGame(self.world, *the_target(sparsity, macs_reduction, params_reduction))
        groups = len(table.groups)
        self.action_space = spaces.Discrete(groups)
        self.observation_space = spaces.Box(0.0, 1.0, (groups,), np.float32)
        self.evaluations = self._evaluations_before = 0
        self.best: Found | None = None
        self._state: int | None = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        """Back to the original network. Nothing here is random; ``seed`` only seeds ``np_random`` for wrappers."""
        super().reset(seed=seed)
        self._state, self._evaluations_before = self.world.start, self.evaluations
        return self._observe(), self._info(self.world.score(self._state))

    def step(self, action: int | np.integer) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Take a block of a group. Raises RuntimeError before the first reset and after the end, TypeError or ValueError for what
        is no group."""
        before = self._running("step")
        group = as_integer("action", action, 0, len(self.world.table.groups))
        self._state = after = int(self.world.following[before, group])
        self.evaluations += 1
        score = self.world.score(after)
        over = bool(self.game.over[after])
        transition = Transition(self.world.score(before), score, self.world.baseline, self.game.goal, over)
        reward = finite("reward", self.reward(*transition), score)
        cost = {} if self.cost is None else {"cost": finite("cost", self.cost(*transition), score)}
        if over:
            worth = finite("yardstick", self.yardstick(score, self.world.baseline), score)
            if self.best is None or worth > self.best.yardstick:
                self.best = Found(after, score, worth)
        return self._observe(), reward, over, False, self._info(score) | cost

    def snapshot(self) -> int:
        """The present state, to hand to :meth:`restore`. Raises RuntimeError before reset."""
        if self._state is None:
            raise RuntimeError("snapshot: call reset() first.")
        return self._state

    def restore(self, state: int) -> tuple[np.ndarray, dict[str, Any]]:
        """Go back (or ahead) to a state; gives its observation and info. Raises TypeError or ValueError for what is none."""
        check_integer("state", state, 0, self.world.start + 1)
        self._state = int(state)
        return self._observe(), self._info(self.world.score(self._state))

    def test_accuracy(self, state: int) -> float:
        """The test accuracy of a state in [0, 1]: to report a network that was found, not to search for one."""
        check_integer("state", state, 0, self.world.start + 1)
        return float(self.world.test_accuracy[state])

    def _running(self, caller: str) -> int:
        if self._state is None:
            raise RuntimeError(f"{caller}: call reset() first.")
        if self.game.over[self._state]:
            raise RuntimeError(f"{caller}: the episode has ended, the target is reached; call reset() first.")
        return self._state

    def _observe(self) -> np.ndarray:
        return self.world.observations[self._state].copy()

    def _info(self, score: Score) -> dict[str, Any]:
        return vars(score) | {
            "widths": score.widths.copy(),
            "action_mask": score.widths > self.world.least,
            "evaluations": self.evaluations - self._evaluations_before,
        }
