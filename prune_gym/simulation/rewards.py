"""Rewards: small pure functions of the scores before and after a step and of the original network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import isfinite
from typing import ClassVar

import numpy as np

from prune_gym.arguments import unknown
from prune_gym.scoring.evaluation import Score
from prune_gym.simulation.score_functions import check_takes

Reward = Callable[[Score, Score, Score], float]  # (before, after, baseline) -> reward


@dataclass(frozen=True)
class PaperReward:
    """Equation 17: alpha * accuracy + beta * FLOPs reduction + gamma * parameter reduction, of the state after the step."""

    alpha: float = 1.0
    beta: float = 0.0
    gamma: float = 0.0

    elementwise: ClassVar[bool] = True  # see prune_gym.simulation.score_functions

    def __call__(self, before: Score, after: Score, baseline: Score) -> float:
        return self.alpha * after.accuracy + self.beta * after.flops_reduction + self.gamma * after.params_reduction


@dataclass(frozen=True)
class VectorReward:
    """For multi-objective agents: accuracy, MACs reduction and parameter reduction after the step, float32 (3,), in [0, 1]."""

    OBJECTIVES: ClassVar = ("accuracy", "flops_reduction", "params_reduction")

    def __call__(self, before: Score, after: Score, baseline: Score) -> np.ndarray:
        return np.array([getattr(after, objective) for objective in self.OBJECTIVES], np.float32)


@dataclass(frozen=True)
class Improvement:
    """What a step adds to the worth of the network: ``gamma * phi(after) - phi(before)``.

    The potential of a network, ``phi(x) = reward(x, x, baseline)``, is what ``reward`` gives for it. ``gamma`` is the discount
    of the agent that learns. See :class:`prune_gym.envs.ImprovementReward` for what an episode adds up to.
    """

    reward: Reward
    gamma: float

    @property
    def elementwise(self) -> bool:
        return getattr(self.reward, "elementwise", False)

    def __call__(self, before: Score, after: Score, baseline: Score) -> float:
        return self.gamma * self.reward(after, after, baseline) - self.reward(before, before, baseline)


REWARDS: dict[str, Reward] = {
    "paper": PaperReward(),
    "accuracy": PaperReward(1.0, 0.0, 0.0),
    "flops": PaperReward(1.0, 0.25, 0.0),
    "params": PaperReward(1.0, 0.0, 0.25),
}
VECTOR_REWARDS = {"vector": VectorReward()}


def make_reward(reward: str | Reward, weights: tuple[float, float, float] | None = None) -> Reward | VectorReward:
    """A reward by name, or a function (before, after, baseline) of scores to a number as it is.

    ``weights`` (alpha, beta, gamma) are for ``"paper"`` alone. Raises ValueError for an unknown name and other weights, TypeError
    for a function that takes other arguments.
    """
    if weights is not None:
        if reward != "paper":
            raise ValueError(f"reward_weights: expected None unless reward is 'paper', got {weights} with reward {reward!r}.")
        if np.shape(weights) != (3,) or not all(isinstance(w, int | float) and isfinite(w) for w in weights):
            raise ValueError(f"reward_weights: expected three finite numbers (alpha, beta, gamma), got {weights}.")
        return PaperReward(*weights)
    if callable(reward):
        check_takes("reward", reward, ("before", "after", "baseline"))
        return reward
    named = REWARDS | VECTOR_REWARDS
    if not isinstance(reward, str) or reward not in named:
        raise unknown("reward", reward, named)
    return named[reward]
