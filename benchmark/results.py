"""Results of a benchmark in two small files: what each play found, and how its best network came about.

``plays.csv.gz`` has a row for each play; ``networks.csv.gz`` has a row for each network that was the best so far at the target
when it was scored, and for each one on the play's Pareto front in the end. Curves, fronts and tables follow from these, so the
store of all scored networks need not be kept with a report.
"""

from __future__ import annotations

import csv
import gzip
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from prune_gym.benchmark.play import KEY, KINDS, Record, digest
from prune_gym.benchmark.statistics import hypervolume, pareto_front
from prune_gym.files import csv_text, write_atomically
from prune_gym.simulation.schedule import target_budget

PLAYS, NETWORKS = "plays.csv.gz", "networks.csv.gz"
FOUND = (
    "val_accuracy",
    "test_accuracy",
    "macs",
    "policy_accuracy",
    "policy_macs",
    "full_macs",
    "full_cost",
    "regret",
    "architecture",
)
PLAY_COLUMNS = (*KEY, "evaluations", "compute", "seconds", "hypervolume", *FOUND, "commit")
NETWORK_COLUMNS = ("play", "role", "evaluation", "compute", "macs", "accuracy")
ROLES = ("best", "front")
LOCK = ".results.lock"  # in the folder
TEXTS = ("task", "agent", "settings", "reward", "architecture", "commit", "role", "play", "widths")


@dataclass(frozen=True)
class Played:
    """A play, as a row of ``plays.csv.gz``, with its networks.

    Attributes:
        row: the columns; ``regret`` is NaN where the best network is not known.
        best: the networks that were the best so far at the target, an array (n, 4) of evaluation, compute, MACs and accuracy.
        front: the play's Pareto front, an array of the same columns, by falling MACs.
    """

    row: Mapping[str, Any]
    best: np.ndarray
    front: np.ndarray

    @property
    def front_points(self) -> np.ndarray:
        """The front as the fraction of the MACs that are gone, and the accuracy (n, 2)."""
        return points(self.front[:, 2], self.front[:, 3], self.row["full_macs"])


def points(macs: np.ndarray, accuracy: np.ndarray, full_macs: int) -> np.ndarray:
    """Networks as points (n, 2), both coordinates larger the better: the fraction of MACs that are gone, and the accuracy."""
    return np.column_stack([1 - macs / full_macs, accuracy])


def summarise(record: Record) -> Played:
    """A record in short."""
    found, networks = record.found, record.networks
    macs, full = networks["macs"], found["full_macs"]
    columns = [np.arange(1, len(macs) + 1), networks["compute"], macs, networks["accuracy"]]
    table = np.column_stack(columns).astype(np.float64)
    found_there = networks["kind"] != KINDS.index("target")  # a look ahead, to where no step leads, finds nothing
    at_target = macs <= full - target_budget(full, record.key["macs_reduction"])
    worth = np.where(found_there & at_target, networks["accuracy"], -1.0)
    before = np.maximum.accumulate(np.concatenate([[-1.0], worth[:-1]]))
    front = points(macs, networks["accuracy"], full)
    kept = pareto_front(front)
    row = {"regret": float("nan"), "commit": "", **record.key, **found, **record.made}
    row |= {"evaluations": len(macs), "compute": int(networks["compute"][-1]), "hypervolume": hypervolume(front)}
    return Played({name: row[name] for name in PLAY_COLUMNS}, table[worth > before], table[kept])


def add_results(folder: Path, records: Iterable[Record]) -> list[Played]:
    """Add records to both files, which need not exist; gives their content, sorted by the keys. Of two results of the same play
    the new one is kept. The same records give the same bytes. Two processes do so one after the other."""
    with lock_of(folder):
        return _add_results(folder, records)


def lock_of(folder: Path) -> FileLock:
    """To be held while the results in a folder are read, added to and written. Makes the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    return FileLock(folder / LOCK)


def _add_results(folder: Path, records: Iterable[Record]) -> list[Played]:
    known = read_results(folder) if (folder / PLAYS).exists() else []
    by_key = {tuple(each.row[name] for name in KEY): each for each in (*known, *map(summarise, records))}
    played = [by_key[key] for key in sorted(by_key)]
    networks = [
        dict(
            zip(NETWORK_COLUMNS, (digest(each.row), role, int(evaluation), int(compute), int(macs), float(accuracy)), strict=True)
        )
        for each in played
        for role in ROLES
        for evaluation, compute, macs, accuracy in getattr(each, role)
    ]
    write_rows(folder / PLAYS, PLAY_COLUMNS, [each.row for each in played])
    write_rows(folder / NETWORKS, NETWORK_COLUMNS, networks)
    return played


def read_results(folder: Path) -> list[Played]:
    """What :func:`add_results` wrote. Raises FileNotFoundError, ValueError for damaged files."""
    plays = read_rows(folder / PLAYS, PLAY_COLUMNS)
    networks: dict[tuple[str, str], list[list[float]]] = {}
    for row in read_rows(folder / NETWORKS, NETWORK_COLUMNS):
        numbers = [row["evaluation"], row["compute"], row["macs"], row["accuracy"]]
        networks.setdefault((row["play"], row["role"]), []).append(numbers)
    wanted = {digest(row) for row in plays}
    if wanted != {play for play, _ in networks}:
        raise ValueError(
            f"results: {folder / NETWORKS} has not the networks of the plays in {PLAYS}; make both anew from the store."
        )
    return [Played(row, *(np.array(networks.get((digest(row), role), np.zeros((0, 4)))) for role in ROLES)) for row in plays]


def write_rows(path: Path, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    """Write a compressed CSV; the same rows give the same bytes."""
    write_atomically(path, gzip.compress(csv_text(columns, rows).encode(), mtime=0))  # no time in it


def read_rows(path: Path, columns: tuple[str, ...]) -> list[dict[str, Any]]:
    """What :func:`write_rows` wrote. Raises ValueError for a damaged file, and for one with other columns."""
    try:
        with gzip.open(path, "rt", newline="") as file:
            reader = csv.reader(file)
            if tuple(next(reader)) != columns:
                raise ValueError("its columns are others")
            return [
                {name: text if name in TEXTS else _number(text) for name, text in zip(columns, line, strict=True)}
                for line in reader
            ]
    except (ValueError, EOFError, StopIteration, csv.Error, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"results: {path} is damaged, or of another version ({error}).") from error


def _number(text: str) -> float:
    return int(text) if text.isdigit() else float(text)
