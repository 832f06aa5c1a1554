"""Rewards, computed by hand."""

from __future__ import annotations

import json
from math import log

import pytest
import yaml

from prune_gym.scoring.evaluation import Score
from prune_gym.simulation.formula import formula
from prune_gym.simulation.rewards import REWARDS, make_reward, paper_reward
from prune_gym.simulation.target import Target
from prune_gym.simulation.terms import Function

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
    reward = paper_reward(*weights)
    assert reward(AFTER, AFTER, BEFORE) == reward(BEFORE, AFTER, BASELINE)  # of the state after alone
    assert formula(str(reward)) == reward


def test_a_function_is_taken_as_it_is() -> None:
    def drop(before: Score, after: Score, baseline: Score) -> float:
        return after.accuracy - before.accuracy + baseline.accuracy

    assert make_reward(drop) == Function(drop)
    assert make_reward(drop)(BEFORE, AFTER, BASELINE) == pytest.approx(0.6)


@pytest.mark.parametrize("reward", ["flops", "accuracy", paper_reward()])
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


def test_texts_are_formulas() -> None:
    assert make_reward("accuracy + 0.25 * flops_reduction") == REWARDS["flops"]
    assert make_reward("macs") == formula("macs")
    with pytest.raises(ValueError, match=r"reward: expected one of accuracy, .*; got 'accurcy'"):
        make_reward("accurcy + 1")


AT_THE_END = (BEFORE, AFTER, BASELINE, Target("macs_reduction", 0.5), True)
ON_THE_WAY = (BEFORE, AFTER, BASELINE, Target("macs_reduction", 0.75), False)


@pytest.mark.parametrize(
    ("name", "at_the_end", "on_the_way"),
    [
        ("improvement", 0.5 - 0.8, 0.5 - 0.8),
        ("final", 0.5, 0.0),
        ("final_improvement", (0.5 - 0.9) / 0.9, 0.0),
        ("amc_flops", -0.5 * log(400), 0.0),
        ("amc_params", -0.5 * log(50), 0.0),
        ("distiller_budget", 1.5, -3.15),
        ("distiller_harmonic", 2 * 0.5 * 0.4 / 0.9, 2 * 0.5 * 0.4 / 0.9),
        ("n2n", 0.5 / 0.9 * 0.75 * 1.25, 0.5 / 0.9 * 0.75 * 1.25),
        ("huang", (0.05 - 0.4) / 0.05 * log(1 / 0.6), (0.05 - 0.4) / 0.05 * log(1 / 0.6)),
        ("gnn_rl", -50.0, -100.0),
        ("purl", -5 * (1 - 0.5 / 0.9), -5 * (1 - 0.5 / 0.9 + 0.2)),
        ("bounded", 0.5, 0.5 - 0.15),
        ("shaped", 0.5 - 0.8, 0.99 * 0.5 - 0.8),
    ],
)
def test_the_forms_of_other_papers(name: str, at_the_end: float, on_the_way: float) -> None:
    assert make_reward(name)(*AT_THE_END) == pytest.approx(at_the_end, abs=1e-12)
    assert make_reward(name)(*ON_THE_WAY) == pytest.approx(on_the_way, abs=1e-12)


def test_every_reward_comes_back_from_its_text() -> None:
    for name, reward in REWARDS.items():
        assert make_reward(str(reward)) == reward, name
        assert json.loads(json.dumps(str(reward))) == yaml.safe_load(yaml.safe_dump(str(reward))) == str(reward)
