"""What agents do under a reward once they have learned: how long their last games are, and which networks these end with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure as Canvas

from prune_gym.benchmark.games import Game
from prune_gym.benchmark.play import DEFAULT, KEY, KINDS, Record
from prune_gym.benchmark.report.standings import Problem
from prune_gym.benchmark.results import lock_of, read_rows, write_rows
from prune_gym.benchmark.rewards.gallery import show_kept
from prune_gym.simulation.schedule import target_budget

HABITS = "habits.csv.gz"
COLUMNS = (*KEY, "moves", "accuracy", "widths")
GAMES = 10  # the last ones of a play


def habit(record: Record) -> dict[str, Any]:
    """A play's last :data:`GAMES` games that ended: their moves, the accuracy at their ends and, as text, the widths of the
    groups there, all means. Raises ValueError for a play in which no game ended."""
    networks, full = record.networks, record.found["full_macs"]
    steps = networks["kind"] == KINDS.index("step")
    macs, accuracy, widths = networks["macs"][steps], networks["accuracy"][steps], networks["widths"][steps]
    ends = np.flatnonzero(macs <= full - target_budget(full, record.key["macs_reduction"]))
    if not len(ends):
        raise ValueError(f"habits: expected a play with games that end, got {len(macs)} moves in {record.key}.")
    moves = np.diff(ends, prepend=-1)[-GAMES:]
    last = ends[-GAMES:]
    means = {"moves": round(float(moves.mean()), 2), "accuracy": round(float(accuracy[last].mean()), 6)}
    return {**record.key, **means, "widths": " ".join(f"{width:.2f}" for width in widths[last].mean(0))}


def add_habits(folder: Path, records: Iterable[Record]) -> list[dict[str, Any]]:
    """Add the habits of these plays to those in the folder; gives them all, sorted by the plays' keys."""
    path = folder / HABITS
    with lock_of(folder):
        known = read_rows(path, COLUMNS) if path.exists() else []
        by_key = {tuple(row[name] for name in KEY): row for row in (*known, *map(habit, records))}
        rows = [by_key[key] for key in sorted(by_key)]
        write_rows(path, COLUMNS, rows)
    return rows


def habits_picture(rows: Sequence[Mapping[str, Any]], agent: str, problems: Sequence[Problem], budget: int) -> Canvas:
    """For every reward and problem, what is left of the groups at the end of the last games of an agent with default settings,
    the moves that they took, and the accuracy; means over the seeds, the best reward on top."""
    by_problem: dict[Problem, dict[str, list[Mapping[str, Any]]]] = {problem: {} for problem in problems}
    for row in rows:
        problem = Problem(row["task"], row["base"], row["macs_reduction"])
        if (row["agent"], row["settings"], row["budget"]) == (agent, DEFAULT, budget) and problem in by_problem:
            by_problem[problem].setdefault(row["reward"], []).append(row)

    def accuracy(reward: str) -> float:
        means = [np.mean([row["accuracy"] for row in by_reward.get(reward, [])] or [0]) for by_reward in by_problem.values()]
        return float(np.mean(means))

    rewards = sorted({reward for by_reward in by_problem.values() for reward in by_reward}, key=accuracy, reverse=True)
    canvas = Canvas(figsize=(2 + 4.2 * len(by_problem), 1.2 + 0.36 * len(rewards)), layout="constrained")
    canvas.suptitle(f"How {agent} plays in the end under each reward: channels that are left, %")
    for axes, (problem, by_reward) in zip(np.atleast_1d(canvas.subplots(1, len(by_problem))), by_problem.items(), strict=True):
        full = Game(*problem, budget).environment().graph.widths
        kept, labels = np.full((len(rewards), len(full)), np.nan), []
        for i, reward in enumerate(rewards):
            plays = by_reward.get(reward, [])
            if plays:
                kept[i] = np.mean([100 * np.array(row["widths"].split(), float) / full for row in plays], 0)
                moves, end = (np.mean([row[name] for row in plays]) for name in ("moves", "accuracy"))
                labels.append(f"{reward}: {moves:.0f} moves, {100 * end:.0f}%")
            else:
                labels.append(reward)
        show_kept(axes, kept, labels, "x-small")
        axes.set(title=str(problem))
    return canvas
