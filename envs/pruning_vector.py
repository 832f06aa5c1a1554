"""Many pruning environments that step together, on one network in memory."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.vector.utils import iterate

from prune_gym.arguments import check_integer
from prune_gym.envs.pruning import Preview, PruningEnv
from prune_gym.envs.table_vector import checked_mode


class PruningVectorEnv(SyncVectorEnv):
    """``num_envs`` copies of :class:`prune_gym.envs.PruningEnv`, which equal as many single ones in a ``SyncVectorEnv``. They
    share the original network, and what is known about others: all networks of a step are ranked and scored together, each once,
    on all cores or on the GPU. With post-training, each copy has weights of its own besides; networks are then trained and scored
    one after the other.

    Attributes:
        evaluations: steps of all copies since they were made.
        best: the best network at the target that any copy came to, by the yardstick, the first of equal ones.

    Args:
        num_envs: how many copies.
        autoreset_mode: what happens to a copy whose episode has ended: in the next step, in the same step, or nothing.
        settings: as of :class:`prune_gym.envs.PruningEnv`.

    Raises TypeError or ValueError for a bad argument, by its name.
    """

    envs: list[PruningEnv]  # type: ignore[assignment]

    def __init__(self, num_envs: int, autoreset_mode: str | AutoresetMode = AutoresetMode.NEXT_STEP, **settings: Any):
        check_integer("num_envs", num_envs, 1)
        first = PruningEnv(**settings)
        if hasattr(first, "reward_space"):
            raise ValueError("reward: expected one that is a number, got 'vector', which single environments alone give.")
        self.simulator = first.simulator
        self.simulator.store.max_versions *= num_envs
        self.best: Preview | None = None
        copies = [partial(first.sibling, number) for number in range(1, num_envs)]
        super().__init__([lambda: first, *copies], autoreset_mode=checked_mode(autoreset_mode))

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """One step of every copy. Raises like :meth:`prune_gym.envs.PruningEnv.step`; then no copy has stepped."""
        chosen: list[np.ndarray] = list(iterate(self.action_space, actions))
        if len(chosen) != self.num_envs:
            raise ValueError(f"actions: expected one for each of {self.num_envs} environments, got {len(chosen)}.")
        if self.autoreset_mode is AutoresetMode.DISABLED and self._autoreset_envs.any():
            raise RuntimeError("step: an episode has ended; call reset() with a reset_mask first.")
        running: list[tuple[PruningEnv, np.ndarray]] = [
            (env, action)
            for env, action, again in zip(self.envs, chosen, self._autoreset_envs, strict=True)
            if not (again and self.autoreset_mode is AutoresetMode.NEXT_STEP)
        ]
        for env, action in running:
            env.check_action(action)
            env.check_running("step")
        self.simulator.rank([env.snapshot() for env, _ in running])
        self.simulator.scores([env.prepare(action) for env, action in running])
        step = super().step(actions)
        for env, _ in running:
            if env.best is not None and (self.best is None or env.best.yardstick > self.best.yardstick):
                self.best = env.best
        return step

    @property
    def uniform_action(self) -> np.ndarray:
        """The distribution that prunes every group by the same fraction, float64 (groups,), sum 1."""
        return self.envs[0].uniform_action

    @property
    def evaluations(self) -> int:
        return sum(env.evaluations for env in self.envs)
