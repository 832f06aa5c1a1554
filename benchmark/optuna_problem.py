"""A table as a problem of OptunaHub, for the samplers of Optuna: how many blocks should each group keep?

Needs the packages ``optuna`` and ``optunahub``; ``pip install "prune_gym[tuning]"``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import optuna
from optunahub.benchmarks import BaseProblem

from prune_gym import tables
from prune_gym.simulation.block_world import BlockGame, world_of
from prune_gym.simulation.schedule import target_budget
from prune_gym.simulation.table import Table
from prune_gym.simulation.target import the_target


class PruningProblem(BaseProblem):
    """Maximise the validation accuracy of a network whose MACs are at most a share of the original network's::

        problem = PruningProblem("digits", macs_reduction=0.75)
        study = optuna.create_study(directions=problem.directions, sampler=optuna.samplers.TPESampler(seed=0))
        study.optimize(problem, n_trials=300)
        print(study.best_value, problem.best()[1], problem.test_accuracy(study.best_params))

    Parameters are the names of the groups, values the blocks that each of them could still lose; a network that keeps too many of
    them violates the constraint ``"macs"``.

    Args:
        table: a table, or the name of a task whose table comes with the package; of its networks ``base`` chooses one.
        macs_reduction: MACs to remove, as a fraction of the original network's, in (0, 1).

    Raises TypeError or ValueError for a bad argument, by its name.
    """

    def __init__(self, table: str | Table = "digits", macs_reduction: float = 0.75, base: int = 0):
        self.table = tables.find(table, base)
        self.world = world_of(self.table)
        game = BlockGame(self.world, *the_target(None, macs_reduction, None))
        self.limit = game.total - target_budget(game.total, game.reduction)  # MACs that may be left

    @property
    def search_space(self) -> dict[str, optuna.distributions.BaseDistribution]:
        groups = zip(self.table.groups, self.table.shape, strict=True)
        return {group: optuna.distributions.IntDistribution(0, levels - 1) for group, levels in groups}

    @property
    def directions(self) -> list[optuna.study.StudyDirection]:
        return [optuna.study.StudyDirection.MAXIMIZE]

    def evaluate(self, params: dict[str, Any]) -> float:
        """The validation accuracy in [0, 1]."""
        return float(self.table.val_accuracy(self._levels(params)))

    def evaluate_constraints(self, params: dict[str, Any]) -> dict[str, float]:
        """How many MACs there are too many, as a fraction of those that may be left; 0 or less if there are not."""
        return {"macs": float(self.table.macs(self._levels(params)) / self.limit - 1)}

    def test_accuracy(self, params: dict[str, Any]) -> float:
        """The test accuracy in [0, 1]: to report what was found, not to search for it."""
        return float(self.table.test_accuracy(self._levels(params)))

    def best(self) -> tuple[dict[str, int], float]:
        """The parameters with which the accuracy is highest, of those within the constraint, and that accuracy."""
        accuracy: Any = np.where(self.world.macs <= self.limit, self.world.scores.accuracy, -1)
        best = int(np.argmax(accuracy))
        levels = self.world.levels[best].tolist()
        return dict(zip(self.table.groups, levels, strict=True)), float(accuracy[best])

    def _levels(self, params: dict[str, Any]) -> np.ndarray:
        return np.array([params[group] for group in self.table.groups])
