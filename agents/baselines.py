"""Baselines that any search must beat: the same fraction everywhere, one ranking of all units, and chance."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated

import numpy as np
from stable_baselines3.common.type_aliases import GymEnv

from prune_gym.agents.budgeted_env import BudgetedEnv
from prune_gym.agents.configured_agent import ConfiguredAgent
from prune_gym.agents.search_agent import SearchAgent
from prune_gym.agents.work import Work, work_in_steps
from prune_gym.arguments import Within, check_settings
from prune_gym.envs.pruning import Preview
from prune_gym.envs.tabular import TabularEnv
from prune_gym.simulation.simulator import PruningState, removal


class UniformAgent(SearchAgent):
    """Prunes every group by the same fraction at every step. One episode is all it can do, whatever its budget."""

    def expected_work(self, evaluations: int, steps: int) -> Work:
        return work_in_steps(steps, steps)

    def search(self, env: BudgetedEnv) -> None:
        env.reset()
        whole_episode(env, env.uniform_action)


class GlobalRankingAgent(SearchAgent):
    """Ranks all units of all groups and prunes the ones with the lowest scores, whatever their group. With a step ratio of 1, one
    step does all: one-shot pruning. One episode is all it can do. A subclass says what the scores are, in :meth:`unit_scores`.

    The best units of each group stay, as many as the environment says, and a unit that holds more than is left to remove is
    passed over, so that the target is met exactly.
    """

    def expected_work(self, evaluations: int, steps: int) -> Work:
        return work_in_steps(steps, steps)

    @abstractmethod
    def unit_scores(self, state: PruningState) -> np.ndarray:
        """Scores that are comparable between groups, float64 (units,); NaN for the units that are gone."""

    def set_env(self, env: GymEnv | str, force_reset: bool = True) -> None:
        """Raises TypeError for an environment on a table, too, which has no units to rank."""
        super().set_env(env, force_reset)
        if isinstance(self.pruning_env, TabularEnv):
            raise TypeError(f"env: {type(self).__name__} ranks the units of a network; a TabularEnv has none.")

    def search(self, env: BudgetedEnv) -> None:
        env.reset()
        while not env.finished:
            env.step(self.ranking_action(env.snapshot()))

    def ranking_action(self, state: PruningState) -> np.ndarray:
        """The share of the next step's filters that each group loses by the ranking, float64 (groups,)."""
        simulator, graph = self.pruning_env.simulator, self.pruning_env.graph
        space, widths = simulator.space, state.architecture.widths.copy()
        scores = self.unit_scores(state).copy()
        for (start, end), stay in zip(pairwise(graph.starts), space.lowest, strict=True):
            best = start + np.argsort(-np.nan_to_num(scores[start:end], nan=-np.inf), kind="stable")[:stay]
            scores[best] = np.nan
        group = np.repeat(np.arange(len(graph.groups)), graph.widths)
        goal = simulator.removed(state) + simulator.step_budget(state)
        for unit in np.argsort(scores, kind="stable")[: np.count_nonzero(~np.isnan(scores))]:  # NaN comes last
            widths[group[unit]] -= 1
            if (gone := space.removed(widths)) > goal:  # it is too large for what is left of the step
                widths[group[unit]] += 1
            elif gone == goal:
                break
        return removal(state.architecture.widths - widths, graph.filters_per_unit)


class GlobalTaylorAgent(GlobalRankingAgent):
    """Ranks by Taylor importance over the Euclidean norm of that of the unit's group, without which layers are not comparable
    (Molchanov et al., *Pruning Convolutional Neural Networks for Resource Efficient Inference*, 2017)."""

    def unit_scores(self, state: PruningState) -> np.ndarray:
        graph = self.pruning_env.graph
        scores = self.pruning_env.simulator.unit_scores(state.network, "taylor")
        group = np.repeat(np.arange(len(graph.groups)), graph.widths)
        norms = np.sqrt(np.bincount(group, np.nan_to_num(scores) ** 2))
        return scores / np.maximum(norms, np.finfo(np.float64).tiny)[group]  # a group may be dead


class GlobalSurgeonAgent(GlobalRankingAgent):
    """Ranks by the error that removing a unit leaves (optimal brain surgeon, ``importance="obs"``) over what it saves at the
    present widths: filters, MACs or parameters, as the target counts."""

    def unit_scores(self, state: PruningState) -> np.ndarray:
        simulator, graph = self.pruning_env.simulator, self.pruning_env.graph
        widths = state.architecture.widths
        without = np.maximum(widths - np.eye(len(widths), dtype=np.int64), 1)
        saved = simulator.space.removed(without) - simulator.space.removed(widths)
        return simulator.unit_scores(state.network, "obs") / np.repeat(np.maximum(saved, 1), graph.widths)


class GlobalLampAgent(GlobalRankingAgent):
    """Ranks by LAMP, the share that a unit has in the squared weights of its group that are left with it; see ``lamp`` of
    :func:`prune_gym.importance`. It says how many units each group loses; which of them go is the environment's to say, and the
    same with ``importance="lamp"``."""

    def unit_scores(self, state: PruningState) -> np.ndarray:
        return self.pruning_env.simulator.unit_scores(state.network, "lamp")


@dataclass(frozen=True)
class RandomConfig:
    """Settings of random search."""

    scale: Annotated[float, Within("(0, inf)")] = 0.5
    """Standard deviation of the logarithms of the groups' shares."""

    def __post_init__(self) -> None:
        check_settings(self)


class RandomAgent(ConfiguredAgent[RandomConfig]):
    """The floor: one sparsity distribution for every episode, log-normal around that of uniform pruning."""

    config_type = RandomConfig

    def search(self, env: BudgetedEnv) -> None:
        for _ in env.episodes():
            whole_episode(env, tilted(env, self.config.scale * self.rng.standard_normal(len(env.graph.groups))))


def tilted(env: BudgetedEnv, logarithms: np.ndarray) -> np.ndarray:
    """The distribution of uniform pruning with the groups' shares multiplied by ``exp(logarithms)``, (groups,)."""
    weights = env.uniform_action * np.exp(logarithms - logarithms.max())
    return weights / weights.sum()


def whole_episode(env: BudgetedEnv, action: np.ndarray) -> Preview:
    """Take the same action until the target is reached; gives the network there."""
    while True:
        preview = env.step(action)
        if env.finished:
            return preview
