"""Score every architecture on a grid, once and for all: ``python -m prune_gym.benchmark.tabulate --help``

Each group's units, in the order of their importance in the original network, are cut into blocks; an architecture is how many
blocks each group keeps. All of them are scored at the default fidelity on all validation and test images. An interrupted command
goes on where it stopped.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from itertools import product
from pathlib import Path
from typing import Annotated

import numpy as np
import torch

from prune_gym import tasks
from prune_gym.arguments import AtLeast, OneOf, check_settings
from prune_gym.benchmark.base_tasks import settings_digest
from prune_gym.benchmark.command import run_command
from prune_gym.benchmark.grid import Grid
from prune_gym.benchmark.processes import in_processes
from prune_gym.files import write_atomically
from prune_gym.graph.features import group_features
from prune_gym.scoring.calibration import RECALIBRATION_IMAGES, how_many
from prune_gym.scoring.candidates import FIDELITY, Candidates
from prune_gym.scoring.evaluation import Evaluator
from prune_gym.scoring.importance import importance
from prune_gym.simulation.space import PruningSpace
from prune_gym.simulation.table import Table
from prune_gym.surgery.slicing import named_tensors
from prune_gym.tasks import Task
from prune_gym.training.train import one_thread

LEVELS = {"digits": 5, "digits-resnet": 8, "digits-mobilenet": 3}
CRITERION = "taylor"  # that of the environments


@dataclass(frozen=True)
class TabulateConfig:
    """Make the table of a task."""

    task: Annotated[str, OneOf(tasks.TASKS)] = "digits"
    """Task by name."""
    base: Annotated[int, AtLeast(0)] = 0
    """Seed of the training of its base network."""
    levels: Annotated[int, AtLeast(2)] | None = None
    """Blocks of every group; by default as many as give a table of some hundred thousand architectures."""
    processes: Annotated[int, AtLeast(1)] = 2
    """Parts of the table that are computed at a time, one thread each."""
    out: Path = Path("tables")
    """Folder of the tables."""

    def __post_init__(self) -> None:
        check_settings(self)

    @property
    def file(self) -> Path:
        return self.out.expanduser() / f"{self.task}-{self.base}.npz"

    def space(self, task: Task) -> PruningSpace:
        return PruningSpace(task.graph, levels=self.levels or LEVELS[self.task])


def kept_units(task: Task, space: PruningSpace) -> list[np.ndarray]:
    """For every group the units that it keeps at each width that it may have, bool (levels, width)."""
    calibration = task.calibration
    with one_thread():
        scores = importance(CRITERION)(task.model, task.graph, calibration.images, calibration.labels)
    ranks = [np.argsort(np.argsort(values, kind="stable"), kind="stable") for values in scores]
    return [rank >= len(rank) - widths[:, None] for rank, widths in zip(ranks, space.allowed, strict=True)]


@torch.inference_mode()
def part(config: TabulateConfig, first: tuple[int, ...]) -> np.ndarray:
    """Hits on validation and test images of all architectures with the levels ``first`` of the first groups, uint16 (2, levels
    ...); 0 for the others."""
    task = tasks.load(config.task, seed=config.base)
    space = config.space(task)
    images = torch.cat([task.val.inputs(), task.test.inputs()])
    labels, n = torch.cat([task.val.labels, task.test.labels]), len(task.val)
    calibration = task.train.sample(how_many(RECALIBRATION_IMAGES, task.train)).inputs()
    grid = Grid(task.graph, named_tensors(task.model, task.graph), calibration, images, kept_units(task, space))
    hits = np.zeros((2, *map(len, space.allowed)), np.uint16)
    val_hits, test_hits = hits
    for levels, outputs in grid.outputs(first):
        correct = outputs.argmax(1) == labels
        val_hits[levels], test_hits[levels] = int(correct[:n].sum()), int(correct[n:].sum())
    return hits


def keep_part(config: TabulateConfig, folder: Path, first: tuple[int, ...]) -> Path:
    """Compute a part and write it; gives its file."""
    file = folder / f"{'-'.join(map(str, first))}.npy"
    content = BytesIO()
    np.save(content, part(config, first), allow_pickle=False)
    write_atomically(file, content.getvalue())
    return file


def tabulate(config: TabulateConfig) -> Table:
    """The table, whose parts are kept in a folder beside its file until all are there."""
    task = tasks.load(config.task, progress=True, seed=config.base)
    space = config.space(task)
    folder = config.file.with_suffix(f".{settings_digest(task, space.levels)}.parts")
    folder.mkdir(parents=True, exist_ok=True)
    shape = tuple(map(len, space.allowed))
    parts = list(product(*map(range, shape[:2])))  # the groups are in the order in which they are decided
    done = {file.stem for file in folder.glob("*.npy")}
    missing = [first for first in parts if "-".join(map(str, first)) not in done]
    for _ in in_processes(partial(keep_part, config, folder), missing, config.processes):
        pass
    hits = np.zeros((2, *shape), np.uint16)
    for first in parts:
        hits += np.load(folder / f"{'-'.join(map(str, first))}.npy", allow_pickle=False)
    # of the original network, which is scored as it is
    candidates = Candidates(task.graph, named_tensors(task.model, task.graph), FIDELITY, task.train)
    full = tuple(n - 1 for n in shape)
    for these, split in zip(hits, (task.val, task.test), strict=True):
        these[full] = int(Evaluator(candidates, split).correct(task.graph.full()).sum())
    table = Table(
        task=config.task,
        base=config.base,
        base_network=task.fingerprints["base network"],
        levels=config.levels or LEVELS[config.task],
        groups=tuple(group.name for group in task.graph.groups),
        allowed=space.allowed,
        filters_per_unit=task.graph.filters_per_unit,
        layer_filters=task.graph.layer_filters,
        group_features=group_features(task.graph),
        val_hits=hits[0],
        test_hits=hits[1],
        images=(len(task.val), len(task.test)),
        recalibration_images=how_many(RECALIBRATION_IMAGES, task.train),
        ranking_images=len(task.calibration),
        macs_form=task.graph.cost_model.over_widths(task.graph.cost_model.macs),
        params_form=task.graph.cost_model.over_widths(task.graph.cost_model.params),
    )
    print(f"{config.file}: {table.val_hits.size:,} architectures, digest {table.save(config.file)}")
    shutil.rmtree(folder)
    return table


if __name__ == "__main__":
    run_command(tabulate, TabulateConfig, __doc__, "parts that were finished are kept; the same command goes on")
