"""The pictures of the experiments."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace

import pytest
from matplotlib.image import imread

from prune_gym.benchmark.paper import plots, tables_and_figures
from prune_gym.benchmark.paper.experiment import Experiment
from prune_gym.benchmark.paper.scales import Scale


@pytest.mark.parametrize("name", ["table1", "table3", "figure1", "figure3"])
def test_pictures_of_several_networks(make_experiment: Callable[..., Experiment], brief: Scale, name: str) -> None:
    scale = replace(brief, sparsities=(0.25, 0.5))
    found = getattr(tables_and_figures, name)(make_experiment(scale=scale)).rows
    other = [row | {"network": "another"} for row in found]
    third = [row | {"network": "a third", "paper_network": "densenet121"} for row in found]
    one, two, three = (
        imread(io.BytesIO(plots.picture(name, rows, "title"))) for rows in (found, found + other, found + other + third)
    )
    assert one.shape[0] <= two.shape[0] <= three.shape[0]
    assert one.shape[0] < three.shape[0]
