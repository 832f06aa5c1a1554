"""The figures of a report: which lines they show, and what one sees there."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from prune_gym.benchmark.report.curves import Line, exact_front, front_line, profile_line, regret_line, solved_line
from prune_gym.benchmark.report.standings import Field

SHOWN = 8  # players whose lines can be told from each other: the best, and the floor


@dataclass(frozen=True)
class Figure:
    """Lines in one pair of axes, or with ``rows`` one horizontal interval in each row, the first on top.

    Attributes:
        name: of its file.
        caption: what is to be seen, in a sentence or two.
        shown: names of the lines that are shown at first; others are there when they are asked for.
    """

    name: str
    title: str
    caption: str
    x_label: str
    y_label: str
    lines: tuple[Line, ...]
    shown: tuple[str, ...] = ()
    log_x: bool = False
    rows: bool = False


def figures_of(field: Field) -> list[Figure]:
    """All figures about one field."""
    return [regrets(field), by_evaluations(field), solved(field), solved(field, by_compute=True), profiles(field), *fronts(field)]


def shown_players(field: Field) -> tuple[str, ...]:
    """The best players, and those that everybody knows."""
    best = [one.name for one in field.standings[:SHOWN]]
    return tuple(dict.fromkeys([*best, *(name for name in ("random", "uniform", "rl_pruner", "ppo") if name in field.players)]))


def regrets(field: Field) -> Figure:
    """The regret of every player at the end, with its interval, the best player on top."""
    lines = [
        Line(one.name, np.array([one.regret.value]), np.array([0.0]), np.array([one.regret.low]), np.array([one.regret.high]))
        for one in field.standings
    ]
    caption = (
        "Interquartile mean of the regret over all plays, with the 95% interval of the stratified bootstrap. Where intervals "
        "overlap widely, the order may be luck."
    )
    return Figure(
        f"{field.world}_{field.budget}_regret", "Regret", caption, "regret, points", "", tuple(lines), field.players, rows=True
    )


def by_evaluations(field: Field) -> Figure:
    """The regret of every player by evaluations."""
    lines = tuple(regret_line(field, one.name) for one in field.standings)
    caption = (
        "The same as the search goes on: how far the best network so far is behind the best one that is known. A search that "
        "spends its budget on a single episode has nothing to show before its end."
    )
    return Figure(
        f"{field.world}_{field.budget}_curves",
        "Regret by evaluations",
        caption,
        "evaluations",
        "regret, points",
        lines,
        shown_players(field),
        log_x=True,
    )


def solved(field: Field, by_compute: bool = False) -> Figure:
    """The share of goals that every player reached by evaluations, or by compute."""
    lines = tuple(solved_line(field, one.name, by_compute) for one in field.standings)
    caption = "The share of goals that were reached; a goal is a problem, a seed, and one of 51 regrets from 50 points down to 0."
    name, title, what = "evaluations", "Goals reached by evaluations", "evaluations"
    if by_compute:
        caption += " Importance, recalibration and all else that a search takes are counted."
        name, title, what = "compute", "Goals reached by compute", "compute, evaluations of the original network"
    return Figure(
        f"{field.world}_{field.budget}_goals_{name}",
        title,
        caption,
        what,
        "share of goals",
        lines,
        shown_players(field),
        log_x=True,
    )


def profiles(field: Field) -> Figure:
    """The share of every player's plays whose regret is at most each bound."""
    lines = tuple(profile_line(field, one.name) for one in field.standings)
    caption = "The share of plays that end with at most so much regret: a line that is above another one everywhere is better."
    return Figure(
        f"{field.world}_{field.budget}_profiles",
        "Performance profiles",
        caption,
        "regret, points",
        "share of plays",
        lines,
        shown_players(field),
    )


def fronts(field: Field) -> list[Figure]:
    """For every network, what all plays of a player found at all sizes, together."""
    networks: dict[tuple[str, int], list] = {}
    for problem in field.problems:
        networks.setdefault((problem.task, problem.base), []).append(problem)
    figures = []
    for (task, base), problems in networks.items():
        exact = exact_front(problems[0])
        lines = [
            front_line(one.name, [play for problem in problems for play in field.plays[one.name][problem]])
            for one in field.standings
        ]
        caption = "The networks that no other one of the same player dominates, all seeds and targets together."
        figures.append(
            Figure(
                f"{field.world}_{field.budget}_front_{task.replace('-', '_')}_{base}",
                f"Pareto fronts on {task}, network {base}",
                caption,
                "MACs removed, %",
                "validation accuracy, %",
                tuple(lines if exact is None else [exact, *lines]),
                shown_players(field) if exact is None else (exact.name, *shown_players(field)),
            )
        )
    return figures
