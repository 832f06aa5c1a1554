"""The lines of a report's figures, as numbers: what was found by when, and at what cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from prune_gym import tables
from prune_gym.benchmark import statistics
from prune_gym.benchmark.games import TABULAR
from prune_gym.benchmark.report.standings import SEED, Field, Problem
from prune_gym.benchmark.results import Played, points
from prune_gym.benchmark.statistics import CONFIDENCE
from prune_gym.simulation.block_world import world_of

THRESHOLDS = np.append(np.geomspace(50, 0.25, 50), 0.0)  # regrets in points, each of them a goal
MOMENTS = 60  # of a curve
RESAMPLES = 200  # of the plays of a curve
EXACT = "best of the table"  # a line
TOLERANCE = 1e-9  # accuracies are fractions, and what is equal is so up to rounding


@dataclass(frozen=True)
class Line:
    """A line of a figure, with a band around it or without. It goes straight from point to point, or in steps, and then stays
    level ``"after"`` a point or ``"before"`` it."""

    name: str
    x: np.ndarray
    y: np.ndarray
    low: np.ndarray | None = None
    high: np.ndarray | None = None
    steps: Literal["", "after", "before"] = ""


def moments(last: float, first: float = 1.0) -> np.ndarray:
    """Where curves are evaluated, evenly on a logarithmic scale."""
    return np.geomspace(first, last, MOMENTS)


def regret_by(play: Played, optimum: float, at: np.ndarray) -> np.ndarray:
    """The regret in points after each number of evaluations; the whole accuracy of the best network before there was one at the
    target."""
    reached = np.searchsorted(play.best[:, 0], at, side="right")
    accuracies = np.concatenate([[0.0], play.best[:, 3]])
    return 100 * (optimum - accuracies[reached])


def regret_line(field: Field, player: str) -> Line:
    """The interquartile mean of the regret by evaluations, with a bootstrap band stratified by problem."""
    at = np.unique(moments(field.budget).round())
    by_problem = [
        np.stack([regret_by(play, field.optimum[problem], at) for play in field.plays[player][problem]])
        for problem in field.problems
    ]
    rng = np.random.default_rng(SEED)
    drawn, weights = statistics.resampled(by_problem, rng, RESAMPLES), statistics.weights_of(by_problem)
    whole = np.concatenate(by_problem).T
    samples = np.moveaxis(np.concatenate(drawn, 1), 1, -1)  # (resamples, moments, plays)
    low, high = np.quantile(statistics.interquartile_mean(samples, weights), [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2], axis=0)
    return Line(player, at, statistics.interquartile_mean(whole, weights), low, high)


def first_moments(play: Played, optimum: float, costs: np.ndarray) -> np.ndarray:
    """What a play had cost when it reached each regret of :data:`THRESHOLDS`, given the costs of ``play.best``; infinite for
    never."""
    regrets = 100 * (optimum - play.best[:, 3])
    return np.append(costs, np.inf)[np.searchsorted(-regrets, -THRESHOLDS - TOLERANCE)]


def solved_line(field: Field, player: str, by_compute: bool = False) -> Line:
    """The share of goals (problem, seed, regret) that were reached by a number of evaluations, or for the compute of as many
    evaluations of the original network; the mean over the problems."""
    at = moments(4 * field.budget, 0.5) if by_compute else moments(field.budget)
    shares = []
    for problem in field.problems:
        plays = field.plays[player][problem]
        costs = [play.best[:, 1] / play.row["full_cost"] if by_compute else play.best[:, 0] for play in plays]
        firsts = [first_moments(play, field.optimum[problem], cost) for play, cost in zip(plays, costs, strict=True)]
        shares.append(statistics.solved(np.concatenate(firsts), at))
    return Line(player, at, np.mean(shares, 0), steps="after")


def profile_line(field: Field, player: str) -> Line:
    """The share of plays whose regret is below a bound."""
    bounds = np.linspace(0, 50, 101)
    scores = field.scores(player)
    low, high = statistics.profile_band(scores, -bounds - TOLERANCE, np.random.default_rng(SEED))
    return Line(player, bounds, statistics.performance_profile(scores, -bounds - TOLERANCE), low, high)


def front_line(player: str, plays: Sequence[Played]) -> Line:
    """The Pareto front of all networks of some plays of one network: the MACs that are gone and the accuracy, in percent."""
    found = np.concatenate([play.front_points for play in plays])
    front = 100 * found[statistics.pareto_front(found)]
    return Line(player, front[:, 0], front[:, 1], steps="before")


def exact_front(problem: Problem) -> Line | None:
    """The Pareto front of all networks of a table; None for a problem whose networks run."""
    if not problem.task.startswith(TABULAR):
        return None
    world = world_of(tables.load(problem.task.removeprefix(TABULAR), problem.base))
    accuracy = world.scores_of(np.arange(len(world.macs))).accuracy
    found = points(world.macs, np.asarray(accuracy), world.baseline.macs)
    front = 100 * found[statistics.pareto_front(found)]
    return Line(EXACT, front[:, 0], front[:, 1], steps="before")
