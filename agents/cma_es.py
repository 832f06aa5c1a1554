"""CMA-ES over whole episodes: one sparsity distribution for all steps, whose logarithms are what the evolution strategy moves.

Hansen and Ostermeier, *Completely derandomized self-adaptation in evolution strategies*, 2001; the library is ``cma``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import numpy as np

from prune_gym.agents.baselines import tilted, whole_episode
from prune_gym.agents.budgeted_env import BudgetedEnv
from prune_gym.agents.configured_agent import ConfiguredAgent
from prune_gym.arguments import AtLeast, Within, check_settings

if TYPE_CHECKING:
    import cma


@dataclass(frozen=True)
class CMAESConfig:
    """Settings of CMA-ES."""

    sigma: Annotated[float, Within("(0, inf)")] = 0.5
    """Initial standard deviation of the logarithms of the groups' shares."""
    population: Annotated[int, AtLeast(2)] | None = None
    """Episodes per generation; by default 4 + 3 ln(groups), rounded down."""

    def __post_init__(self) -> None:
        check_settings(self)


class CMAESAgent(ConfiguredAgent[CMAESConfig]):
    """Searches for the distribution whose episode ends with the best network by the yardstick; starts from uniform pruning, and
    anew from there once it has converged."""

    config_type = CMAESConfig

    def search(self, env: BudgetedEnv) -> None:
        episodes = env.episodes()
        while True:
            strategy = self.strategy(len(env.graph.groups))
            while not strategy.stop():
                points = strategy.ask()
                worth = [whole_episode(env, tilted(env, point)).yardstick for point, _ in zip(points, episodes, strict=False)]
                if len(worth) < len(points):
                    return
                strategy.tell(points, [-value for value in worth])

    def strategy(self, groups: int) -> cma.CMAEvolutionStrategy:
        """One that draws from this agent's generator alone."""
        import cma  # which imports much, as pictures and statistics

        def draw(rows: int, columns: int) -> np.ndarray:
            return self.rng.standard_normal((rows, columns))

        options = {"verbose": -10, "seed": np.nan, "randn": draw}  # -10: no file of signals is read, either
        if self.config.population is not None:
            options["popsize"] = self.config.population
        return cma.CMAEvolutionStrategy(np.zeros(groups), self.config.sigma, options)
