"""Rewards: small pure functions of the scores before and after a step and of the original network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import isfinite

import numpy as np

from prune_gym.arguments import unknown
from prune_gym.scoring.evaluation import Score

Reward = Callable[[Score, Score, Score], float]  # (before, after, baseline) -> reward


@dataclass(frozen=True)
class PaperReward:
    """Equation 17: alpha * accuracy + beta * FLOPs reduction + gamma * parameter reduction, of the state after the step."""

    alpha: float = 1.0
    beta: float = 0.0
    gamma: float = 0.0

    def __call__(self, before: Score, after: Score, baseline: Score) -> float:
        return self.alpha * after.accuracy + self.beta * after.flops_reduction + self.gamma * after.params_reduction


REWARDS: dict[str, Reward] = {
    "paper": PaperReward(),
    "accuracy": PaperReward(1.0, 0.0, 0.0),
    "flops": PaperReward(1.0, 0.25, 0.0),
    "params": PaperReward(1.0, 0.0, 0.25),
}


def make_reward(reward: str | Reward, weights: tuple[float, float, float] | None = None) -> Reward:
    """A reward by name, or a callable as it is. ``weights`` (alpha, beta, gamma) are for ``"paper"`` alone."""
    if callable(reward) and weights is None:
        return reward
    if weights is not None:
        if reward != "paper":
            raise ValueError(f"reward_weights: expected None unless reward is 'paper', got {weights} with reward {reward!r}.")
        if np.shape(weights) != (3,) or not all(isinstance(w, int | float) and isfinite(w) for w in weights):
            raise ValueError(f"reward_weights: expected three finite numbers (alpha, beta, gamma), got {weights}.")
        return PaperReward(*weights)
    if not isinstance(reward, str) or reward not in REWARDS:
        raise unknown("reward", reward, REWARDS)
    return REWARDS[reward]
