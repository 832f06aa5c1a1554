"""Rewards, computed by hand."""

from __future__ import annotations

import pytest

from prune_gym.scoring.evaluation import Score
from prune_gym.simulation.rewards import REWARDS, PaperReward, make_reward

BASELINE = Score(accuracy=0.9, macs=1000, params=200, flops_reduction=0.0, params_reduction=0.0, channel_sparsity=0.0)
BEFORE = Score(accuracy=0.8, macs=800, params=150, flops_reduction=0.2, params_reduction=0.25, channel_sparsity=0.1)
AFTER = Score(accuracy=0.5, macs=400, params=50, flops_reduction=0.6, params_reduction=0.75, channel_sparsity=0.4)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("paper", 0.5),
        ("accuracy", 0.5),
        ("flops", 0.5 + 0.25 * 0.6),
        ("params", 0.5 + 0.25 * 0.75),
    ],
)
def test_strategies_of_the_paper(name: str, value: float) -> None:
    assert make_reward(name)(BEFORE, AFTER, BASELINE) == pytest.approx(value, abs=1e-12)
    assert name in REWARDS


@pytest.mark.parametrize(
    ("weights", "value"),
    [((2.0, 0.0, 0.0), 1.0), ((0.0, 1.0, 0.0), 0.6), ((0.0, 0.0, 1.0), 0.75), ((1.0, -0.5, 2.0), 0.5 - 0.3 + 1.5)],
)
def test_equation_17_by_hand(weights: tuple[float, float, float], value: float) -> None:
    assert make_reward("paper", weights)(BEFORE, AFTER, BASELINE) == pytest.approx(value, abs=1e-12)
    assert PaperReward(*weights)(BEFORE, AFTER, BASELINE) == pytest.approx(value, abs=1e-12)
    assert PaperReward(*weights)(AFTER, AFTER, BEFORE) == PaperReward(*weights)(
        BEFORE, AFTER, BASELINE
    )  # of the state after alone


def test_a_function_is_taken_as_it_is() -> None:
    def drop(before: Score, after: Score, baseline: Score) -> float:
        return after.accuracy - before.accuracy + baseline.accuracy

    assert make_reward(drop) is drop
    assert make_reward(drop)(BEFORE, AFTER, BASELINE) == pytest.approx(0.6)


@pytest.mark.parametrize("reward", ["flops", "accuracy", PaperReward()])
def test_weights_are_for_the_paper_alone(reward: object) -> None:
    with pytest.raises(ValueError, match=r"reward_weights: expected None unless reward is 'paper', got \(1, 0, 0\) with reward"):
        make_reward(reward, (1, 0, 0))  # type: ignore[arg-type]


@pytest.mark.parametrize("weights", [(1.0, 2.0), (1.0, 2.0, 3.0, 4.0), (), (float("nan"), 0.0, 0.0), ("a", 1, 2)])
def test_three_weights(weights: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match=r"reward_weights: expected three finite numbers \(alpha, beta, gamma\), got \("):
        make_reward("paper", weights)  # type: ignore[arg-type]


def test_unknown_reward() -> None:
    with pytest.raises(ValueError, match=r"reward: expected one of paper, .*; got 'flop'\. Did you mean 'flops'\?"):
        make_reward("flop")
    with pytest.raises(ValueError, match=r"reward: expected one of .*; got None"):
        make_reward(None)  # type: ignore[arg-type]
