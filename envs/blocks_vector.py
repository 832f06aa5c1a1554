"""Many environments on a table at once, in array operations."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from prune_gym.arguments import check_integer
from prune_gym.envs.blocks import BlocksEnv, Found
from prune_gym.scoring.evaluation import Score


class BlocksVectorEnv(VectorEnv[np.ndarray, np.ndarray, np.ndarray]):
    """``num_envs`` copies of :class:`prune_gym.envs.blocks.BlocksEnv` that step together, and equal as many single ones in a
    ``SyncVectorEnv``.

    Attributes:
        evaluations: steps of all copies since they were made.
        best: the best network at the target that any copy came to, the first of equal ones.

    Args:
        num_envs: how many copies.
        autoreset_mode: what happens to a copy whose episode has ended: in the next step, in the same step, or nothing.
        others: as of :class:`prune_gym.envs.blocks.BlocksEnv`. Functions as reward or yardstick get scores of arrays.

    Raises TypeError or ValueError for a bad argument, by its name.
    """

    def __init__(self, num_envs: int, autoreset_mode: str | AutoresetMode = AutoresetMode.NEXT_STEP, **others: Any):
        check_integer("num_envs", num_envs, 1)
        single = BlocksEnv(**others)
        self.num_envs = num_envs
        self.autoreset_mode = AutoresetMode(autoreset_mode)
        self.metadata = single.metadata | {"autoreset_mode": self.autoreset_mode}
        self.single_action_space, self.single_observation_space = single.action_space, single.observation_space
        self.action_space = batch_space(single.action_space, num_envs)
        self.observation_space = batch_space(single.observation_space, num_envs)
        self.reward, self.yardstick, self.world, self.game = single.reward, single.yardstick, single.world, single.game
        self.evaluations = 0
        self.best: Found | None = None
        self._states = np.full(num_envs, self.world.start)
        self._steps = np.zeros(num_envs, np.int64)  # in the present episodes
        self._ended = np.zeros(num_envs, bool)
        self._begun = False

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
        return self.world.observations[self._states], self._infos(mask)

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """One step of every copy.

        Raises RuntimeError before the first reset, and for a copy that has ended and is not reset by itself; ValueError for
        actions that are no integers (num_envs,) of groups. Then no copy has stepped.
        """
        actions = np.asarray(actions)
        groups = len(self.world.table.groups)
        if actions.shape != (self.num_envs,) or not np.issubdtype(actions.dtype, np.integer) or not _within(actions, groups):
            raise ValueError(f"actions: expected {self.num_envs} integers in [0, {groups}), got {actions!r}.")
        again = self._ended
        if not self._begun or (again.any() and self.autoreset_mode is AutoresetMode.DISABLED):
            raise RuntimeError("step: an episode has ended, or none has begun; call reset() first.")
        before, running = self.world.scores_of(self._states), ~again
        self._restart(again)
        self._states = np.where(running, self.world.following[self._states, actions], self._states)
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
            final = np.full(self.num_envs, None, dtype=object)
            for copy in np.flatnonzero(terminated):
                final[copy] = self.world.observations[self._states[copy]]
            infos = {"final_obs": final, "_final_obs": terminated.copy()}
            infos |= {"final_info": self._infos(terminated), "_final_info": terminated.copy()}
            self._restart(terminated)
        infos |= self._infos(everyone)
        return self.world.observations[self._states], rewards, terminated.copy(), np.zeros(self.num_envs, bool), infos

    def _restart(self, mask: np.ndarray) -> None:
        self._states = np.where(mask, self.world.start, self._states)
        self._steps = np.where(mask, 0, self._steps)
        self._ended = self._ended & ~mask

    def _remember(self, copies: np.ndarray) -> None:
        """Note the best network that one of these copies, which have ended, came to."""
        states = self._states[copies]
        worth = np.asarray(self.yardstick(self.world.scores_of(states), self.world.baseline))
        first = int(np.argmax(worth))
        if self.best is None or worth[first] > self.best.yardstick:
            self.best = Found(int(states[first]), self.world.score(int(states[first])), float(worth[first]))

    def _infos(self, mask: np.ndarray) -> dict[str, Any]:
        """The infos of the copies of ``mask`` as arrays, with 0 for the others, and for each entry the mask."""
        widths = self.world.widths[self._states]
        score = self.world.scores_of(self._states)
        entries = {field.name: getattr(score, field.name) for field in fields(Score)}
        entries |= {"widths": widths, "action_mask": widths > self.world.least, "evaluations": self._steps.copy()}
        if not mask.all():
            entries = {key: np.where(mask.reshape(-1, *[1] * (x.ndim - 1)), x, np.zeros_like(x)) for key, x in entries.items()}
        return entries | {f"_{key}": mask.copy() for key in entries}


def _within(numbers: np.ndarray, below: int) -> bool:
    return bool((numbers >= 0).all() and (numbers < below).all())
