"""Many environments on a table at once, in array operations: :class:`prune_gym.envs.TabularEnv` and
:class:`prune_gym.envs.BlocksEnv` as vector environments, equal to as many single ones in a ``SyncVectorEnv``."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from prune_gym.arguments import check_choice, check_integer
from prune_gym.envs.blocks import BlocksEnv, Found
from prune_gym.envs.observations import full_observation
from prune_gym.envs.pruning import ROUNDING_ERROR
from prune_gym.envs.tabular import TabularEnv
from prune_gym.scoring.evaluation import NUMBERS
from prune_gym.simulation.allocation import normalised
from prune_gym.simulation.block_world import BlockGame
from prune_gym.simulation.score_functions import of_rows
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
        if getattr(single, "render_mode", None) is not None:
            raise ValueError("render_mode: copies on a table are not rendered; use vectorization_mode='sync'.")
        self.num_envs = num_envs
        self.autoreset_mode = checked_mode(autoreset_mode)
        self.metadata = single.metadata | {"autoreset_mode": self.autoreset_mode}
        self.single_action_space, self.single_observation_space = single.action_space, single.observation_space
        self.action_space = batch_space(single.action_space, num_envs)
        self.observation_space = batch_space(single.observation_space, num_envs)
        self.reward, self.yardstick, self.game, self.world = single.reward, single.yardstick, game, game.world
        self.cost = single.cost
        self.evaluations = 0
        self.best: Found | None = None
        self._states = np.full(num_envs, self.world.start)
        self._steps = np.zeros(num_envs, np.int64)  # in the present episodes
        self._ended = np.zeros(num_envs, bool)
        self._begun = False

    # ------------------------------------------------------------------------------------------- what a subclass says

    @abstractmethod
    def _check_actions(self, actions: np.ndarray, running: np.ndarray) -> np.ndarray:
        """The actions, with any valid ones for copies that do not run; or ValueError."""

    @abstractmethod
    def _move(self, states: np.ndarray, actions: np.ndarray) -> np.ndarray:
        """The states (num_envs,) after a step from these. Nothing changes yet."""

    def _enter(self, states: np.ndarray, actions: np.ndarray) -> None:
        """All copies come to the states that the last :meth:`_move` gave."""

    def _forget(self, copies: np.ndarray) -> None:
        """The episodes of these copies, by number, begin anew."""

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
        for each in seed if isinstance(seed, list) else [seed]:
            if each is not None:
                check_integer("seed", each, 0)
        if isinstance(seed, list) and len(seed) != self.num_envs:
            raise ValueError(f"seed: expected one for each of {self.num_envs} environments, got {len(seed)}.")
        if not isinstance(options, dict | None):
            raise TypeError(f"options: expected a dict or None, got {type(options).__name__}.")
        mask = np.ones(self.num_envs, bool)
        if options is not None and "reset_mask" in options:
            mask = options["reset_mask"]
            if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_ or mask.shape != (self.num_envs,) or not mask.any():
                raise ValueError(f"reset_mask: expected a bool array ({self.num_envs},) with at least one True, got {mask!r}.")
        if not self._begun and not mask.all():
            raise RuntimeError("reset: the first one is of all environments.")
        self._begun = True
        self._restart(mask)
        return self._observe(), self._infos(mask)

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """One step of every copy; one whose episode ended in the last step begins anew instead, whatever its action.

        Raises RuntimeError before the first reset, and for a copy that has ended and is not reset by itself; ValueError for
        actions that are not in the action space; TypeError or ValueError for a reward or a yardstick that is no finite number.
        Then no copy has stepped.
        """
        running = ~self._ended
        if not self._begun or (self._ended.any() and self.autoreset_mode is AutoresetMode.DISABLED):
            raise RuntimeError("step: an episode has ended, or none has begun; call reset() first.")
        actions = self._check_actions(np.asarray(actions), running)
        states = self._move(np.where(running, self._states, self.world.start), actions)
        (copies,) = running.nonzero()  # the others begin anew instead
        followed = states[copies]
        before, after = self.world.scores_of(self._states[copies]), self.world.scores_of(followed)
        over = self.game.over[followed]
        others = (self.world.baseline, self.game.goal, over)
        rewards, costs = np.zeros(self.num_envs), np.zeros(self.num_envs)
        rewards[copies] = of_rows("reward", self.reward, [before, after], *others)
        if self.cost is not None:
            costs[copies] = of_rows("cost", self.cost, [before, after], *others)
        worth = of_rows("yardstick", self.yardstick, [self.world.scores_of(followed[over])], self.world.baseline)
        self._enter(states, actions)
        terminated = np.zeros(self.num_envs, bool)
        terminated[copies[over]] = True
        self._states, self._steps, self._ended = states, self._steps + 1, terminated.copy()
        self._restart(~running)
        self.evaluations += len(copies)
        self._remember(followed[over], worth)
        everyone = np.ones(self.num_envs, bool)
        infos: dict[str, Any] = {}
        if self.autoreset_mode is AutoresetMode.SAME_STEP and terminated.any():
            final, seen = np.full(self.num_envs, None, dtype=object), self._observe()
            for copy in np.flatnonzero(terminated):
                final[copy] = seen[copy]
            infos = {"final_obs": final, "_final_obs": terminated.copy()}
            infos |= {"final_info": self._infos(terminated), "_final_info": terminated.copy()}
            infos["final_info"] |= self._costs(costs, terminated)
            self._restart(terminated)
            running = running & ~terminated  # of the others the info is that of their reset, which costs nothing
        infos |= self._infos(everyone) | self._costs(costs, running)
        return self._observe(), rewards, terminated, np.zeros(self.num_envs, bool), infos

    def _costs(self, costs: np.ndarray, mask: np.ndarray) -> dict[str, np.ndarray]:
        """What the steps of the copies of ``mask`` cost, as an entry of infos."""
        if self.cost is None or not mask.any():
            return {}
        return {"cost": np.where(mask, costs, 0.0), "_cost": mask.copy()}

    def _restart(self, mask: np.ndarray) -> None:
        (copies,) = mask.nonzero()
        self._states[copies], self._steps[copies], self._ended[copies] = self.world.start, 0, False
        self._forget(copies)

    def _remember(self, states: np.ndarray, worth: np.ndarray) -> None:
        """Note the best of these networks at the target."""
        if len(states) and (self.best is None or worth.max() > self.best.yardstick):
            first = int(np.argmax(worth))
            self.best = Found(int(states[first]), self.world.score(int(states[first])), float(worth[first]))

    def _infos(self, mask: np.ndarray) -> dict[str, Any]:
        """The infos of the copies of ``mask`` as arrays, with 0 for the others, and for each entry the mask."""
        score = self.world.scores_of(self._states)
        entries = {name: getattr(score, name) for name in NUMBERS}
        entries |= {"widths": score.widths, "evaluations": self._steps.copy()} | self._entries()
        if not mask.all():
            entries = {key: np.where(mask.reshape(-1, *[1] * (x.ndim - 1)), x, np.zeros_like(x)) for key, x in entries.items()}
        return entries | {f"_{key}": mask.copy() for key in entries}


def checked_mode(autoreset_mode: str | AutoresetMode) -> AutoresetMode:
    """The mode that is meant. Raises ValueError or TypeError for anything else."""
    if not isinstance(autoreset_mode, AutoresetMode):
        check_choice("autoreset_mode", autoreset_mode, [mode.value for mode in AutoresetMode])
    return AutoresetMode(autoreset_mode)


class BlocksVectorEnv(TableVectorEnv):
    """``num_envs`` copies of :class:`prune_gym.envs.BlocksEnv` that step together. Other arguments are those of one; functions as
    reward or yardstick are called once for each copy, unless they are marked as elementwise."""

    def __init__(self, num_envs: int, autoreset_mode: str | AutoresetMode = AutoresetMode.NEXT_STEP, **others: Any):
        single = BlocksEnv(**others)
        super().__init__(single, single.game, num_envs, autoreset_mode)

    def _check_actions(self, actions: np.ndarray, running: np.ndarray) -> np.ndarray:
        groups = len(self.world.table.groups)
        if actions.shape != (self.num_envs,) or not np.issubdtype(actions.dtype, np.integer):
            raise ValueError(f"actions: expected {self.num_envs} integers in [0, {groups}), got {actions!r}.")
        actions = np.where(running, actions, 0)
        if not (actions >= 0).all() or not (actions < groups).all():
            raise ValueError(f"actions: expected {self.num_envs} integers in [0, {groups}), got {actions!r}.")
        return actions

    def _move(self, states: np.ndarray, actions: np.ndarray) -> np.ndarray:
        return self.world.following[states, actions]

    def _observe(self) -> np.ndarray:
        return self.world.observations.take(self._states, axis=0)

    def _entries(self) -> dict[str, np.ndarray]:
        return {"action_mask": self.world.levels.take(self._states, axis=0) > 0}


class TabularVectorEnv(TableVectorEnv):
    """``num_envs`` copies of :class:`prune_gym.envs.TabularEnv` that step together. Other arguments are those of one; functions
    as reward or yardstick are called once for each copy, unless they are marked as elementwise. What was found is the number of a
    state of :class:`prune_gym.simulation.block_world.BlockWorld`."""

    def __init__(self, num_envs: int, autoreset_mode: str | AutoresetMode = AutoresetMode.NEXT_STEP, **others: Any):
        single = TabularEnv(**others)
        self.simulator: TabularSimulator = single.simulator
        super().__init__(single, self.simulator.game, num_envs, autoreset_mode)
        if hasattr(single, "reward_space"):
            raise ValueError("reward: expected one that is a number, got 'vector', which single environments alone give.")
        self.observation, self.uniform_action = single.observation, single.uniform_action
        shape = (num_envs, len(self.world.table.groups))
        self._carry, self._actions = np.zeros(shape), np.zeros(shape)  # the last actions
        self._compute = np.zeros(num_envs, np.int64)  # of the present episodes
        every_state = np.arange(len(self.world.macs))
        self._scoring_macs = self.simulator.scoring_images(every_state) * self.world.macs
        self._ranking_macs = self.simulator.ranking_cost(self.simulator.initial()).macs

    def _check_actions(self, actions: np.ndarray, running: np.ndarray) -> np.ndarray:
        shape = self._carry.shape
        if actions.shape != shape or actions.dtype.kind not in "fiu":
            raise ValueError(f"actions: expected numbers of shape {shape}, got {actions.dtype} of shape {actions.shape}.")
        actions = actions.astype(np.float64)
        actions[~running] = 0
        if not (actions.min() >= 0 and actions.max() <= 1 + ROUNDING_ERROR):  # nor for NaN
            raise ValueError(f"actions: expected numbers in [0, 1], got {actions.min()} to {actions.max()}.")
        return actions

    def _move(self, states: np.ndarray, actions: np.ndarray) -> np.ndarray:
        steps = np.where(states == self.world.start, 0, self._steps)  # those of an episode that begins anew are of the last one
        goals = self.simulator.schedule.goals(steps)
        following, self._next_carry = self.game.take_many(actions, states, self._carry, goals)
        return following

    def _enter(self, states: np.ndarray, actions: np.ndarray) -> None:
        self._carry, self._actions = self._next_carry, actions
        ranking = np.where(self._steps == 0, self._ranking_macs, 0)  # once in an episode
        self._compute += ranking + self._scoring_macs[states]

    def _forget(self, copies: np.ndarray) -> None:
        self._carry[copies] = self._actions[copies] = 0
        self._compute[copies] = 0

    def _observe(self) -> np.ndarray:
        if self.observation == "architecture":
            return self.world.observations.take(self._states, axis=0)
        graph = self.simulator.graph
        last = np.where(self._steps[:, None] > 0, normalised(self._actions, graph.group_filters), 0)
        progress = self.simulator.schedule.progress(self.game.removed[self._states])
        return full_observation(graph, self.world.widths[self._states], self.world.scores_of(self._states), progress, last)

    def _entries(self) -> dict[str, np.ndarray]:
        return {"compute": self._compute.copy()}
