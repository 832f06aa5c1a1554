"""Yardsticks: what a pruned network is worth in the end, whatever reward taught the agent that found it."""

from __future__ import annotations

from collections.abc import Callable

from prune_gym.arguments import unknown
from prune_gym.scoring.evaluation import Score
from prune_gym.simulation.score_functions import check_takes, elementwise

Yardstick = Callable[[Score, Score], float]  # (after, baseline) -> worth, the higher the better


@elementwise
def accuracy(after: Score, baseline: Score) -> float:
    """The accuracy of the pruned network, in [0, 1]."""
    return after.accuracy


YARDSTICKS: dict[str, Yardstick] = {"accuracy": accuracy}


def make_yardstick(yardstick: str | Yardstick) -> Yardstick:
    """A yardstick by name, or a function (after, baseline) of scores to a number as it is.

    ``after`` is the score of a network at the target, ``baseline`` that of the original network. Raises ValueError for an unknown
    name, TypeError for a function that takes other arguments.
    """
    if callable(yardstick):
        check_takes("yardstick", yardstick, ("after", "baseline"))
        return yardstick
    if not isinstance(yardstick, str) or yardstick not in YARDSTICKS:
        raise unknown("yardstick", yardstick, YARDSTICKS)
    return YARDSTICKS[yardstick]
