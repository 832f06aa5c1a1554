"""Many environments on a table at once, in array operations: :class:`prune_gym.envs.TabularEnv` and
:class:`prune_gym.envs.BlocksEnv` as vector environments, equal to as many single ones in a ``SyncVectorEnv``."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import fields
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from prune_gym.arguments import check_integer
from prune_gym.envs.blocks import BlocksEnv, Found
from prune_gym.envs.observations import full_observation
from prune_gym.envs.pruning import ROUNDING_ERROR
from prune_gym.envs.tabular import TabularEnv
from prune_gym.scoring.evaluation import Score
from prune_gym.simulation.allocation import normalised
from prune_gym.simulation.block_world import BlockGame
from prune_gym.simulation.tabular import TabularSimulator


class TableVectorEnv(VectorEnv[np.ndarray, np.ndarray, np.ndarray]):
    """What both have in common: an episode ends at the target, and nothing is random.

    Attributes:
        evaluations: steps of all copies since they were made.
        best: the best network at the target that any copy came to, the first of equal ones.

    Args:
        single: one of the environments.
        game: its game.
        num_envs: how many copies.
        autoreset_mode: what happens to a copy whose episode has ended: in the next step, in the same step, or nothing.

    Raises TypeError or ValueError for a bad argument, by its name.
    """

    def __init__(self, single: TabularEnv | BlocksEnv, game: BlockGame, num_envs: int, autoreset_mode: str | AutoresetMode):
        check_integer("num_envs", num_envs, 1)
        self.num_envs = num_envs
        self.autoreset_mode = AutoresetMode(autoreset_mode)
        self.metadata = single.metadata | {"autoreset_mode": self.autoreset_mode}
        self.single_action_space, self.single_observation_space = single.action_space, single.observation_space
        self.action_space = batch_space(single.action_space, num_envs)
        self.observation_space = batch_space(single.observation_space, num_envs)
        self.reward, self.yardstick, self.game, self.world = single.reward, single.yardstick, game, game.world
        self.evaluations = 0
        self.best: Found | None = None
        self._states = np.full(num_envs, self.world.start)
        self._steps = np.zeros(num_envs, np.int64)  # in the present episodes
        self._ended = np.zeros(num_envs, bool)
        self._begun = False

    # ------------------------------------------------------------------------------------------- what a subclass says

    @abstractmethod
    def _check_actions(self, actions: np.ndarray) -> np.ndarray:
        """The actions, or ValueError."""

    @abstractmethod
    def _move(self, actions: np.ndarray, running: np.ndarray) -> np.ndarray:
        """The states (num_envs,) after a step of the copies of ``running``; of the others it does not matter."""

    def _forget(self, mask: np.ndarray) -> None:
        """The episodes of these copies begin anew."""

    @abstractmethod
    def _observe(self) -> np.ndarray:
        """The observations of all copies."""

    @abstractmethod
    def _entries(self) -> dict[str, np.ndarray]:
        """The infos of all copies, apart from those of the score, the widths and the evaluations."""

    # ------------------------------------------------------------------------------------------------------- the rules

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """All copies back to the original network, or those of ``options["reset_mask"]``, bool (num_envs,). Nothing is random."""
        mask = np.ones(self.num_envs, bool)
        if options is not None and "reset_mask" in options:
            mask = options["reset_mask"]
            if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_ or mask.shape != (self.num_envs,) or not mask.any():
                raise ValueError(f"reset_mask: expected a bool array ({self.num_envs},) with at least one True, got {mask!r}.")
        self._begun = True
        self._restart(mask)
        return self._observe(), self._infos(mask)

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """One step of every copy.

        Raises RuntimeError before the first reset, and for a copy that has ended and is not reset by itself; ValueError for
        actions that are not in the action space. Then no copy has stepped.
        """
        actions = self._check_actions(np.asarray(actions))
        again = self._ended
        if not self._begun or (again.any() and self.autoreset_mode is AutoresetMode.DISABLED):
            raise RuntimeError("step: an episode has ended, or none has begun; call reset() first.")
        before, running = self.world.scores_of(self._states), ~again
        self._restart(again)
        self._states = np.where(running, self._move(actions, running), self._states)
        self._steps += running
        self.evaluations += int(running.sum())
        after = self.world.scores_of(self._states)
        rewards = np.where(running, self.reward(before, after, self.world.baseline), 0.0)
        self._ended = terminated = self.game.over[self._states]
        if terminated.any():
            self._remember(np.flatnonzero(terminated))
        everyone = np.ones(self.num_envs, bool)
        infos: dict[str, Any] = {}
        if self.autoreset_mode is AutoresetMode.SAME_STEP and terminated.any():
            final, seen = np.full(self.num_envs, None, dtype=object), self._observe()
            for copy in np.flatnonzero(terminated):
                final[copy] = seen[copy]
            infos = {"final_obs": final, "_final_obs": terminated.copy()}
            infos |= {"final_info": self._infos(terminated), "_final_info": terminated.copy()}
            self._restart(terminated)
        infos |= self._infos(everyone)
        return self._observe(), rewards, terminated.copy(), np.zeros(self.num_envs, bool), infos

    def _restart(self, mask: np.ndarray) -> None:
        self._states = np.where(mask, self.world.start, self._states)
        self._steps = np.where(mask, 0, self._steps)
        self._ended = self._ended & ~mask
        self._forget(mask)

    def _remember(self, copies: np.ndarray) -> None:
        """Note the best network that one of these copies, which have ended, came to."""
        states = self._states[copies]
        worth = np.asarray(self.yardstick(self.world.scores_of(states), self.world.baseline))
        first = int(np.argmax(worth))
        if self.best is None or worth[first] > self.best.yardstick:
            self.best = Found(int(states[first]), self.world.score(int(states[first])), float(worth[first]))

    def _infos(self, mask: np.ndarray) -> dict[str, Any]:
        """The infos of the copies of ``mask`` as arrays, with 0 for the others, and for each entry the mask."""
        score = self.world.scores_of(self._states)
        entries = {field.name: getattr(score, field.name) for field in fields(Score)}
        entries |= {"widths": self.world.widths[self._states], "evaluations": self._steps.copy()} | self._entries()
        if not mask.all():
            entries = {key: np.where(mask.reshape(-1, *[1] * (x.ndim - 1)), x, np.zeros_like(x)) for key, x in entries.items()}
        return entries | {f"_{key}": mask.copy() for key in entries}


class BlocksVectorEnv(TableVectorEnv):
    """``num_envs`` copies of :class:`prune_gym.envs.BlocksEnv` that step together. Other arguments are those of one; functions as
    reward or yardstick get scores of arrays."""

    def __init__(self, num_envs: int, autoreset_mode: str | AutoresetMode = AutoresetMode.NEXT_STEP, **others: Any):
        single = BlocksEnv(**others)
        super().__init__(single, single.game, num_envs, autoreset_mode)

    def _check_actions(self, actions: np.ndarray) -> np.ndarray:
        groups = len(self.world.table.groups)
        is_integer = actions.shape == (self.num_envs,) and np.issubdtype(actions.dtype, np.integer)
        if not is_integer or not (actions >= 0).all() or not (actions < groups).all():
            raise ValueError(f"actions: expected {self.num_envs} integers in [0, {groups}), got {actions!r}.")
        return actions

    def _move(self, actions: np.ndarray, running: np.ndarray) -> np.ndarray:
        return self.world.following[self._states, actions]

    def _observe(self) -> np.ndarray:
        return self.world.observations[self._states]

    def _entries(self) -> dict[str, np.ndarray]:
        return {"action_mask": self.world.widths[self._states] > self.world.least}


class TabularVectorEnv(TableVectorEnv):
    """``num_envs`` copies of :class:`prune_gym.envs.TabularEnv` that step together. Other arguments are those of one; functions
    as reward or yardstick get scores of arrays."""

    def __init__(self, num_envs: int, autoreset_mode: str | AutoresetMode = AutoresetMode.NEXT_STEP, **others: Any):
        single = TabularEnv(**others)
        self.simulator: TabularSimulator = single.simulator
        super().__init__(single, self.simulator.game, num_envs, autoreset_mode)
        if hasattr(single, "reward_space"):
            raise ValueError("reward: expected one that is a number, got 'vector'; vectorise single environments instead.")
        self.observation, self.uniform_action = single.observation, single.uniform_action
        shape = (num_envs, len(self.world.table.groups))
        self._carry, self._actions = np.zeros(shape), np.zeros(shape)  # the last actions
        self._compute = np.zeros(num_envs, np.int64)  # of the present episodes

    def _check_actions(self, actions: np.ndarray) -> np.ndarray:
        shape = self._carry.shape
        if actions.shape != shape or actions.dtype.kind not in "fiu":
            raise ValueError(f"actions: expected numbers of shape {shape}, got {actions.dtype} of shape {actions.shape}.")
        if not (actions >= 0).all() or not (actions <= 1 + ROUNDING_ERROR).all():
            raise ValueError(f"actions: expected numbers in [0, 1], got {actions.min()} to {actions.max()}.")
        return actions.astype(np.float64)

    def _move(self, actions: np.ndarray, running: np.ndarray) -> np.ndarray:
        simulator, macs = self.simulator, self.world.macs
        states, carry = self.game.take_many(actions, self._states, self._carry, simulator.schedule.goals(self._steps))
        self._carry = np.where(running[:, None], carry, self._carry)
        self._actions = np.where(running[:, None], actions, self._actions)
        ranking = np.where(self._steps == 0, simulator.ranking_macs, 0)  # once in an episode
        self._compute += running * (ranking + simulator.scoring_images(states) * macs[states])
        return states

    def _forget(self, mask: np.ndarray) -> None:
        self._carry[mask] = self._actions[mask] = 0
        self._compute[mask] = 0

    def _observe(self) -> np.ndarray:
        if self.observation == "architecture":
            return self.world.observations[self._states]
        graph = self.simulator.graph
        last = np.where(self._steps[:, None] > 0, normalised(self._actions, graph.group_filters), 0)
        progress = self.simulator.schedule.progress(self.game.removed[self._states])
        return full_observation(graph, self.world.widths[self._states], self.world.scores_of(self._states), progress, last)

    def _entries(self) -> dict[str, np.ndarray]:
        return {"compute": self._compute.copy()}
