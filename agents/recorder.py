"""What a run notes of any agent's search, as callbacks of Stable-Baselines3."""

from __future__ import annotations

from typing import Any

from stable_baselines3.common.callbacks import BaseCallback

from prune_gym.envs.pruning import PruningEnv
from prune_gym.files import csv_text

MEASURES = ("accuracy", "flops_reduction", "params_reduction", "channel_sparsity")


class EvaluationBudget(BaseCallback):
    """Stops any agent after exactly so many evaluations, whatever the length of its rollouts."""

    def __init__(self, evaluations: int):
        super().__init__()
        self.evaluations = evaluations

    def _on_step(self) -> bool:
        return self.num_timesteps < self.evaluations


class ComputeBudget(BaseCallback):
    """Stops any agent as soon as its evaluations took so many MACs."""

    def __init__(self, env: PruningEnv, macs: float):
        super().__init__()
        self.inner, self.macs = env, macs

    def _on_step(self) -> bool:
        return self.inner.compute.macs < self.macs


class StepRecorder(BaseCallback):
    """Notes every real step of any agent, one row each: what becomes steps.csv."""

    def __init__(self, env: PruningEnv):
        super().__init__()
        self.inner = env
        self.rows: list[dict[str, Any]] = []
        self.columns = [
            "episode",
            "step",
            "evaluations",
            "compute",
            "reward",
            *MEASURES,
            *(f"width:{group.name}" for group in env.graph.groups),
        ]
        self._episode = self._step = 0

    def _on_step(self) -> bool:
        if self.locals.get("preview"):
            return True
        info = self.locals["infos"][0]
        row: dict[str, Any] = {"episode": self._episode, "step": self._step, "evaluations": self.inner.evaluations}
        row |= {"compute": self.inner.compute.macs, "reward": self._reward()}
        row |= {key: info[key] for key in MEASURES}
        row |= dict(zip(self.columns[-len(info["widths"]) :], info["widths"].tolist(), strict=True))
        self.rows.append(row)
        self.inner.simulator.cache.sync()  # a checkpoint
        self._step += 1
        if self.locals["dones"][0]:
            self._episode, self._step = self._episode + 1, 0
        return True

    def _reward(self) -> float:
        return float(f"{self.locals['rewards'][0]:.7g}")  # SB3's vectorised environments hand on float32

    def csv(self) -> str:
        return csv_text(self.columns, self.rows)
