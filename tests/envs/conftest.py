"""A small table for the environments that read one."""

from __future__ import annotations

import numpy as np
import pytest

from prune_gym.graph.features import group_features
from prune_gym.simulation.space import PruningSpace
from prune_gym.simulation.table import Table
from prune_gym.tasks import Task


@pytest.fixture(scope="module")
def table(tiny_task: Task) -> Table:
    """Of a real network, with made up accuracies that fall with what is gone."""
    graph, rng = tiny_task.graph, np.random.default_rng(0)
    space = PruningSpace(graph, levels=4)
    shape = tuple(map(len, space.allowed))
    kept = sum(np.indices(shape)) / (sum(shape) - len(shape))
    hits = [np.minimum(n, n * (0.3 + 0.7 * kept) + rng.integers(0, 9, shape)).astype(np.uint16) for n in (120, 60)]
    return Table(
        task="tiny",
        base=0,
        base_network="none",
        levels=4,
        groups=tuple(group.name for group in graph.groups),
        allowed=space.allowed,
        filters_per_unit=graph.filters_per_unit,
        layer_filters=graph.layer_filters,
        group_features=group_features(graph),
        val_hits=hits[0],
        test_hits=hits[1],
        images=(120, 60),
        recalibration_images=50,
        ranking_images=20,
        macs_form=graph.cost_model.over_widths(graph.cost_model.macs),
        params_form=graph.cost_model.over_widths(graph.cost_model.params),
    )
