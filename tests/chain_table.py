"""A table that is small enough to write out all of its games."""

from __future__ import annotations

import numpy as np

from prune_gym.simulation.table import Table

FULL = (2, 3, 1)  # the levels of the original network


def chain_table() -> Table:
    """Three groups of a chain of layers, one of which has two blocks; accuracies are random."""
    rng = np.random.default_rng(3)
    shape = tuple(level + 1 for level in FULL)
    form = np.zeros((4, 4))
    form[0, 3], form[0, 1], form[1, 2] = 9, 9, 1  # the MACs of the first layer, and of two that read the one before
    params = form.copy()
    params[[0, 1, 2], 3] += 2
    return Table(
        task="chain",
        base=0,
        base_network="none",
        levels=4,
        groups=("a", "b", "c"),
        allowed=(np.array([2, 4, 6]), np.array([1, 2, 3, 4]), np.array([3, 6])),
        filters_per_unit=np.array([1, 2, 1]),
        layer_filters=np.array([[6, 0, 0], [0, 8, 0], [0, 0, 6]]),
        group_features=np.zeros((3, 6), np.int64),
        val_hits=rng.integers(0, 100, shape).astype(np.uint16),
        test_hits=rng.integers(0, 50, shape).astype(np.uint16),
        images=(100, 50),
        recalibration_images=50,
        ranking_images=20,
        macs_form=form,
        params_form=params,
    )
