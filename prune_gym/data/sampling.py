"""Random orders and stratified draws of images, each from a seed, so that they are the same on every machine."""

from __future__ import annotations

import numpy as np


def shuffled(n: int, seed: int = 0) -> np.ndarray:
    """The numbers 0 .. n - 1 in a random order, int64 (n,)."""
    return np.random.default_rng(seed).permutation(n)


def stratified(labels: np.ndarray, n: int, seed: int = 0) -> np.ndarray:
    """Draw ``n`` rows without replacement, as equally from all classes as their counts allow.

    The classes take turns: every class gives one image, drawn at random, then every class that has more gives a second one,
    and so on until there are ``n``. So two classes differ by more than one image only if the smaller one is used up. If the
    last turn is not complete, or if there are more classes than ``n``, chance decides which classes take part.

    Args:
        labels: integers (N,), in any order; classes may be missing.
        n: how many rows; all of them if it is N or more.

    Returns the rows in ascending order, int64 (min(n, N),).
    """
    order = shuffled(len(labels), seed)
    classes = np.unique(labels[order], return_inverse=True)[1]
    counts = np.bincount(classes)
    by_class = np.argsort(classes, kind="stable")
    turn = np.empty(len(labels), np.int64)  # how many images of its class come before an image in the random order
    turn[by_class] = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.sort(order[np.argsort(turn, kind="stable")[:n]])
