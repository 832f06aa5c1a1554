"""Habits of agents: by hand, and added to what is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from prune_gym.benchmark.games import Game
from prune_gym.benchmark.play import KINDS, Play, Record
from prune_gym.benchmark.report.standings import Problem
from prune_gym.benchmark.rewards.habits import COLUMNS, GAMES, HABITS, add_habits, habit, habits_picture

STEP, PREVIEW = KINDS.index("step"), KINDS.index("preview")


def record(networks: list[tuple[int, int, float]], reward: str = "accuracy", seed: int = 0) -> Record:
    """A play on a network of 100 MACs of which 75 have to go, by the kind, MACs and accuracy of what was scored."""
    kinds, macs, accuracy = zip(*networks, strict=True)
    game = Game("tabular-digits-mobilenet", 1, 0.75, 1000)
    widths = np.tile(np.array(macs, np.int32)[:, None], (1, 10))
    arrays = {"kind": np.array(kinds), "macs": np.array(macs), "accuracy": np.array(accuracy), "widths": widths}
    return Record(Play(game, "dqn", seed, reward=reward).key, {"full_macs": 100}, {}, arrays)


def test_by_hand() -> None:
    first, second = [(STEP, 60, 0.9), (PREVIEW, 20, 0.1), (STEP, 24, 0.5)], [(STEP, 50, 0.8), (STEP, 40, 0.7)]
    play = [*first, *second, (STEP, 25, 0.7), (STEP, 90, 1.0)]
    found = habit(record(play))
    assert found["moves"] == 2.5  # two and three; the last game did not end, and a look ahead is no move
    assert found["accuracy"] == pytest.approx(0.6)
    assert found["widths"] == " ".join(["24.50"] * 10)


def test_only_the_last_games_count() -> None:
    games = [(STEP, 20, 0.1)] * 5 + [(STEP, 50, 0.9), (STEP, 22, 0.5)] * GAMES
    found = habit(record(games))
    assert (found["moves"], found["accuracy"]) == (2, pytest.approx(0.5))
    assert found["widths"].split()[0] == "22.00"


def test_a_play_without_an_end() -> None:
    with pytest.raises(ValueError, match=r"habits: expected a play with games that end, got 2 moves in .*dqn"):
        habit(record([(STEP, 60, 0.9), (STEP, 50, 0.9)]))


def test_added_to_what_is_known(tmp_path: Path) -> None:
    one, other = record([(STEP, 20, 0.5)]), record([(STEP, 21, 0.75)], "final", 1)
    add_habits(tmp_path, [other])
    both = add_habits(tmp_path, [one])
    assert [row["reward"] for row in both] == ["accuracy", "final"]
    assert add_habits(tmp_path, []) == both
    content = (tmp_path / HABITS).read_bytes()
    add_habits(tmp_path, [one, other])
    assert (tmp_path / HABITS).read_bytes() == content
    assert set(both[0]) == set(COLUMNS)


def test_the_picture_has_the_best_reward_on_top(tmp_path: Path) -> None:
    rows = add_habits(tmp_path, [record([(STEP, 8, 0.5)]), record([(STEP, 4, 0.75)], "final")])
    rows += [row | {"settings": '{"gamma": 0.5}', "accuracy": 0.9} for row in rows]
    problem, other = (Problem("tabular-digits-mobilenet", base, 0.75) for base in (1, 0))
    rows.append(rows[0] | {"base": 0, "reward": "n2n", "accuracy": 0.8})
    first, second = habits_picture(rows, "dqn", (problem, other), 1000).axes
    labels = [[label.get_text() for label in axes.get_yticklabels()] for axes in (first, second)]
    assert labels[0] == ["n2n", "final: 1 moves, 75%", "accuracy: 1 moves, 50%"]
    assert labels[1] == ["n2n: 1 moves, 80%", "final", "accuracy"]
    assert first.get_title() == str(problem)
    full = Game("tabular-digits-mobilenet", 1, 0.75, 1000).environment().graph.widths
    np.testing.assert_allclose(first.images[0].get_array()[1:], 100 * np.array([[4.0], [8.0]]) / full)
