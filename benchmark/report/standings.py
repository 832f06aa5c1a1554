"""Who is how good, and how sure is that: the numbers of a report.

Plays are judged by their regret, in points of validation accuracy: how much less accurate the network that was found is than the
best one at the target, by brute force on a table, the best that anybody found where networks run. Smaller is better.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import comb
from typing import Any, NamedTuple

import numpy as np

from prune_gym.agents.progress import count
from prune_gym.agents.tuned import all_tuned
from prune_gym.benchmark import statistics
from prune_gym.benchmark.games import REWARD, TABULAR
from prune_gym.benchmark.play import DEFAULT
from prune_gym.benchmark.results import Played
from prune_gym.benchmark.statistics import Interval
from prune_gym.simulation.schedule import target_budget

FLOOR = "random"  # what is not better than this is luck
RANDOM_SEARCHES = {FLOOR: "random search", "eagle_eye": "EagleEye's random search"}
SEED = 0  # of the bootstrap


class Problem(NamedTuple):
    """What an agent plays with several seeds."""

    task: str
    base: int
    macs_reduction: float

    def __str__(self) -> str:
        return f"{self.task.removeprefix(TABULAR)}-{self.base}, -{self.macs_reduction:.0%}"


@dataclass(frozen=True)
class Standing:
    """How good a player is in a field. Regrets are in points.

    Attributes:
        regret: the interquartile mean over all plays, with its interval.
        policy: the same of the network that the final policy leads to without noise.
        by_problem: the mean regret on each problem; ``test`` the mean test accuracy of the network that was found, in percent.
        over_floor: how probable it is that a play of it is better than one of the floor; None without a floor, and for the floor.
        hypervolume: the area below the Pareto front of a play's networks, over MACs removed and accuracy, in percent; the mean.
        compute: what its evaluations cost, in evaluations of the original network, the mean over the problems.
        seeds: of the problem with fewest.
    """

    name: str
    regret: Interval
    policy: Interval
    by_problem: tuple[float, ...]
    test: tuple[float, ...]
    over_floor: Interval | None
    hypervolume: float
    compute: float
    seeds: int


@dataclass(frozen=True)
class Field:
    """All plays on tables, or all where networks run, at one budget.

    Attributes:
        plays: by player and problem.
        problems: those that most players have played, all of them and no others; the larger set of two.
        players: those that have played all of these; ``incomplete`` are the others, which are in no standing.
    """

    world: str
    budget: int
    plays: Mapping[str, Mapping[Problem, Sequence[Played]]] = field(repr=False)

    @cached_property
    def problems(self) -> tuple[Problem, ...]:
        sets = Counter(frozenset(by_problem) for by_problem in self.plays.values())
        most, _ = max(sets.items(), key=lambda item: (item[1], len(item[0])))
        return tuple(sorted(most))

    @cached_property
    def players(self) -> tuple[str, ...]:
        return tuple(name for name, by_problem in self.plays.items() if set(self.problems) <= set(by_problem))

    @property
    def incomplete(self) -> tuple[str, ...]:
        return tuple(name for name in self.plays if name not in self.players)

    @cached_property
    def floor(self) -> str | None:
        """The player that searches at random: the best one, if there are several with different settings."""
        names = [name for name in self.players if name.partition(",")[0] == FLOOR]
        return min(names, key=lambda name: statistics.aggregate(self.regrets(name)), default=None)

    @cached_property
    def optimum(self) -> dict[Problem, float]:
        """The validation accuracy of the best network that is known, by problem."""
        found: dict[Problem, float] = {}
        for by_problem in self.plays.values():
            for problem, plays in by_problem.items():
                for row in (play.row for play in plays):
                    known = [row["val_accuracy"], row["val_accuracy"] + row["regret"]]  # NaN where networks run
                    limit = row["full_macs"] - target_budget(row["full_macs"], problem.macs_reduction)
                    known.append(row["policy_accuracy"] if row["policy_macs"] <= limit else np.nan)
                    found[problem] = float(np.nanmax([*known, found.get(problem, 0.0)]))
        return found

    def regrets(self, player: str, column: str = "val_accuracy") -> list[np.ndarray]:
        """By problem, an array with the regret of every play in points."""
        return [
            100 * (self.optimum[problem] - np.array([play.row[column] for play in self.plays[player][problem]]))
            for problem in self.problems
        ]

    def scores(self, player: str, column: str = "val_accuracy") -> list[np.ndarray]:
        """Regrets with the other sign: larger is better."""
        return [-regrets for regrets in self.regrets(player, column)]

    @cached_property
    def standings(self) -> list[Standing]:
        """All players that played every problem, the best first."""
        return sorted(map(self._standing, self.players), key=lambda one: one.regret.value)

    def _standing(self, player: str) -> Standing:
        plays = [self.plays[player][problem] for problem in self.problems]
        regrets = self.regrets(player)
        over_floor = None
        if self.floor is not None and player != self.floor:
            over_floor = statistics.improvement_interval(
                self.scores(player), self.scores(self.floor), np.random.default_rng(SEED)
            )

        def mean(read: Callable[[Mapping[str, Any]], float]) -> list[float]:
            return [float(np.mean([read(play.row) for play in of_one])) for of_one in plays]

        return Standing(
            player,
            statistics.aggregate_interval(regrets, np.random.default_rng(SEED)),
            statistics.aggregate_interval(self.regrets(player, "policy_accuracy"), np.random.default_rng(SEED)),
            tuple(float(values.mean()) for values in regrets),
            tuple(mean(lambda row: 100 * row["test_accuracy"])),
            over_floor,
            float(np.mean(mean(lambda row: 100 * row["hypervolume"]))),
            float(np.mean(mean(lambda row: row["compute"] / row["full_cost"]))),
            min(map(len, plays)),
        )

    def compared(
        self, player: str, others: Sequence[str], column: str = "val_accuracy", chosen: bool = False
    ) -> list[Comparison]:
        """A player with others: who is better, and whether that is clear; by the networks that they found, or with the column
        ``policy_accuracy`` by those that their final policies lead to. ``chosen`` says that the plays chose the player, as the
        one that is ahead: any two might have been compared then, and the correction is for all pairs."""
        scores, theirs = self.scores(player, column), [self.scores(other, column) for other in others]
        hypotheses = comb(len(others) + 1, 2) if chosen else len(others)
        permutations = max(statistics.PERMUTATIONS, 200 * hypotheses)  # the least p-value is a tenth of the level then
        p_values = [statistics.same_mean_p(scores, one, np.random.default_rng(SEED), permutations) for one in theirs]
        return [
            Comparison(
                player,
                other,
                float(np.mean([np.mean(x) - np.mean(y) for x, y in zip(scores, one, strict=True)])),
                clear,
                max(statistics.runs_that_separate(scores, one), len(scores[0]) + 1),
            )
            for other, one, clear in zip(others, theirs, statistics.holm(p_values, hypotheses), strict=True)
        ]


@dataclass(frozen=True)
class Comparison:
    """Two players: by how many points the first one's mean regret is smaller; whether that is clear, by a permutation test within
    the problems, corrected for the number of comparisons; and how many seeds of each would make it so four times of five, if
    differences and spreads are as they were seen."""

    one: str
    other: str
    difference: float
    clear: bool
    seeds: float


def fields_of(played: Sequence[Played]) -> list[Field]:
    """The plays on tables and the live ones apart, each budget for itself; tables first."""
    found: dict[tuple[bool, int], dict[str, dict[Problem, list[Played]]]] = {}
    for play in played:
        row = play.row
        tabular = row["task"].startswith(TABULAR)
        by_player = found.setdefault((not tabular, row["budget"]), {})
        problem = Problem(row["task"], row["base"], row["macs_reduction"])
        by_player.setdefault(player_name(row["agent"], row["settings"], row["reward"]), {}).setdefault(problem, []).append(play)
    return [Field("live" if live else "tabular", budget, plays) for (live, budget), plays in sorted(found.items())]


def player_name(agent: str, settings: str, reward: str = REWARD) -> str:
    """What a player is called: by its settings, if they are neither the default ones nor those that are tuned now, and by its
    reward, if that is another one than the benchmark's."""
    taught = "" if reward == REWARD else f", {reward}"
    if settings == DEFAULT:
        return agent + taught
    tuned = agent in all_tuned() and json.loads(settings) == all_tuned()[agent]["settings"]
    return f"{agent}, {'tuned' if tuned else settings}{taught}"


def place(field: Field) -> str:
    """Where a field is, as the beginning of a sentence."""
    return "On tables" if field.world == "tabular" else "Where networks run"


def verdict(field: Field) -> list[str]:
    """What the standings say, in sentences; the first one names who is ahead, and whether that is more than luck."""
    ahead, *others = field.standings
    about = f"{count(ahead.seeds, 'seed')}, {count(len(field.problems), 'problem')}"
    interval = "" if np.isnan(ahead.regret.low) else f"{ahead.regret.low:.1f} to {ahead.regret.high:.1f}; "
    after = f"after {field.budget:,} evaluations"
    is_ahead = f"{ahead.name} is ahead: {ahead.regret.value:.1f} points of regret ({interval}{about})."
    behind = field.compared(ahead.name, [one.name for one in others], chosen=True)
    level = [one for one in behind if not one.clear]
    sentences = [f"{place(field)}, {after}, {is_ahead}"]
    luck = RANDOM_SEARCHES.get(ahead.name.partition(",")[0])
    if luck:
        wins = "is ahead" if level else "wins"
        sentences = [
            f"{place(field)}, {luck} {wins}: no agent that learns is shown to be better.",
            f"{after.capitalize()}, {is_ahead}",
        ]
    if level:
        needed = [f"{one.other} ({_seeds(one.seeds)})" for one in level]
        sentences.append(f"Nothing separates it from {_listed(needed)}; in brackets, about how many seeds would.")
    elif others:
        sentences.append("It is separated from all others.")
    if field.floor is not None and field.floor != ahead.name:
        floor = field.compared(field.floor, [one.name for one in others if one.name != field.floor])  # the one ahead had its turn
        better = [one.other for one in floor if one.clear and one.difference < 0]
        same = [f"{one.other} ({_seeds(one.seeds)})" for one in floor if not one.clear]
        worse = [one.other for one in floor if one.clear and one.difference > 0]
        if better:
            sentences.append(f"Better than {field.floor}: {_listed(better)}.")
        if same:
            sentences.append(f"Nothing separates {field.floor} from {_listed(same)}; in brackets, about how many seeds would.")
        if worse:
            sentences.append(f"Worse than {field.floor}: {_listed(worse)}.")
    if field.incomplete:
        are = "is" if len(field.incomplete) == 1 else "are"
        sentences.append(f"Not all of these problems were played by {_listed(field.incomplete)}, which {are} left out.")
    return sentences


def _seeds(number: float) -> str:
    if np.isnan(number):
        return "one seed does not tell"
    return "no number" if np.isinf(number) else f"{int(np.ceil(number)):,}"


def _listed(names: Sequence[str]) -> str:
    comma = "; " if any("," in name for name in names) else ", "  # as in "ppo, tuned"
    return names[0] if len(names) == 1 else f"{comma.join(names[:-1])} and {names[-1]}"
