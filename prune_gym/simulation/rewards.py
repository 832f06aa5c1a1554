"""Rewards: what agents learn from, as formulas of the scores before and after a step and of the original network.

The forms of other papers are written for whole networks, which their agents see when an episode ends. Here they are rewards of
every step, as the paper's are; ``terminal * (...)`` gives them at the end alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from math import isfinite
from operator import add
from typing import Any, ClassVar

import numpy as np

from prune_gym.arguments import unknown
from prune_gym.scoring.evaluation import Score
from prune_gym.simulation.formula import formula, reads_a_file
from prune_gym.simulation.target import Target
from prune_gym.simulation.terms import QUANTITIES, Formula, Number, Quantity

Reward = Formula | Callable[..., Any] | str  # see :func:`make_reward`


def paper_reward(alpha: float = 1.0, beta: float = 0.0, gamma: float = 0.0) -> Formula:
    """Equation 17: alpha * accuracy + beta * FLOPs reduction + gamma * parameter reduction, of the state after the step. What has
    no weight is left out."""
    weights = {"accuracy": alpha, "flops_reduction": beta, "params_reduction": gamma}
    terms = [Quantity(name) if weight == 1 else weight * Quantity(name) for name, weight in weights.items() if weight]
    return reduce(add, terms) if terms else Number(0)


FORMS: dict[str, str] = {
    # the three strategies of the RL-Pruner paper
    "accuracy": "accuracy",
    "flops": "accuracy + 0.25 * flops_reduction",
    "params": "accuracy + 0.25 * params_reduction",
    # what a step adds, and the last network alone
    "improvement": "accuracy - before.accuracy",
    "final": "terminal * accuracy",
    "final_improvement": "terminal * (accuracy - baseline.accuracy) / baseline.accuracy",  # CompilerGym: over a named baseline
    # AMC (He et al., 2018); the first of its three is "final"
    "amc_flops": "terminal * -(1 - accuracy) * log(macs)",
    "amc_params": "terminal * -(1 - accuracy) * log(params)",
    # distiller's: a penalty while the budget is missed, and a mean that it calls harmonic, which grows with the MACs that remain
    "distiller_budget": "where(removed >= target, accuracy + 1, -3 - (target - removed))",
    "distiller_harmonic": "2 * accuracy * (macs / baseline.macs) / (accuracy + macs / baseline.macs)",
    # N2N (Ashok et al., 2018): compression with falling returns
    "n2n": "accuracy / baseline.accuracy * params_reduction * (2 - params_reduction)",
    # Huang et al., 2018: an accepted drop, here of five points, times the logarithm of the compression
    "huang": "(0.05 - (baseline.accuracy - accuracy)) / 0.05 * log(1 / (1 - channel_sparsity))",
    # GNN-RL (Yu et al., 2022): minus the error in percent, and a cliff where the budget is missed
    "gnn_rl": "where(removed >= target, 100 * accuracy - 100, -100)",
    # PuRL (recalled, not verified): what is missing to two targets, at every step
    "purl": "-5 * (max(1 - accuracy / baseline.accuracy, 0) + max(1 - removed / target, 0))",
    # a penalty that is bound to the target
    "bounded": "accuracy - max(target - removed, 0)",
    # potential-based: the accuracy at the end, and on the way what a step adds or takes
    "shaped": "terminal * accuracy + shaping(accuracy, 0.99)",
}
REWARDS: dict[str, Formula] = {"paper": paper_reward()} | {name: formula(text) for name, text in FORMS.items()}


def make_cost(cost: Reward | None) -> Formula | None:
    """What a step costs, beside its reward, as of :func:`make_reward`; None for nothing. Raises ValueError for an unknown name, a
    vector, and a text that is no formula, TypeError for a function that takes other arguments."""
    return None if cost is None else make_scalar(cost, "cost")


@dataclass(frozen=True)
class VectorReward:
    """For multi-objective agents: accuracy, MACs reduction and parameter reduction after the step, float32 (3,), in [0, 1]."""

    OBJECTIVES: ClassVar = ("accuracy", "flops_reduction", "params_reduction")

    def __call__(
        self, before: Score, after: Score, baseline: Score, target: Target | None = None, terminal: bool = False
    ) -> np.ndarray:
        return np.array([getattr(after, objective) for objective in self.OBJECTIVES], np.float32)


VECTOR_REWARDS = {"vector": VectorReward()}


def make_reward(reward: Reward, weights: tuple[float, float, float] | None = None) -> Formula | VectorReward:
    """A reward by name, by the text of a formula, or a function of yours: of the scores ``(before, after, baseline)``, or of
    these, the :class:`~prune_gym.simulation.target.Target` and whether the episode ends.

    ``weights`` (alpha, beta, gamma) are for ``"paper"`` alone. Raises ValueError for an unknown name, a text that is no formula,
    and other weights, TypeError for a function that takes other arguments.
    """
    if weights is not None:
        if reward != "paper":
            raise ValueError(f"reward_weights: expected None unless reward is 'paper', got {weights} with reward {reward!r}.")
        if np.shape(weights) != (3,) or not all(isinstance(w, int | float) and isfinite(w) for w in weights):
            raise ValueError(f"reward_weights: expected three finite numbers (alpha, beta, gamma), got {weights}.")
        return paper_reward(*weights)
    return _made("reward", reward)


def make_scalar(reward: Reward, argument: str = "reward") -> Formula:
    """:func:`make_reward` for where rewards are numbers. Raises ValueError for a vector, too."""
    made = _made(argument, reward)
    if isinstance(made, VectorReward):
        raise ValueError(f"{argument}: expected one that is a number, got 'vector'.")
    return made


def lasting_text(reward: str) -> str:
    """The text of a reward as it means the same from every folder and as long as its files do: as given, or, where it reads one,
    with the file's absolute path and digest. Raises like :func:`make_reward`."""
    return str(make_reward(reward)) if reads_a_file(reward) else reward


def _made(argument: str, reward: Reward) -> Formula | VectorReward:
    named = REWARDS | VECTOR_REWARDS
    match reward:
        case VectorReward():
            return reward
        case str() if reward in named:
            return named[reward]
        case str() if not reward.isidentifier() or reward in QUANTITIES:
            return formula(reward, argument)
    if isinstance(reward, str) or not callable(reward):
        raise unknown(argument, reward, named)
    return formula(reward, argument)
