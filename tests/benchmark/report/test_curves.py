"""Lines of figures by hand."""

from __future__ import annotations

import numpy as np
import pytest

from prune_gym import tables
from prune_gym.benchmark.play import DEFAULT
from prune_gym.benchmark.report import curves
from prune_gym.benchmark.report.curves import (
    THRESHOLDS,
    exact_front,
    first_moments,
    front_line,
    profile_line,
    regret_by,
    regret_line,
)
from prune_gym.benchmark.report.standings import Problem, fields_of
from prune_gym.benchmark.results import Played


def play(best: list[list[float]], seed: int = 0, task: str = "digits") -> Played:
    """Evaluation, compute, MACs and accuracy of each network that was the best so far; the original one has 1,000 MACs."""
    row = {
        "task": task, "base": 1, "macs_reduction": 0.7, "budget": 100, "agent": "a", "settings": DEFAULT,
        "reward": "accuracy", "seed": seed,
        "val_accuracy": best[-1][3], "regret": float("nan"), "policy_accuracy": 0.0, "policy_macs": 0,
        "full_cost": 10, "full_macs": 1000,
    }  # fmt: skip
    return Played(row, np.array(best), np.array(best)[::-1])


ONE = play([[2, 30, 300, 0.5], [10, 90, 300, 0.8]])
OTHER = play([[1, 10, 200, 0.9]], 1)


def test_the_regret_of_a_play_by_evaluations() -> None:
    assert regret_by(ONE, 0.9, np.array([1, 2, 9, 10, 100])).tolist() == pytest.approx([90, 40, 40, 10, 10])


def test_the_line_of_several_plays() -> None:
    (field,) = fields_of([ONE, OTHER])
    line = regret_line(field, "a")
    assert line.x[0] == 1
    assert line.x[-1] == 100
    at = dict(zip(line.x.tolist(), line.y.tolist(), strict=True))
    assert [at[n] for n in (1, 2, 10, 100)] == pytest.approx([45, 20, 5, 5])
    assert line.low is not None
    assert line.high is not None
    assert (line.low <= line.y).all()
    assert (line.y <= line.high).all()
    assert (line.low[-1], line.high[-1]) == pytest.approx((0, 10))


def test_when_a_play_reached_each_regret() -> None:
    firsts = first_moments(ONE, 0.9, ONE.best[:, 0])
    assert [THRESHOLDS[0], THRESHOLDS[-1]] == [50, 0]
    for threshold, first in zip(THRESHOLDS, firsts, strict=True):
        assert first == (2 if threshold >= 40 - 1e-9 else 10 if threshold >= 10 - 1e-9 else np.inf)
    assert (first_moments(OTHER, 0.9, OTHER.best[:, 1]) == 10).all()  # compute; 0 is reached, too


def test_goals_by_evaluations_and_by_compute() -> None:
    (field,) = fields_of([ONE, OTHER])
    line = curves.solved_line(field, "a")
    goals_of_one = np.mean([t >= 40 - 1e-9 for t in THRESHOLDS]), np.mean([t >= 10 - 1e-9 for t in THRESHOLDS])
    assert line.y[0] == pytest.approx(0.5)
    assert line.y[-1] == pytest.approx((1 + goals_of_one[1]) / 2)
    assert line.y[np.searchsorted(line.x, 5)] == pytest.approx((1 + goals_of_one[0]) / 2)
    by_compute = curves.solved_line(field, "a", by_compute=True)
    assert by_compute.x[-1] == 400
    assert by_compute.y[0] == 0  # half an evaluation of the original network: nobody has anything
    assert by_compute.y[np.searchsorted(by_compute.x, 2)] == pytest.approx(0.5)
    assert by_compute.y[-1] == pytest.approx(line.y[-1])


def test_the_share_of_plays_below_a_regret() -> None:
    (field,) = fields_of([ONE, OTHER])
    line = profile_line(field, "a")
    at = dict(zip(line.x.tolist(), line.y.tolist(), strict=True))
    assert [at[0], at[9.5], at[10], at[50]] == [0.5, 0.5, 1, 1]


def test_a_front_of_several_plays() -> None:
    line = front_line("a", [play([[1, 10, 300, 0.5], [2, 20, 250, 0.6]]), play([[1, 10, 100, 0.4]])])
    assert line.x.tolist() == pytest.approx([75, 90])
    assert line.y.tolist() == pytest.approx([60, 40])


def test_the_front_of_a_table_is_above_all_its_networks() -> None:
    line = exact_front(Problem("tabular-digits-mobilenet", 1, 0.7))
    assert line is not None
    table = tables.load("digits-mobilenet", 1)
    levels = np.stack([np.random.default_rng(0).integers(n, size=500) for n in table.shape], 1)
    gone = 100 * (1 - table.macs(levels) / table.macs(np.array(table.shape) - 1))
    for x, y in zip(gone, 100 * table.val_accuracy(levels), strict=True):
        assert line.y[line.x >= x - 1e-9].max() >= y - 1e-9
    assert exact_front(Problem("digits", 1, 0.7)) is None
