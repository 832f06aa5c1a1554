"""What a run notes of any agent's search, as callbacks of Stable-Baselines3."""

from __future__ import annotations

from typing import Any

from stable_baselines3.common.callbacks import BaseCallback

from prune_gym.agents.search_log import log_step
from prune_gym.envs.pruning import Preview, PruningEnv
from prune_gym.files import csv_text
from prune_gym.scoring.evaluation import NUMBERS, Score

MEASURES = ("accuracy", "flops_reduction", "params_reduction", "channel_sparsity")


def has_scored(callback: BaseCallback) -> bool:
    """Whether the last timestep scored a network. Most do; in the layerwise game only the last one of an episode does."""
    return callback.locals["infos"][0].get("scored", True)


class EvaluationBudget(BaseCallback):
    """Stops any agent after exactly so many evaluations, whatever the length of its rollouts."""

    def __init__(self, evaluations: int):
        super().__init__()
        self.evaluations = self.left = evaluations

    def _on_training_start(self) -> None:
        self.left = self.evaluations

    def _on_step(self) -> bool:
        infos = self.locals["infos"]  # one for each environment
        self.left -= sum(info.get("scored", True) for info in infos)
        return self.left > 0


class ComputeBudget(BaseCallback):
    """Stops any agent as soon as its evaluations took so many MACs."""

    def __init__(self, env: PruningEnv, macs: float):
        super().__init__()
        self.inner, self.macs = env, macs

    def _on_step(self) -> bool:
        return self.inner.compute.macs < self.macs


class SearchRecorder(BaseCallback):
    """Notes every network that any agent scored, and logs the steps of agents that do not log them themselves.

    Attributes:
        rows: a row for each evaluation: what becomes evaluations.csv. Its ``kind`` is ``"step"``, or ``"preview"`` of a step, or
            ``"target"``, a preview of the network at the target. ``compute`` counts MACs up to the end of the batch that the
            network was scored in.
    """

    def __init__(self, env: PruningEnv):
        super().__init__()
        self.inner = env
        self.rows: list[dict[str, Any]] = []
        self._widths = [f"width:{group.name}" for group in env.graph.groups]
        self._episode = self._step = self._evaluations = 0

    def _on_step(self) -> bool:
        if not has_scored(self):
            return True
        self._evaluations += 1
        kind = self.locals.get("kind", "step")  # agents of Stable-Baselines3 take steps only
        reward = float(f"{self.locals['rewards'][0]:.7g}")  # SB3's vectorised environments hand on float32
        if kind == "step":
            info = self.locals["infos"][0]
            score = Score(**{name: info[name] for name in (*NUMBERS, "widths")})
        else:
            preview: Preview = self.locals["evaluated"]
            score = preview.score
        assert score.widths is not None  # a network was scored
        row = {"evaluation": self._evaluations, "episode": self._episode, "step": self._step, "kind": kind, "reward": reward}
        row |= {
            "yardstick": self.inner.yardstick(score, self.inner.simulator.baseline),
            **{name: getattr(score, name) for name in NUMBERS},
        }
        row |= {"compute": self.inner.compute.macs, **dict(zip(self._widths, score.widths.tolist(), strict=True))}
        self.rows.append(row)
        if kind == "step":
            if "evaluated" not in self.locals:
                log_step(self.logger, self.inner, score, reward, self._evaluations)
            self.inner.simulator.cache.sync()  # a checkpoint
            self._step += 1
            if self.locals["dones"][0]:
                self._episode, self._step = self._episode + 1, 0
        return True

    def evaluations_csv(self) -> str:
        """All evaluations."""
        measures = ["evaluation", "episode", "step", "kind", "reward", "yardstick", *NUMBERS, "compute"]
        return csv_text([*measures, *self._widths], self.rows)

    def steps_csv(self) -> str:
        """The steps alone, without what follows from the rest."""
        columns = ["episode", "step", "evaluations", "compute", "reward", *MEASURES, *self._widths]
        steps = [row | {"evaluations": row["evaluation"]} for row in self.rows if row["kind"] == "step"]
        return csv_text(columns, [{name: row[name] for name in columns} for row in steps])
