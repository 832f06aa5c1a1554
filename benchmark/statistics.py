"""Few runs of noisy algorithms, and what may be said about them. After Agarwal et al., "Deep RL at the edge of the statistical
precipice" (2021), whose terms are used here.

Scores of one algorithm are a list with an array of runs for each task: ``scores[task][run]``. Tasks may have different numbers of
runs. Everything that is drawn comes from a generator that the caller seeds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

Scores = Sequence[np.ndarray]
CONFIDENCE = 0.95
RESAMPLES = 2000
PERMUTATIONS = 9999
POWER = 0.8


class Interval(NamedTuple):
    """An estimate and its confidence interval."""

    value: float
    low: float
    high: float


def interquartile_mean(values: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """The mean of the middle half of values (..., n): a quarter of their weight is cut at either end, parts of values included.

    Args:
        weights: nonnegative, (n,) or (..., n), such that each task counts the same however many runs it has; by default equal.
    """
    values = np.asarray(values, np.float64)
    weights = np.broadcast_to(np.ones(values.shape[-1]) if weights is None else np.asarray(weights, np.float64), values.shape)
    order = np.argsort(values, -1, kind="stable")
    values, weights = np.take_along_axis(values, order, -1), np.take_along_axis(weights, order, -1)
    ends = np.cumsum(weights, -1)
    total = ends[..., -1:]
    inside = np.clip(np.minimum(ends, 0.75 * total) - np.maximum(ends - weights, 0.25 * total), 0, None)
    return (values * inside).sum(-1) / inside.sum(-1)


def aggregate(scores: Scores) -> float:
    """The interquartile mean over all runs of all tasks, every task with the same weight."""
    return float(interquartile_mean(np.concatenate(scores), weights_of(scores)))


def weights_of(scores: Scores) -> np.ndarray:
    """The weight of every run, with which each task counts the same however many it has, (runs of all tasks,)."""
    return np.concatenate([np.full(len(runs), 1 / len(runs)) for runs in scores])


def resampled(scores: Scores, rng: np.random.Generator, resamples: int = RESAMPLES) -> list[np.ndarray]:
    """Bootstrap samples stratified by task: for each task an array (resamples, runs) of its runs, drawn with replacement. A
    run may be an array itself, such as a curve."""
    return [runs[rng.integers(len(runs), size=(resamples, len(runs)))] for runs in map(np.asarray, scores)]


def interval(value: float, samples: np.ndarray, scores: Scores) -> Interval:
    """An estimate with the percentile interval of its bootstrap samples, whose distances from it are widened by √(n / (n - 1))
    for the n runs of the task with fewest: without that, intervals of few runs are too short. NaN for a single run."""
    fewest = min(map(len, scores))
    wider = np.sqrt(fewest / (fewest - 1)) if fewest > 1 else np.nan
    low, high = value + wider * (np.quantile(samples, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]) - value)
    return Interval(value, float(low), float(high))


def aggregate_interval(scores: Scores, rng: np.random.Generator) -> Interval:
    """:func:`aggregate` with its stratified bootstrap interval."""
    samples = interquartile_mean(np.concatenate(resampled(scores, rng), -1), weights_of(scores))
    return interval(aggregate(scores), samples, scores)


def probability_of_improvement(ours: Scores, theirs: Scores) -> float:
    """How probable it is that a run of ours has a higher score than one of theirs on the same task, ties counted half; the mean
    over the tasks. For one task it is the statistic U of Mann and Whitney over the number of pairs."""
    return float(np.mean([_superiority(np.asarray(x), np.asarray(y)) for x, y in zip(ours, theirs, strict=True)]))


def _superiority(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The share of pairs of x (..., n) and y (..., m) in which x is larger, ties counted half."""
    x, y = x[..., :, None], y[..., None, :]
    return ((x > y) + 0.5 * (x == y)).mean((-2, -1))


def improvement_interval(ours: Scores, theirs: Scores, rng: np.random.Generator) -> Interval:
    """:func:`probability_of_improvement` with its stratified bootstrap interval."""
    pairs = zip(resampled(ours, rng), resampled(theirs, rng), strict=True)
    samples = np.mean([_superiority(x, y) for x, y in pairs], 0)
    found = interval(probability_of_improvement(ours, theirs), samples, [*ours, *theirs])
    return Interval(found.value, max(found.low, 0.0), min(found.high, 1.0))


def same_mean_p(ours: Scores, theirs: Scores, rng: np.random.Generator, permutations: int = PERMUTATIONS) -> float:
    """How probable differences of the mean scores as large as the one seen are between algorithms that do not differ: the p-value
    of the two-sided permutation test, in which runs change sides within their task. It holds for any number of runs."""
    total, seen = np.zeros(permutations), 0.0
    for x, y in zip(ours, theirs, strict=True):
        together = rng.permuted(np.tile(np.concatenate([x, y]), (permutations, 1)), axis=1)
        total += together[:, : len(x)].mean(1) - together[:, len(x) :].mean(1)
        seen += np.mean(x) - np.mean(y)
    return float((1 + (np.abs(total) >= abs(seen) - 1e-9).sum()) / (1 + permutations))


def holm(p_values: Sequence[float], hypotheses: int | None = None) -> list[bool]:
    """Which of several null hypotheses are rejected such that one that is true is with 5% probability at most, whatever they have
    to do with each other: Holm's step-down method.

    Args:
        p_values: one for each.
        hypotheses: how many might have been tested, if the data chose those that are; by default no others.
    """
    rejected = [False] * len(p_values)
    for rank, i in enumerate(np.argsort(p_values, kind="stable")):
        if p_values[i] > (1 - CONFIDENCE) / ((hypotheses or len(p_values)) - rank):
            break
        rejected[i] = True
    return rejected


def performance_profile(scores: Scores, thresholds: np.ndarray) -> np.ndarray:
    """The share of runs whose score is above each threshold (t,), the mean over the tasks; falls from 1 to 0, (t,)."""
    return np.mean([(np.asarray(runs)[:, None] > thresholds).mean(0) for runs in scores], 0)


def profile_band(scores: Scores, thresholds: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Pointwise stratified bootstrap interval of :func:`performance_profile`, two arrays (t,)."""
    samples = np.mean([(runs[..., None] > thresholds).mean(1) for runs in resampled(scores, rng, RESAMPLES // 4)], 0)
    low, high = np.quantile(samples, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2], axis=0)
    return low, high


def runs_that_separate(ours: Scores, theirs: Scores) -> float:
    """How many runs per task and algorithm would tell two algorithms apart in four of five experiments, if their mean scores and
    spreads are the ones seen: two-sided test of two means at the 5% level, power 0.8. Infinite for equal means, and where there
    is no spread, which more runs would not change.

    n = (z_{0.975} + z_{0.8})² (s₁² + s₂²) / d², with the difference d of the means over the tasks, and the mean variances s² of
    the runs within tasks, each over the number of tasks. NaN if a task has a single run, which shows no spread.
    """
    if any(len(runs) < 2 for runs in (*ours, *theirs)):
        return float("nan")
    difference = np.mean([np.mean(x) - np.mean(y) for x, y in zip(ours, theirs, strict=True)])
    variances = [np.var(x, ddof=1) + np.var(y, ddof=1) for x, y in zip(ours, theirs, strict=True)]
    if difference == 0 or not any(variances):
        return float("inf")
    quantiles = stats.norm.ppf((1 + CONFIDENCE) / 2) + stats.norm.ppf(POWER)
    return float(quantiles**2 * np.mean(variances) / len(variances) / difference**2)


def solved(first: Sequence[float] | np.ndarray, at: np.ndarray) -> np.ndarray:
    """The empirical distribution of when problems were solved: the share of them whose ``first`` moment, infinite for one that
    was never solved, is at most each of ``at`` (t,)."""
    return (np.asarray(first)[:, None] <= at).mean(0)


def hypervolume(points: np.ndarray) -> float:
    """The area that points (n, 2) dominate, both coordinates larger the better, from the origin on; points that are not above it
    in both dominate nothing."""
    points = np.asarray(points, np.float64).reshape(-1, 2)
    points = points[(points > 0).all(1)]
    if not len(points):
        return 0.0
    points = points[np.argsort(points[:, 0])]
    heights = np.maximum.accumulate(points[::-1, 1])[::-1]  # of the highest point from here on
    return float((np.diff(points[:, 0], prepend=0.0) * heights).sum())


def pareto_front(points: np.ndarray) -> np.ndarray:
    """Which of points (n, 2) no other one dominates, both coordinates larger the better: their indices, rising in the first
    coordinate; of equal points the first."""
    order = np.lexsort((np.arange(len(points)), -points[:, 1], -points[:, 0]))  # the largest first coordinate first
    best = np.maximum.accumulate(points[order, 1])
    keeps = np.concatenate([[True], points[order[1:], 1] > best[:-1]]) if len(points) else np.zeros(0, bool)
    return order[keeps][::-1]
