"""Lookahead, a search that is **not in the paper** of RL-Pruner. It prunes in the same steps and samples like RL-Pruner, and has
another objective, noise and update:

- a sample is scored as the network *at the target*, its distribution applied to all that is left to remove, where RL-Pruner
  scores the network one step ahead;
- noise is added to the logarithms of the shares, so that it means the same for every group, however many there are;
- the policy moves to the mean of the best samples;
- the best sample takes one real step, and importance is computed anew.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import Annotated

import numpy as np

from prune_gym.agents.budgeted_env import BudgetedEnv
from prune_gym.agents.configured_agent import ConfiguredAgent
from prune_gym.agents.sampling import sample_tree
from prune_gym.agents.work import Work, work_in_stages
from prune_gym.arguments import AtLeast, Within, check_settings


@dataclass(frozen=True)
class LookaheadConfig:
    """Settings of lookahead."""

    noise_std: Annotated[float, Within("(0, inf)")] = 0.5
    """Standard deviation of the Gaussian noise on the logarithms of the groups' shares."""
    samples: Annotated[int, AtLeast(2)] = 10
    """Samples per stage."""
    stages: Annotated[int, AtLeast(0)] = 10
    """Sampling stages before every pruning step; where the budget pays for fewer, it goes to the first steps."""
    elites: Annotated[int, AtLeast(1)] = 3
    """The policy becomes the mean of so many samples, the best ones of a stage."""

    def __post_init__(self) -> None:
        check_settings(self)
        if self.elites > self.samples:
            raise ValueError(f"elites: expected at most as many as samples, {self.samples}, got {self.elites}.")


class Lookahead(ConfiguredAgent[LookaheadConfig]):
    """Lookahead with the Stable-Baselines3 API; a timestep is one evaluation.

    Attributes:
        logits: the policy while it learns, logarithms of the groups' shares up to a constant, float64 (groups,).
    """

    config_type = LookaheadConfig
    reads_reward = True

    logits = np.zeros(0)

    def expected_work(self, evaluations: int, steps: int) -> Work:
        samples, stages = self.config.samples, self.config.stages
        return work_in_stages(evaluations, steps, samples, steps * (1 + stages * samples))

    def search(self, env: BudgetedEnv) -> None:
        for _ in env.episodes():
            self.logits = np.log(env.uniform_action)
            while not env.finished:
                env.step(self.choose_action(env))

    def choose_action(self, env: BudgetedEnv) -> np.ndarray:
        """The action of the best sample of all stages of this step; the policy itself if the budget pays for none."""
        config, best = self.config, None
        affordable = env.evaluations_left // config.samples
        for _ in range(min(config.stages, ceil(affordable / env.steps_left))):
            found = sample_tree(env, self.sample_logits, softmax, config.samples, to_target=True)
            found.sort(key=lambda sample: -sample.value)  # the first drawn of equal ones comes first
            self.logits = np.mean([sample.action for sample in found[: config.elites]], axis=0)
            if best is None or found[0].value > best.value:
                best = found[0]
        return softmax(self.logits if best is None else best.action)

    def sample_logits(self) -> np.ndarray:
        """The policy with noise, (groups,)."""
        return self.logits + self.config.noise_std * self.rng.standard_normal(len(self.logits))


def softmax(logits: np.ndarray) -> np.ndarray:
    """The distribution with these logarithms, up to a constant."""
    weights = np.exp(logits - logits.max())
    return weights / weights.sum()
