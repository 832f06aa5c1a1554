"""What networks are judged by, and that functions of scores are what they should be."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest

from prune_gym.scoring.evaluation import Score
from prune_gym.simulation.rewards import make_reward, paper_reward
from prune_gym.simulation.score_functions import check_takes, finite
from prune_gym.simulation.terms import Function
from prune_gym.simulation.yardsticks import YARDSTICKS, make_yardstick

BASELINE = Score(accuracy=0.9, macs=1000, params=200, flops_reduction=0.0, params_reduction=0.0, channel_sparsity=0.0)
AFTER = Score(accuracy=0.5, macs=400, params=50, flops_reduction=0.6, params_reduction=0.75, channel_sparsity=0.4)


def test_accuracy_is_that_of_the_pruned_network() -> None:
    assert make_yardstick("accuracy")(AFTER, BASELINE) == 0.5
    assert list(YARDSTICKS) == ["accuracy"]


def test_a_function_is_taken_as_it_is() -> None:
    def kept(after: Score, baseline: Score) -> float:
        return after.accuracy / baseline.accuracy

    assert make_yardstick(kept) is kept


def test_unknown_yardstick() -> None:
    with pytest.raises(ValueError, match=r"yardstick: expected one of accuracy; got 'acuracy'\. Did you mean 'accuracy'\?"):
        make_yardstick("acuracy")
    with pytest.raises(ValueError, match="yardstick: expected one of accuracy; got None"):
        make_yardstick(None)  # type: ignore[arg-type]


def one(after: Score) -> float:
    return 1.0


class Methods:
    def four(self, a: Score, b: Score, c: Score, d: Score) -> float:
        return 1.0

    def three(self, a: Score, b: Score, c: Score) -> float:
        return 1.0


@pytest.mark.parametrize(
    ("function", "got"),
    [
        (one, r"one\(after: .*\) -> "),
        (lambda: 1.0, r"<lambda>\(\)"),
        (lambda a, b: 1.0, r"<lambda>\(a, b\)"),
        (Methods().four, r"four\("),
        (lambda a, b, c, *, d: 1.0, r"<lambda>\(a, b, c, \*, d\)"),
    ],
)
def test_rewards_of_other_arguments_are_refused_when_they_are_given(function: Any, got: str) -> None:
    with pytest.raises(TypeError, match=rf"reward: expected a function of \(before, after, baseline\), got {got}"):
        make_reward(function)


def test_yardsticks_of_other_arguments_too() -> None:
    with pytest.raises(TypeError, match=r"yardstick: expected a function of \(after, baseline\), got one\("):
        make_yardstick(one)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"yardstick: expected a function of \(after, baseline\), got Operation\(before"):
        make_yardstick(paper_reward(2.0))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "function",
    [
        lambda a, b, c: 1.0,
        lambda *scores: 1.0,
        lambda a, b, c, d=1: 1.0,
        Methods().three,
        partial(Methods.three, 0),
        max,
    ],
)
def test_functions_that_can_be_called_are_taken(function: Any) -> None:
    check_takes("reward", function, ("before", "after", "baseline"))
    assert make_reward(function) == Function(function)


@pytest.mark.parametrize("value", [1, 0.5, np.float32(0.5), np.int64(2), True, np.bool_(True), -3.5])
def test_numbers(value: Any) -> None:
    found = finite("reward", value, AFTER)
    assert type(found) is float
    assert found == value


@pytest.mark.parametrize("value", [None, "0.5", np.zeros(1), np.zeros(3), 1j, [1.0]])
def test_other_things_than_numbers(value: Any) -> None:
    with pytest.raises(TypeError, match=r"reward: expected a finite number, got .* for Score\(accuracy=0.5"):
        finite("reward", value, AFTER)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -np.inf, np.float32("nan")])
def test_numbers_that_are_not_finite(value: Any) -> None:
    with pytest.raises(ValueError, match=r"yardstick: expected a finite number, got .*(nan|inf).* for Score"):
        finite("yardstick", value, AFTER)
