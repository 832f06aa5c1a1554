"""Random orders and stratified draws against a slow loop and by their properties."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prune_gym.data.sampling import shuffled, stratified


def fair_counts(available: list[int], n: int) -> list[int]:
    """How many of each class: one after the other, always to a class that has the fewest so far and has more to give."""
    counts = [0] * len(available)
    for _ in range(min(n, sum(available))):
        fewest = min(count for count, most in zip(counts, available, strict=True) if count < most)
        counts[next(i for i, most in enumerate(available) if counts[i] == fewest and fewest < most)] += 1
    return counts


def test_orders_are_permutations_from_the_seed() -> None:
    assert sorted(shuffled(50)) == list(range(50))
    assert shuffled(50).tolist() == shuffled(50, 0).tolist() != shuffled(50, 1).tolist()
    assert shuffled(10).tolist() == [4, 6, 2, 7, 3, 5, 9, 0, 8, 1]  # results are only comparable as long as this stays


@given(st.lists(st.integers(0, 6), min_size=1, max_size=60), st.integers(1, 70), st.integers(0, 5))
def test_draws_are_as_equal_as_the_counts_allow(labels: list[int], n: int, seed: int) -> None:
    array = np.array(labels)
    rows = stratified(array, n, seed)
    assert rows.dtype == np.int64
    assert rows.tolist() == sorted(set(rows.tolist()))  # ascending, none twice
    assert len(rows) == min(n, len(labels))
    available = np.bincount(array, minlength=7)
    drawn = np.bincount(array[rows], minlength=7)
    # which classes get one more in the last turn is left to chance, so the counts are compared in order of size
    assert sorted(drawn) == sorted(fair_counts(available.tolist(), n))
    for a in range(7):
        for b in range(7):
            assert drawn[a] - drawn[b] <= 1 or drawn[b] == available[b]
    np.testing.assert_array_equal(rows, stratified(array, n, seed))


def test_draws_are_turns_in_the_random_order() -> None:
    """Exactly: pass over the images in the random order again and again; every pass takes the first new image of each class."""
    labels = np.random.default_rng(1).choice(9, 300, p=np.arange(1, 10) / 45)
    order, drawn = shuffled(300, 5).tolist(), []
    while len(drawn) < 200:
        served: set[int] = set()
        for row in order:
            if row not in drawn and labels[row] not in served:
                served.add(labels[row])
                drawn.append(row)
    for n in (5, 50, 123, 200):
        assert stratified(labels, n, 5).tolist() == sorted(drawn[:n])


def test_a_class_with_fewer_images_than_its_share_gives_all() -> None:
    labels = np.repeat([0, 1, 2], [200, 7, 300])  # sorted
    rows = stratified(labels, 100)
    drawn = np.bincount(labels[rows])
    assert drawn[1] == 7
    assert sorted(drawn[[0, 2]]) == [46, 47]
    assert set(range(200, 207)) <= set(rows)


def test_more_classes_than_images() -> None:
    labels = np.repeat(np.arange(1000), 3)
    rows = stratified(labels, 100)
    assert len(set(labels[rows])) == 100
    assert 400 < labels[rows].mean() < 600  # of all classes, and not the first hundred
    assert set(rows % 3) == {0, 1, 2}


def test_every_image_may_be_drawn_and_equally_often() -> None:
    labels = np.repeat([0, 1], [10, 30])
    times = np.zeros(40)
    for seed in range(1500):
        times[stratified(labels, 10, seed)] += 1
    np.testing.assert_allclose(times[:10], 750, atol=100)
    np.testing.assert_allclose(times[10:], 250, atol=70)


def test_the_names_of_the_classes_do_not_matter() -> None:
    labels = np.arange(60) % 4
    np.testing.assert_array_equal(stratified(labels, 22), stratified(labels * 10**9 + 5, 22))


@pytest.mark.parametrize(("n", "expected"), [(1, [4]), (3, [2, 4, 6]), (9, [0, 1, 2, 3, 4, 5, 6, 7, 9])])
def test_draws_stay_the_same(n: int, expected: list[int]) -> None:
    """Results are only comparable between versions as long as these stay."""
    assert stratified(np.array([0, 0, 1, 1, 2, 2, 3, 3, 3, 3]), n).tolist() == expected
