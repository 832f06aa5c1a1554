"""TPE over whole episodes: one sparsity distribution for all steps, whose logarithms Optuna's sampler chooses.

Bergstra et al., *Algorithms for hyper-parameter optimization*, 2011; the library is ``optuna``, of the extra ``tuning``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import numpy as np
from stable_baselines3.common.type_aliases import GymEnv

from prune_gym.agents.baselines import tilted, whole_episode
from prune_gym.agents.budgeted_env import BudgetedEnv
from prune_gym.agents.configured_agent import ConfiguredAgent
from prune_gym.arguments import Within, check_settings

if TYPE_CHECKING:
    from optuna import Study


@dataclass(frozen=True)
class TPEConfig:
    """Settings of TPE; all others are Optuna's."""

    bound: Annotated[float, Within("(0, inf)")] = 3.0
    """The logarithms of the groups' shares, over those of uniform pruning, lie between minus this and this."""

    def __post_init__(self) -> None:
        check_settings(self)


class TPEAgent(ConfiguredAgent[TPEConfig]):
    """Searches for the distribution whose episode ends with the best network by the yardstick. A trial is an episode."""

    config_type = TPEConfig

    def set_env(self, env: GymEnv | str, force_reset: bool = True) -> None:
        """Raises ImportError without Optuna, too."""
        try:
            import optuna  # noqa: F401
        except ImportError as error:
            raise ImportError('agent: TPE needs Optuna; pip install "prune_gym[tuning]".') from error
        super().set_env(env, force_reset)

    def search(self, env: BudgetedEnv) -> None:
        from optuna.distributions import BaseDistribution, FloatDistribution

        study, bound = self.study(), self.config.bound
        space: dict[str, BaseDistribution] = {group.name: FloatDistribution(-bound, bound) for group in env.graph.groups}
        for _ in env.episodes():
            trial = study.ask(space)
            logarithms = np.array([trial.params[name] for name in space])
            study.tell(trial, whole_episode(env, tilted(env, logarithms)).yardstick)

    def study(self) -> Study:
        """One that draws from a generator seeded by this agent's, and says nothing."""
        import optuna

        sampler = optuna.samplers.TPESampler(seed=int(self.rng.integers(2**32)))
        verbosity = optuna.logging.get_verbosity()
        optuna.logging.set_verbosity(optuna.logging.WARNING)  # else it announces a study
        try:
            return optuna.create_study(direction="maximize", sampler=sampler)
        finally:
            optuna.logging.set_verbosity(verbosity)
