"""Baselines that any search must beat: the same fraction everywhere, one ranking of all units, and chance."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from prune_gym.agents.budgeted_env import BudgetedEnv
from prune_gym.agents.search_agent import SearchAgent
from prune_gym.simulation.simulator import PruningState


class UniformAgent(SearchAgent):
    """Prunes every group by the same fraction at every step. One episode is all it can do, whatever its budget."""

    def search(self, env: BudgetedEnv) -> None:
        env.reset()
        while not env.finished:
            env.step(env.uniform_action)


class GlobalTaylorAgent(SearchAgent):
    """Ranks all units of all groups by Taylor importance and prunes the least important ones, whatever their group. With a
    step ratio of 1, one step does all: one-shot pruning. One episode is all it can do.

    Scores are divided by the Euclidean norm of their group's, without which layers are not comparable (Molchanov et al.,
    *Pruning Convolutional Neural Networks for Resource Efficient Inference*, 2017). The most important unit of each group stays,
    and a unit that holds more filters than are left to remove is passed over, so that the sparsity is met exactly.
    """

    def search(self, env: BudgetedEnv) -> None:
        env.reset()
        while not env.finished:
            env.step(self.ranking_action(env.snapshot()))

    def ranking_action(self, state: PruningState) -> np.ndarray:
        """The share of the next step's filters that each group loses by the ranking, float64 (groups,)."""
        simulator, graph = self.pruning_env.simulator, self.pruning_env.graph
        scores = simulator.unit_scores(state.network, "taylor")
        group = np.repeat(np.arange(len(graph.groups)), graph.widths)
        norms = np.sqrt(np.bincount(group, np.nan_to_num(scores) ** 2))
        scores = scores / np.maximum(norms, np.finfo(np.float64).tiny)[group]  # a group may be dead
        for (start, end), stay in zip(pairwise(graph.starts), simulator.space.lowest, strict=True):
            best = start + np.argsort(-np.nan_to_num(scores[start:end], nan=-np.inf), kind="stable")[:stay]
            scores[best] = np.nan
        space, widths = simulator.space, state.architecture.widths.copy()
        goal = simulator.removed(state) + simulator.step_budget(state)
        for unit in np.argsort(scores, kind="stable")[: np.count_nonzero(~np.isnan(scores))]:  # NaN comes last
            widths[group[unit]] -= 1
            if (gone := space.removed(widths)) > goal:  # it is too large for what is left of the step
                widths[group[unit]] += 1
            elif gone == goal:
                break
        filters = (state.architecture.widths - widths) * graph.filters_per_unit
        return filters / max(filters.sum(), 1)


class RandomAgent(SearchAgent):
    """Draws every action uniformly from the action space, episode after episode, and keeps the best network found."""

    def search(self, env: BudgetedEnv) -> None:
        for _ in env.episodes():
            while not env.finished:
                env.step(self.rng.uniform(size=len(env.graph.groups)))
