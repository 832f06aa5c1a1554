"""Architectures of a grid, scored with shared prefixes, against the same networks scored one by one."""

from __future__ import annotations

import shutil
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from prune_gym import tasks
from prune_gym.benchmark import tabulate
from prune_gym.benchmark.grid import Grid, segments
from prune_gym.benchmark.tabulate import TabulateConfig, kept_units
from prune_gym.data.splits import Split
from prune_gym.envs import PruningEnv
from prune_gym.graph.program import Program
from prune_gym.scoring.candidates import Candidates
from prune_gym.scoring.evaluation import Evaluator
from prune_gym.simulation.space import PruningSpace
from prune_gym.simulation.table import Table
from prune_gym.surgery.slicing import named_tensors
from prune_gym.tasks import Task


@pytest.mark.parametrize("name", ["digits", "digits-resnet", "digits-mobilenet"])
def test_segments_are_the_whole_program(name: str) -> None:
    graph = tasks.load(name).graph
    parts = segments(graph)
    assert sorted(position for part in parts for position in part.positions) == list(range(len(graph.program.nodes)))
    assert [part.group for part in parts] == [-1, *range(len(graph.groups))]
    known: set[int] = set()
    for part in parts:
        assert set(part.needs) <= known  # what it needs was made before
        known |= set(part.gives)
    assert graph.program.output.index in known


def make_split(n: int) -> Split:
    images = torch.randn(n, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    return Split(images, torch.arange(n) % 3)


def make_grid(task: Task, kept: list[np.ndarray]) -> Grid:
    tensors = named_tensors(task.model, task.graph)
    return Grid(task.graph, tensors, task.train.sample(256).inputs(), task.val.inputs(), kept)


def test_every_architecture_once_and_as_it_is_scored_alone(tiny_task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = tiny_task.graph
    space = PruningSpace(graph, levels=2)
    kept = kept_units(tiny_task, space)
    grid = make_grid(tiny_task, kept)
    runs = []
    run = Program.run
    monkeypatch.setattr(Program, "run", lambda *args, **kwargs: (runs.append(1), run(*args, **kwargs))[1])
    found = {levels: outputs.argmax(1) == tiny_task.val.labels for levels, outputs in grid.outputs()}
    assert len(runs) <= 2 + sum(2**depth for depth in range(1, len(graph.groups) + 1))  # and the moments of the network
    monkeypatch.undo()
    assert set(found) == set(product(range(2), repeat=len(graph.groups)))
    candidates = Candidates(graph, named_tensors(tiny_task.model, graph), "recalibrated", tiny_task.train)
    alone = Evaluator(candidates, tiny_task.val)
    for levels, correct in found.items():
        if 0 in levels:  # the original network is not recalibrated when it is scored alone
            architecture = graph.architecture([each[level] for each, level in zip(kept, levels, strict=True)])
            assert torch.equal(correct, alone.correct(architecture)), levels


def test_parts_are_the_whole(tiny_task: Task) -> None:
    grid = make_grid(tiny_task, kept_units(tiny_task, PruningSpace(tiny_task.graph, levels=2)))
    whole = {levels: outputs.clone() for levels, outputs in grid.outputs()}
    parts: dict[tuple[int, ...], torch.Tensor] = {}
    for first in product(range(2), repeat=2):
        for levels, outputs in grid.outputs(first):
            assert levels not in parts
            parts[levels] = outputs
            assert tuple(levels[group] for group in grid.order[:2]) == first
    assert all(torch.equal(parts[levels], outputs) for levels, outputs in whole.items())
    assert len(parts) == len(whole)


def test_networks_that_cannot_be_calibrated_on_the_way_are_refused() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4, track_running_stats=False), nn.Flatten(), nn.Linear(16, 3)).eval()
    split = make_split(12)
    task = Task("batch statistics", model, split, split, split)
    with pytest.raises(ValueError, match="can be calibrated in the pass that scores it"):
        make_grid(task, [np.ones((1, 4), bool)])


# ------------------------------------------------------------------------------------------------ the command


def test_a_table_says_what_the_environment_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the same levels, and units ranked once by the original network; interrupted and gone on with."""
    config = TabulateConfig(task="digits", levels=2, processes=1, out=tmp_path)
    done: list[tuple[int, ...]] = []

    def killed(function: object, items: list[tuple[int, ...]], workers: int) -> list[Path]:
        done.extend(items[:1])
        function(items[0])  # type: ignore[operator]
        raise KeyboardInterrupt

    monkeypatch.setattr(tabulate, "in_processes", killed)
    with pytest.raises(KeyboardInterrupt):
        tabulate.tabulate(config)
    (mine,) = tmp_path.iterdir()
    with pytest.raises(KeyboardInterrupt):
        tabulate.tabulate(replace(config, levels=3))
    (other,) = set(tmp_path.iterdir()) - {mine}  # parts of other levels are apart
    shutil.rmtree(other)
    assert done.pop() == (0, 0)
    monkeypatch.setattr(tabulate, "in_processes", lambda function, items, workers: (done.extend(items), *map(function, items)))
    made = tabulate.tabulate(config)
    assert sorted(done) == list(product(range(2), repeat=2))
    assert [path.name for path in tmp_path.iterdir()] == ["digits-0.npz"]

    table = Table.load(config.file)
    assert np.array_equal(table.val_hits, made.val_hits)
    env = PruningEnv("digits", sparsity=0.45, step_ratio=0.15, levels=2, ranking="initial", device="cpu", reward_split="val")
    test_env = PruningEnv(
        "digits", sparsity=0.45, step_ratio=0.15, levels=2, ranking="initial", device="cpu", reward_split="test"
    )
    rng = np.random.default_rng(0)
    for _ in range(4):
        _, info = env.reset()
        test_env.reset()
        while env.steps_left:
            action = rng.random(8)
            *_, info = env.step(action)
            *_, test_info = test_env.step(action)
            levels = np.array([allowed.tolist().index(w) for allowed, w in zip(table.allowed, info["widths"], strict=True)])
            assert (info["accuracy"], test_info["accuracy"]) == (table.val_accuracy(levels), table.test_accuracy(levels))
            assert (info["macs"], info["params"]) == (table.macs(levels), table.params(levels))
    full = np.array(table.shape) - 1
    assert table.val_accuracy(full) == env.reset()[1]["accuracy"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"levels": 1}, "levels: expected an integer >= 2, got 1"), ({"task": "digit"}, "Did you mean 'digits'")],
)
def test_bad_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TabulateConfig(**settings)
