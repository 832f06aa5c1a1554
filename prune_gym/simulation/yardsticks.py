"""Yardsticks: what a pruned network is worth in the end, whatever reward taught the agent that found it."""

from __future__ import annotations

from collections.abc import Callable

from prune_gym.arguments import unknown
from prune_gym.scoring.evaluation import Score

Yardstick = Callable[[Score, Score], float]  # (after, baseline) -> worth, the higher the better


def accuracy(after: Score, baseline: Score) -> float:
    """The accuracy of the pruned network, in [0, 1]."""
    return after.accuracy


YARDSTICKS: dict[str, Yardstick] = {"accuracy": accuracy}


def make_yardstick(yardstick: str | Yardstick) -> Yardstick:
    """A yardstick by name, or a callable as it is."""
    if callable(yardstick):
        return yardstick
    if not isinstance(yardstick, str) or yardstick not in YARDSTICKS:
        raise unknown("yardstick", yardstick, YARDSTICKS)
    return YARDSTICKS[yardstick]
