"""Rewards: small pure functions of the scores before and after a step and of the original network."""

from __future__ import annotations

from collections.abc import Callable

from prune_gym.evaluation import Score
from prune_gym.names import unknown

Reward = Callable[[Score, Score, Score], float]  # (before, after, baseline) -> reward


def paper(alpha: float = 1.0, beta: float = 0.0, gamma: float = 0.0) -> Reward:
    """Equation 17: alpha * accuracy + beta * FLOPs reduction + gamma * parameter reduction, of the state after the step."""

    def reward(before: Score, after: Score, baseline: Score) -> float:
        return alpha * after.accuracy + beta * after.flops_reduction + gamma * after.params_reduction

    return reward


REWARDS: dict[str, Reward] = {
    "paper": paper(),
    "accuracy": paper(1.0, 0.0, 0.0),
    "flops": paper(1.0, 0.25, 0.0),
    "params": paper(1.0, 0.0, 0.25),
}


def make_reward(reward: str | Reward, weights: tuple[float, float, float] | None = None) -> Reward:
    """A reward by name, or a callable as it is. ``weights`` (alpha, beta, gamma) are for ``"paper"`` alone."""
    if callable(reward) and weights is None:
        return reward
    if weights is not None:
        if reward != "paper":
            raise ValueError(f"reward_weights: expected None unless reward is 'paper', got {weights} with reward {reward!r}.")
        if len(weights) != 3:
            raise ValueError(f"reward_weights: expected three numbers (alpha, beta, gamma), got {weights}.")
        return paper(*weights)
    if reward not in REWARDS:
        raise unknown("reward", reward, REWARDS)
    return REWARDS[reward]
