"""Results of one's own, as a file that anybody can check: the networks that were found, and which settings were tried.

A submission is a CSV with a row for each play. Whoever validates it scores every network again, so what counts is not what the
file says but what its networks do.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from prune_gym.agents.plugins import check_agent_name
from prune_gym.agents.tuned import all_tuned
from prune_gym.arguments import check_choice, check_integer, check_number
from prune_gym.benchmark.games import BASES, SELF_COMPETITION, TASKS, Game, replay
from prune_gym.benchmark.harness import BUDGETS
from prune_gym.benchmark.play import DEFAULT, KEY
from prune_gym.benchmark.report.standings import Field, fields_of
from prune_gym.benchmark.results import PLAYS, Played, read_results, summarise
from prune_gym.benchmark.store import Store
from prune_gym.files import csv_text, parse_json, to_json, write_atomically
from prune_gym.simulation.formula import reads_a_file
from prune_gym.simulation.rewards import make_reward
from prune_gym.training.train import deterministic, one_thread

COLUMNS = (*KEY, "tried", "val_accuracy", "test_accuracy", "architecture")
NUMBERS = {"base": int, "macs_reduction": float, "budget": int, "seed": int, "val_accuracy": float, "test_accuracy": float}


def plays_in(folder: Path) -> list[Played]:
    """The plays in a store, or in a folder of results. Raises ValueError for a folder that is neither, and for damaged files."""
    folder = folder.expanduser()
    return read_results(folder) if (folder / PLAYS).exists() else list(map(summarise, Store(folder, new=False)))


def write_submission(path: Path, plays: Iterable[Played], agent: str, tried: Mapping[str, Any] | None = None) -> int:
    """Write those of the plays that are the agent's as a submission; gives how many these are.

    Args:
        tried: the range of every setting that was tried before, by name, on whatever tasks and seeds; empty if none was changed.
            By default those of :func:`prune_gym.agents.tuned.all_tuned` for plays with other settings than the default ones.

    Raises ValueError if none of the plays is the agent's.
    """
    ranges = all_tuned().get(agent, {}).get("ranges", {})

    def tried_for(row: Mapping[str, Any]) -> Mapping[str, Any]:
        return tried if tried is not None else {} if row["settings"] == DEFAULT else ranges

    rows = [{**play.row, "tried": to_json("tried", tried_for(play.row))} for play in plays if play.row["agent"] == agent]
    if not rows:
        raise ValueError(f"agent: expected one that played, and there are no plays of {agent!r}.")
    write_atomically(path, csv_text(COLUMNS, [{name: row[name] for name in COLUMNS} for row in rows]))
    return len(rows)


def read_submission(path: Path) -> list[dict[str, Any]]:
    """The rows of a submission. Raises FileNotFoundError, and ValueError for a file with other columns, or with a value that is
    of another kind."""
    with path.expanduser().open(newline="") as file:
        reader = csv.DictReader(file)
        if tuple(reader.fieldnames or ()) != COLUMNS:
            raise ValueError(
                f"file: expected the columns {', '.join(COLUMNS)} in {path}, got {', '.join(reader.fieldnames or ())}."
            )
        rows: list[dict[str, Any]] = []
        try:
            for row in reader:
                rows.append(_read_row(row))
        except (TypeError, ValueError, csv.Error) as error:
            raise ValueError(f"file: row {len(rows) + 2} of {path} is damaged ({error}).") from error
    if not rows:
        raise ValueError(f"file: {path} holds no plays.")
    keys = [tuple(row[name] for name in KEY) for row in rows]
    if len(set(keys)) < len(keys):
        raise ValueError(f"file: {path} has several rows of the same play.")
    return rows


def _read_row(row: Mapping[str | None, Any]) -> dict[str, Any]:
    if None in row or None in row.values():
        raise ValueError(f"expected {len(COLUMNS)} columns")
    parse_json(row["tried"])
    parse_json(row["settings"])
    read: dict[str, Any] = {name: NUMBERS.get(name, str)(row[name]) for name in COLUMNS}
    check_agent_name(read["agent"])
    check_choice("task", read["task"], TASKS)
    for name, known in (("base", BASES), ("budget", tuple(BUDGETS.values()))):
        if read[name] not in known:
            raise ValueError(f"{name}: expected one of {', '.join(map(str, known))}, got {read[name]}")
    check_number("macs_reduction", read["macs_reduction"], "(0, 1)")
    if reads_a_file(read["reward"]):
        raise ValueError(f"reward: expected one that reads no file, got {read['reward']}")
    if read["reward"] != SELF_COMPETITION:
        make_reward(read["reward"])
    check_integer("seed", read["seed"], 0)
    return read


def check(row: Mapping[str, Any]) -> Played:
    """Score the network of a row again: the play that it stands for, without what led there.

    Raises ValueError for a network that is not at the target, or whose accuracies are not those that the row says.
    """
    with one_thread(), deterministic():  # as plays are played
        true = replay(Game(row["task"], row["base"], row["macs_reduction"], row["budget"]), row["architecture"])
    for name in ("val_accuracy", "test_accuracy"):
        if row[name] != true[name]:
            raise ValueError(f"{name}: expected {true[name]}, which is what the network has, got {row[name]}.")
    unknown = dict.fromkeys(("regret", "policy_accuracy", "policy_macs", "compute", "full_cost", "hypervolume"), float("nan"))
    return Played(unknown | {name: row[name] for name in KEY} | true, np.zeros((0, 4)), np.zeros((0, 4)))


def checked(path: Path, rows: Sequence[Mapping[str, Any]]) -> list[Played]:
    """Score every network of the rows of a submission again; gives its plays. Raises ValueError for one that says what is not so:
    all such rows are named."""
    wrong, played = [], []
    for number, row in enumerate(tqdm(rows, unit="network"), 2):
        try:
            played.append(check(row))
        except ValueError as error:
            wrong.append(f"row {number}: {error}")
    if wrong:
        raise ValueError(f"file: {path} is refused.\n" + "\n".join(wrong))
    return played


def validate(path: Path, results: Sequence[Played]) -> list[Field]:
    """The fields that a submission is part of, with its plays and those of ``results`` on the same problems. Raises
    FileNotFoundError, and ValueError for a damaged file and for one that says what is not so."""
    played = checked(path, read_submission(path))
    problems = {_problem(play) for play in played}
    theirs = set(map(_player, played))
    others = [play for play in results if _problem(play) in problems and _player(play) not in theirs]
    return fields_of([*played, *others])


def _player(play: Played) -> tuple:
    return tuple(play.row[name] for name in ("agent", "settings", "reward"))


def _problem(play: Played) -> tuple:
    return tuple(play.row[name] for name in ("task", "base", "macs_reduction", "budget"))
