"""Baselines that any search must beat: the same fraction everywhere, one ranking of all units, and chance."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from prune_gym.agents.base import SearchAgent
from prune_gym.simulation.simulator import PruningState


class UniformAgent(SearchAgent):
    """Prunes every group by the same fraction at every step. One episode is all it can do, whatever its budget."""

    once = True

    def episode(self) -> None:
        while not self.finished:
            self.act(self.default_action())

    def default_action(self) -> np.ndarray:
        return self.pruning_env.uniform_action


class GlobalTaylorAgent(SearchAgent):
    """Ranks all units of all groups by Taylor importance and prunes the least important ones, whatever their group. With a
    step ratio of 1, one step does all: one-shot pruning. One episode is all it can do.

    Scores are divided by the Euclidean norm of their group's, without which layers are not comparable (Molchanov et al.,
    *Pruning Convolutional Neural Networks for Resource Efficient Inference*, 2017). The most important unit of each group stays,
    and a unit that holds more filters than are left to remove is passed over, so that the sparsity is met exactly.
    """

    once = True

    def episode(self) -> None:
        while not self.finished:
            self.act(self.ranking_action(self.pruning_env.snapshot()))

    def default_action(self) -> np.ndarray:
        return self.ranking_action(self.pruning_env.simulator.initial())

    def ranking_action(self, at: PruningState) -> np.ndarray:
        """The share of the next step's filters that each group loses by the ranking, float64 (groups,)."""
        simulator, graph = self.pruning_env.simulator, self.pruning_env.graph
        scores = simulator.unit_scores(at.network, "taylor")
        group = np.repeat(np.arange(len(graph.groups)), graph.widths)
        norms = np.sqrt(np.bincount(group, np.nan_to_num(scores) ** 2))
        scores = scores / np.maximum(norms, np.finfo(np.float64).tiny)[group]  # a group may be dead
        for start, end in pairwise(graph.starts):
            scores[start + np.nanargmax(scores[start:end])] = np.nan
        left = simulator.step_filters(at)
        filters = np.zeros(len(graph.groups))
        for unit in np.argsort(scores, kind="stable")[: np.count_nonzero(~np.isnan(scores))]:  # NaN comes last
            size = graph.filters_per_unit[group[unit]]
            if size <= left:
                filters[group[unit]] += size
                left -= size
        return filters / max(filters.sum(), 1)


class RandomAgent(SearchAgent):
    """Draws every action uniformly from the action space, episode after episode, and keeps the best network found."""

    def episode(self) -> None:
        while not self.finished:
            self.act(self.rng.uniform(size=self.action_space.shape))

    def default_action(self) -> np.ndarray:
        """Another draw, from a generator of its own, so that asking changes no search."""
        return np.random.default_rng(self.num_timesteps).uniform(size=self.action_space.shape)
