"""The linter for rewards: the faults of others' rewards, and faults made on purpose."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from prune_gym import tables
from prune_gym.benchmark.rewards.__main__ import GalleryConfig, LintConfig, OptimumConfig, main, optima
from prune_gym.benchmark.rewards.episodes import random_episodes
from prune_gym.benchmark.rewards.lint import FAULT, FINE, Finding, lint
from prune_gym.scoring.evaluation import Score
from prune_gym.scoring.latency_model import LatencyModel, random_widths
from prune_gym.simulation.block_world import BlockGame, world_of
from prune_gym.simulation.rewards import Reward, VectorReward, make_reward
from prune_gym.simulation.yardsticks import accuracy


@pytest.fixture(scope="module")
def game() -> BlockGame:
    return BlockGame(world_of(tables.load("digits-mobilenet")), "macs_reduction", 0.75)


def findings(game: BlockGame, reward: Reward, gamma: float = 0.99) -> dict[str, Finding]:
    made = make_reward(reward)
    assert not isinstance(made, VectorReward)
    return {finding.check: finding for finding in lint(made, game, gamma, accuracy)}


def faults(game: BlockGame, reward: Reward, gamma: float = 0.99) -> set[str]:
    return {check for check, finding in findings(game, reward, gamma).items() if finding.verdict == FAULT}


def test_nothing_is_wrong_with_the_last_network_alone(game: BlockGame) -> None:
    assert faults(game, "final", gamma=1.0) == set()
    found = findings(game, "final", gamma=1.0)
    assert found["finite"].text == "a finite number for all 530,780 moves"
    assert found["savings"].verdict == "note"
    assert found["tau"].text.endswith("Kendall's tau 1.00")


def test_distillers_mean_shrinks_with_savings(game: BlockGame) -> None:
    found = findings(game, "distiller_harmonic")
    assert found["savings"].verdict == FAULT
    assert found["savings"].text.startswith("10% less of a network gives less reward in 100% of the moves")


def test_the_cliffs_of_gnn_rl_and_distiller(game: BlockGame) -> None:
    for reward in ("gnn_rl", "distiller_budget"):
        found = findings(game, reward)
        assert found["cliff"].verdict == FAULT
        assert found["cliff"].text.startswith("the target is a cliff of ")
    assert findings(game, "bounded")["cliff"].verdict == "fine"


@pytest.mark.parametrize(
    ("reward", "expected"),
    [
        ("1 - accuracy", {"accuracy", "tau", "optimum"}),
        ("accuracy * macs / baseline.macs", {"savings", "tau", "optimum"}),  # it rewards growth
        ("terminal * accuracy * 1000", {"scale"}),
        ("terminal * accuracy / 1000", {"scale"}),
        ("terminal * accuracy + shaping(removed, 0.9)", {"gamma", "tau"}),
        ("0 * accuracy", {"accuracy", "scale", "tau", "optimum"}),
        ("log(accuracy - 0.9)", {"finite"}),
        ("1 / (before.accuracy - accuracy)", {"finite"}),
    ],
)
def test_faults_made_on_purpose(game: BlockGame, reward: str, expected: set[str]) -> None:
    found = faults(game, reward, gamma=1.0)
    assert expected <= found, found
    if expected == {"finite"}:
        assert list(findings(game, reward)) == ["finite"]


def test_neutral_shaping_is_no_fault_whatever_its_potential(game: BlockGame) -> None:
    for potential in ("1 - accuracy", "macs / baseline.macs"):
        found = findings(game, f"terminal * accuracy + 2 * shaping({potential}, 1)", 1.0)
        assert {found[check].verdict for check in ("accuracy", "potential", "optimum")} == {"fine"}
        assert found["savings"].verdict == "note"


@pytest.mark.parametrize("reward", ["max(shaping(accuracy, 1), 0)", "terminal * (accuracy + shaping(accuracy, 1))"])
def test_shaping_that_is_no_summand_is_one(game: BlockGame, reward: str) -> None:
    found = findings(game, reward, 1.0)["potential"]
    assert found.verdict == FAULT
    assert "is no summand of the reward" in found.text


def test_cliffs_in_other_words(game: BlockGame) -> None:
    for reward in (
        "where(macs <= 0.25 * baseline.macs, 100 * accuracy - 100, -100)",
        "0.00001 * where(removed >= target, accuracy, -1)",
    ):
        assert findings(game, reward)["cliff"].verdict == FAULT


def test_what_is_beyond_the_target_may_be_punished(game: BlockGame) -> None:
    found = findings(game, "accuracy - abs(removed - target)", 1.0)["savings"]
    assert (found.verdict, found.text[:66]) == ("note", "10% less of a network gives less reward in the last step alone, 0.")


def test_a_potential_at_the_end_is_said(game: BlockGame) -> None:
    kept = findings(game, "difference(accuracy, 0.99)")["potential"]
    assert kept.verdict == "note"
    assert "it rewards the last network and for few steps" in kept.text
    assert findings(game, "difference(accuracy, 1)", 1.0)["potential"].text.endswith("it rewards the last network")
    assert findings(game, "terminal * accuracy + shaping(removed, 0.99)")["potential"].verdict == "fine"


def test_functions_of_yours(game: BlockGame) -> None:
    def mine(before: Score, after: Score, baseline: Score) -> float:
        return after.accuracy - 0.1 * after.params / baseline.params

    found = findings(game, mine, gamma=1.0)
    assert found["finite"].text == "a finite number for the moves of 1,000 random games"
    assert found["accuracy"].verdict == found["savings"].verdict == "fine"
    assert found["optimum"].text.startswith("not computed: mark your function with")
    assert faults(game, lambda before, after, baseline: "much") == {"finite"}  # type: ignore[arg-type, return-value]
    assert faults(game, lambda before, after, baseline: 1 / (after.macs - after.macs)) == {"finite"}


def test_random_games(game: BlockGame) -> None:
    episodes = random_episodes(game, 50, seed=3)
    assert game.over[episodes.states[-1]].all()
    assert episodes.moved[0].all()
    assert (episodes.states == random_episodes(game, 50, seed=3).states).all()
    length = episodes.returns(make_reward("1 + 0 * accuracy"), 1.0)  # type: ignore[arg-type]
    assert (length == episodes.moved.sum(0)).all()
    final = episodes.returns(make_reward("final"), 1.0)  # type: ignore[arg-type]
    assert (final == episodes.worth(accuracy)).all()


def test_the_command(capsys: pytest.CaptureFixture[str], tmp_path) -> None:
    assert main(LintConfig(tasks=("digits-mobilenet",), reward="final", gamma=1.0)) == 0
    assert capsys.readouterr().out.startswith("terminal * accuracy  on digits-mobilenet at -75% of the MACs, gamma 1\n  fine")
    assert main(LintConfig(tasks=("digits-mobilenet",), reward="gnn_rl")) == 1
    assert main(GalleryConfig(tasks=("digits-mobilenet",), rewards=("final", "removed"), out=tmp_path)) == 0
    assert (tmp_path / "gallery_digits_mobilenet_75.png").stat().st_size > 10_000
    config = OptimumConfig(tasks=("digits-mobilenet",), rewards=("final", "shaped", "removed"), out=tmp_path / "found.csv")
    assert main(config) == 0
    rows = list(optima(config))
    assert [row["without_shaping"] for row in rows] == ["", "same", ""]
    assert [row["steps"] for row in rows] == ["10", "10", "18"]
    lines = (tmp_path / "found.csv").read_text().splitlines()
    assert lines[1] == "digits-mobilenet,0.75,0.99,final,terminal * accuracy,10,0.6625,0.0125,"
    assert (tmp_path / "found.md").read_text().splitlines() == [
        "| reward | digits-mobilenet, -75% |",
        "|---|---|",
        "| `final` | 1.2 (10 moves) |",
        "| `shaped` | 1.2 (10 moves) |",
        "| `removed` | 38.0 (18 moves) |",
    ]
    with pytest.raises(ValueError, match="rewards: expected one that is a number, got 'vector'"):
        list(optima(OptimumConfig(rewards=("vector",))))
    with pytest.raises(ValueError, match=r"tasks: expected one of digits, .*; got 'digit'"):
        LintConfig(tasks=("digit",))


def test_time_counts_as_savings(game: BlockGame, tmp_path: Path) -> None:
    """A smaller network has smaller widths, too."""
    full = game.world.widths[game.world.start]
    timed = random_widths(full, 60, np.random.default_rng(0))
    LatencyModel("", 1, 1.0, np.zeros((0, 2), int), full, timed, 0.2 + 0.8 * (timed / full).mean(1)).save(tmp_path / "clock.json")
    for text, verdict in ((f'0 - latency("{tmp_path}/clock.json")', FINE), (f'latency("{tmp_path}/clock.json")', FAULT)):
        assert findings(game, text, 1.0)["savings"].verdict == verdict
