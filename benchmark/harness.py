"""The benchmark: agents x tasks x targets x rewards x seeds at one budget, into a store that goes on where it stopped."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Annotated, Any

from tqdm import tqdm

from prune_gym.agents.registry import AGENTS, sees_wrappers
from prune_gym.agents.tuned import all_tuned
from prune_gym.arguments import AtLeast, OneOf, Within, check_different, check_settings
from prune_gym.benchmark.games import BASES, REWARD, SELF_COMPETITION, TASKS, Game
from prune_gym.benchmark.play import DEFAULT, Play
from prune_gym.benchmark.provenance import provenance
from prune_gym.benchmark.store import Store
from prune_gym.benchmark.workers import Failure, local, on_cluster
from prune_gym.files import to_json
from prune_gym.simulation.rewards import lasting_text, make_scalar

BUDGETS = {"Prune-100": 100, "Prune-1k": 1000, "Prune-10k": 10_000}  # evaluations
SETTINGS = ("default", "tuned")
FIRST_SEED = 100  # apart from those that settings were tuned with
PLAYERS = (
    "uniform", "greedy", "random", "eagle_eye", "cma_es", "tpe", "uct", "lookahead", "rl_pruner",
    "ppo", "recurrent_ppo", "trpo", "a2c", "sac", "tqc", "td3", "ddpg", "dqn", "ars", "amc", "cacp", "gnn_rl",
)  # fmt: skip

Tasks = tuple[Annotated[str, OneOf(TASKS)], ...]
Targets = tuple[Annotated[float, Within("(0, 1)")], ...]
Players = tuple[Annotated[str, OneOf(AGENTS)], ...]


@dataclass(frozen=True)
class BenchmarkConfig:
    """What is played: every agent on every task at every target under every reward with every seed."""

    tasks: Tasks = TASKS
    """Tasks: digits, digits-resnet, digits-mobilenet, where networks run, and tabular-digits, ..., where a table knows them."""
    macs_reductions: Targets = (0.7, 0.8)
    """Targets: MACs to remove, as fractions of the original network's."""
    agents: Players = PLAYERS
    """Agents by name."""
    settings: tuple[Annotated[str, OneOf(SETTINGS)], ...] = SETTINGS[:1]
    """Settings that they play with: default, tuned, or both. Agents without tuned settings play with the default ones alone."""
    rewards: tuple[str, ...] = (REWARD,)
    """Rewards that they learn from, by name (self_competition, too) or as formulas; whatever these are, networks are judged by
    their accuracy."""
    seeds: Annotated[int, AtLeast(1)] = 5
    """How many seeds."""
    first_seed: Annotated[int, AtLeast(0)] = FIRST_SEED
    """The first of them. Settings were tuned with lower ones."""
    budget: Annotated[str, OneOf(BUDGETS)] = "Prune-1k"
    """Networks that a play may score: Prune-100, Prune-1k or Prune-10k."""
    base: Annotated[int, AtLeast(0, below=len(BASES))] = 1
    """Base network of the tasks, 0 or 1. Settings were tuned on 0."""
    processes: Annotated[int, AtLeast(1)] = 2
    """Plays at a time, one thread each."""
    ray: str | None = None
    """Address of a Ray cluster that plays instead (auto for the one on this machine); needs pip install "prune_gym[ray]"."""
    store: Path = Path("runs/benchmark")
    """Folder of the finished plays. What it holds is not played again."""

    def __post_init__(self) -> None:
        check_settings(self)
        for name in ("tasks", "agents", "settings", "rewards", "macs_reductions"):
            check_different(name, getattr(self, name))
        formulas = [value if value == SELF_COMPETITION else make_scalar(value, "rewards") for value in self.rewards]
        if len(set(formulas)) < len(formulas):
            raise ValueError(f"rewards: expected different ones, got {self.rewards}, of which some are the same formula.")
        blind = [agent for agent in self.agents if not sees_wrappers(agent)]
        if SELF_COMPETITION in self.rewards and blind and (len(self.rewards) == 1 or len(blind) == len(self.agents)):
            raise ValueError(
                f"rewards: {SELF_COMPETITION} is a wrapper's, which {', '.join(blind)} would not see; choose another reward, or "
                "agents of Stable-Baselines3."
            )

    def plays(self) -> list[Play]:
        """All plays; those with the first seed come first, so that an interrupted benchmark has some of everything. In
        competition with themselves are only agents that see a wrapper's reward."""
        seeds = range(self.first_seed, self.first_seed + self.seeds)
        games = [
            Game(task, self.base, reduction, BUDGETS[self.budget])
            for task, reduction in product(self.tasks, self.macs_reductions)
        ]
        return [
            Play(game, agent, seed, settings, reward if reward == SELF_COMPETITION else lasting_text(reward))
            for seed, game, reward, agent in product(seeds, games, self.rewards, self.agents)
            if reward != SELF_COMPETITION or sees_wrappers(agent)
            for settings in self._settings_of(agent)
        ]

    def _settings_of(self, agent: str) -> list[str]:
        """Its settings as JSON: tuned ones that are the default ones are not played twice."""
        chosen = {"default": DEFAULT, "tuned": to_json("settings", all_tuned().get(agent, {}).get("settings", {}))}
        return list(dict.fromkeys(chosen[name] for name in self.settings))


def missing(config: BenchmarkConfig, store: Store) -> list[Play]:
    """The plays that the store lacks."""
    return [play for play in config.plays() if play not in store]


def run_benchmark(config: BenchmarkConfig) -> list[Failure]:
    """Play what the store lacks, and keep each play as soon as it is over; gives those that failed.

    A play that another command plays at the same time is left to it. Raises OSError if the store cannot be written, ImportError
    for a cluster without Ray.
    """
    store = Store(config.store)
    plays = missing(config, store)
    failures: list[Failure] = []
    claims: dict[Play, ExitStack] = {}

    def claimed() -> Iterator[Play]:
        for play in plays:
            claim = ExitStack()
            if claim.enter_context(store.claim(play)):
                claims[play] = claim
                yield play
            else:
                claim.close()
                bar.update()

    with tqdm(total=len(plays), unit="play") as bar:
        try:
            made = provenance()  # of the program that is running, whatever is committed meanwhile
            ways = local(claimed(), config.processes, made) if config.ray is None else on_cluster(claimed(), config.ray, made)
            for play, result in ways:
                if isinstance(result, Failure):
                    failures.append(result)
                    tqdm.write(f"failed: {play}")
                else:
                    store.add(play, result)
                claims.pop(play).close()
                bar.update()
        finally:
            for claim in claims.values():
                claim.close()
    return failures


@dataclass(frozen=True)
class Forecast:
    """What would be played for one agent on one task: how many plays, how many of them the store lacks, and the seconds of one,
    or None if no play tells."""

    task: str
    agent: str
    plays: int
    missing: int
    seconds: float | None


def forecast(config: BenchmarkConfig) -> list[Forecast]:
    """What :func:`run_benchmark` would do. How long a play takes is the median of those in the store of its agent and task."""
    store = Store(config.store, new=False) if config.store.expanduser().exists() else None
    times: dict[tuple[str, str, int], list[float]] = {}
    for key, made in store.made() if store else ():
        times.setdefault((key["task"], key["agent"], key["budget"]), []).append(made["seconds"])
    counts: dict[tuple[str, str], list[int]] = {}
    for play in config.plays():
        of_one = counts.setdefault((play.game.task, play.agent), [0, 0])
        of_one[0] += 1
        of_one[1] += store is None or play not in store
    known: Any = {key: statistics.median(found) for key, found in times.items()}
    budget = BUDGETS[config.budget]
    return [
        Forecast(task, agent, plays, lacking, known.get((task, agent, budget)))
        for (task, agent), (plays, lacking) in counts.items()
    ]
