"""Statistics against SciPy, closed forms, brute force and simulation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from prune_gym.benchmark import statistics
from prune_gym.benchmark.statistics import Interval


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize("n", [4, 8, 40, 100])
def test_the_interquartile_mean_is_scipys_trimmed_mean(n: int) -> None:
    values = rng().normal(size=(3, n))
    assert statistics.interquartile_mean(values) == pytest.approx(stats.trim_mean(values, 0.25, axis=1))


def test_the_interquartile_mean_cuts_parts_of_values() -> None:
    # five values of weight 1: cut 1.25 at either end, so three quarters of the second and fourth are left, and the third
    assert statistics.interquartile_mean(np.array([9.0, 1, 2, 4, 0])) == pytest.approx((0.75 * 1 + 2 + 0.75 * 4) / 2.5)
    assert statistics.interquartile_mean(np.array([7.0])) == 7


@given(arrays(np.int64, 5, elements=st.integers(-9, 9)), arrays(np.int64, 5, elements=st.integers(1, 4)))
def test_a_weight_is_like_values_that_are_repeated(values: np.ndarray, weights: np.ndarray) -> None:
    repeated = np.repeat(np.repeat(values, weights), 4)  # a multiple of four, so that no value is cut
    assert statistics.interquartile_mean(values, weights) == pytest.approx(stats.trim_mean(repeated, 0.25))


def test_every_task_counts_the_same() -> None:
    few, many = np.zeros(2), np.ones(200)
    assert statistics.aggregate([few, many]) == pytest.approx(0.5)


def test_the_probability_of_improvement_is_that_of_mann_and_whitney() -> None:
    ours = [rng(1).integers(0, 6, 9), rng(2).integers(0, 6, 5)]
    theirs = [rng(3).integers(0, 6, 7), rng(4).integers(0, 6, 8)]
    expected = np.mean([stats.mannwhitneyu(x, y).statistic / (len(x) * len(y)) for x, y in zip(ours, theirs, strict=True)])
    assert statistics.probability_of_improvement(ours, theirs) == pytest.approx(expected)
    assert statistics.probability_of_improvement(ours, ours) == 0.5


def test_the_interval_is_scipys_percentile_bootstrap() -> None:
    values = rng(5).exponential(size=24)
    ours = statistics.aggregate_interval([values], rng())
    theirs = stats.bootstrap(
        (values,), lambda x, axis: stats.trim_mean(x, 0.25, axis=axis), method="percentile", n_resamples=9999, rng=rng()
    ).confidence_interval
    assert ours.value == pytest.approx(stats.trim_mean(values, 0.25))
    narrower = [ours.value + (end - ours.value) * np.sqrt(23 / 24) for end in (ours.low, ours.high)]
    assert narrower == pytest.approx(list(theirs), abs=0.06)


def test_samples_are_drawn_within_tasks_and_by_the_generator() -> None:
    scores = [np.zeros(3), np.ones(5)]
    drawn = statistics.resampled(scores, rng(), 50)
    assert [each.shape for each in drawn] == [(50, 3), (50, 5)]
    assert [set(each.ravel()) for each in drawn] == [{0.0}, {1.0}]
    values = [rng(1).normal(size=9)]
    assert statistics.aggregate_interval(values, rng(7)) == statistics.aggregate_interval(values, rng(7))
    assert statistics.aggregate_interval(values, rng(7)) != statistics.aggregate_interval(values, rng(8))


@pytest.mark.parametrize("runs", [3, 5, 20])
def test_intervals_cover_what_they_should(runs: int) -> None:
    """Symmetric distributions of different spread: the interquartile mean of the mixture is 0."""
    draw, inside = rng(9), 0
    for _ in range(200):
        scores = [draw.normal(0, spread, runs) for spread in (1.0, 2.0, 3.0, 1.0, 2.0, 3.0)]
        found = statistics.aggregate_interval(scores, draw)
        inside += found.low <= 0 <= found.high
    assert 0.90 <= inside / 200 <= 0.985


def test_intervals_of_the_probability_of_improvement_cover_what_they_should() -> None:
    draw, inside = rng(10), 0
    true = stats.norm.cdf(0.5 / np.sqrt(2))  # of a normal value with mean 1/2 above one with mean 0
    for _ in range(200):
        ours, theirs = ([draw.normal(mean, 1, 15) for _ in range(2)] for mean in (0.5, 0.0))
        found = statistics.improvement_interval(ours, theirs, draw)
        inside += found.low <= true <= found.high
    assert 0.90 <= inside / 200 <= 0.99


def test_runs_that_separate_do_so_four_times_of_five() -> None:
    ours, theirs = [rng(0).normal(1, 1, 4000)], [rng(1).normal(0.5, 1, 4000)]
    n = round(statistics.runs_that_separate(ours, theirs))
    assert n == pytest.approx((1.96 + 0.8416) ** 2 * 2 / 0.25, rel=0.2)
    draw = rng(2)
    found = [stats.ttest_ind(draw.normal(1, 1, n), draw.normal(0.5, 1, n)).pvalue < 0.05 for _ in range(600)]
    assert np.mean(found) == pytest.approx(0.8, abs=0.08)
    assert statistics.runs_that_separate([np.array([1.0, 2])], [np.array([2.0, 1])]) == np.inf
    assert np.isnan(statistics.runs_that_separate([np.array([1.0])], [np.array([2.0, 1])]))
    two = statistics.runs_that_separate([*ours, *ours], [*theirs, *theirs])
    assert two == pytest.approx(statistics.runs_that_separate(ours, theirs) / 2)


def test_a_performance_profile_by_hand() -> None:
    scores = [np.array([1.0, 2, 3, 4]), np.array([0.0, 10])]
    thresholds = np.array([-1.0, 0, 2, 3.5, 10])
    assert statistics.performance_profile(scores, thresholds).tolist() == [1, 0.75, 0.5, 0.375, 0]
    low, high = statistics.profile_band(scores, thresholds, rng())
    assert ((low <= [1, 0.75, 0.5, 0.375, 0]) & (high >= [1, 0.75, 0.5, 0.375, 0])).all()


def test_the_distribution_of_what_is_solved_when() -> None:
    assert statistics.solved([3, np.inf, 1, 10], np.array([0, 1, 3, 9, 100])).tolist() == [0, 0.25, 0.5, 0.5, 0.75]


POINTS = arrays(np.float64, st.tuples(st.integers(0, 8), st.just(2)), elements=st.integers(-1, 6).map(float))


@given(POINTS)
def test_the_hypervolume_counts_the_cells_that_are_dominated(points: np.ndarray) -> None:
    corners = [(x, y) for x in range(1, 7) for y in range(1, 7)]
    dominated = sum(any(x <= p and y <= q for p, q in points) for x, y in corners)
    assert statistics.hypervolume(points) == dominated


@given(POINTS)
def test_the_pareto_front_is_what_nothing_dominates(points: np.ndarray) -> None:
    front = statistics.pareto_front(points)
    kept = {tuple(points[i]) for i in front}
    expected = {tuple(p) for p in points if not any((q >= p).all() and (q > p).any() for q in points)}
    assert kept == expected
    assert len(front) == len(kept)  # of equal ones the first
    assert all(i == min(np.flatnonzero((points == points[i]).all(1))) for i in front)
    assert (np.diff(points[front, 0]) > 0).all()
    assert statistics.hypervolume(points[front]) == statistics.hypervolume(points)


def test_an_interval_of_samples() -> None:
    scores = [np.zeros(5), np.zeros(9)]
    wider = np.sqrt(5 / 4)
    expected = Interval(500.0, 500 - 475 * wider, 500 + 475 * wider)
    assert statistics.interval(500.0, np.arange(1001.0), scores) == pytest.approx(expected)
    assert np.isnan(statistics.interval(5.0, np.arange(9.0), [np.zeros(1), np.zeros(9)]).low)


def test_the_permutation_test_is_scipys() -> None:
    x, y = rng(1).normal(0.8, 1, 9), rng(2).normal(0, 1, 7)
    theirs = stats.permutation_test((x, y), lambda a, b, axis: a.mean(axis) - b.mean(axis), vectorized=True, rng=rng())
    assert statistics.same_mean_p([x], [y], rng()) == pytest.approx(theirs.pvalue, abs=0.02)


@pytest.mark.parametrize("runs", [1, 2, 5])
def test_algorithms_that_do_not_differ_are_seldom_told_apart(runs: int) -> None:
    """The test holds its level for any number of runs."""
    draw = rng(3)
    found = [
        statistics.same_mean_p(*([draw.exponential(spread, runs) for spread in (1, 2, 1, 2, 1, 2)] for _ in range(2)), draw, 499)
        for _ in range(400)
    ]
    assert np.mean(np.array(found) <= 0.05) <= 0.08


def test_as_many_runs_as_it_says_tell_them_apart() -> None:
    seen = [[rng(i).normal(mean, 1, 500) for i in range(3)] for mean in (0.6, 0.0)]
    n = round(statistics.runs_that_separate(*seen))
    draw = rng(9)
    found = [
        statistics.same_mean_p(*([draw.normal(mean, 1, n) for _ in range(3)] for mean in (0.6, 0.0)), draw, 499) <= 0.05
        for _ in range(300)
    ]
    assert np.mean(found) == pytest.approx(0.8, abs=0.1)


def test_holms_method_by_hand() -> None:
    assert statistics.holm([0.01, 0.04, 0.03, 0.005]) == [True, False, False, True]  # 0.03 is above 0.05 / 2
    assert statistics.holm([0.04]) == [True]
    assert statistics.holm([0.02, 0.06]) == [True, False]
    assert statistics.holm([]) == []
    assert statistics.holm([0.01, 0.02], hypotheses=6) == [False, False]
    assert statistics.holm([0.005, 0.0099], hypotheses=6) == [True, True]  # 0.05 / 6 and 0.05 / 5
