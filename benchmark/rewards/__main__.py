"""The reward laboratory on tables, where every architecture is known: ``python -m prune_gym.benchmark.rewards --help``

``optimum`` says what the best play under each reward leads to, and ``gallery`` draws it; ``lint`` says what is wrong with a
reward; ``rescore`` says what other rewards would have said about a run. ``latency`` times networks, live, for rewards that count
time.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from scipy.stats import kendalltau
from tyro.conf import subcommand

from prune_gym import tables, tasks
from prune_gym.agents.pictures import png
from prune_gym.arguments import AtLeast, Within, check_choice, check_settings, choose_device
from prune_gym.benchmark.command import run_command
from prune_gym.benchmark.rewards.gallery import gallery
from prune_gym.benchmark.rewards.lint import FAULT, lint
from prune_gym.benchmark.rewards.optimum import optimum, same_policy, without_shaping
from prune_gym.benchmark.rewards.rescore import read_run
from prune_gym.benchmark.table import markdown_table
from prune_gym.files import check_writable, csv_text, write_atomically
from prune_gym.scoring.latency_model import measure_latency
from prune_gym.simulation.block_world import BlockGame, world_of
from prune_gym.simulation.rewards import REWARDS, make_scalar
from prune_gym.simulation.terms import Number
from prune_gym.simulation.yardsticks import make_yardstick

UNSEEN = 30  # networks that show how good a model of times is
Fraction = Annotated[float, Within("(0, 1)")]


@dataclass(frozen=True)
class Games:
    """Tables, targets, and a learner's discount."""

    tasks: tuple[str, ...] = tuple(tables.DIGESTS)
    """Tasks whose tables come with the package."""
    macs_reductions: tuple[Fraction, ...] = (0.75,)
    """MACs to remove, as fractions of the original network's."""
    base: Annotated[int, AtLeast(0)] = 0
    """Which of a task's base networks."""
    gamma: Annotated[float, Within("[0, 1]")] = 0.99
    """The learner's discount."""

    def __post_init__(self) -> None:
        check_settings(self)
        for task in self.tasks:
            check_choice("tasks", task, tables.DIGESTS)

    def games(self) -> Iterator[tuple[str, BlockGame]]:
        for task in self.tasks:
            world = world_of(tables.load(task, self.base))
            for reduction in self.macs_reductions:
                yield task, BlockGame(world, "macs_reduction", reduction)


@dataclass(frozen=True)
class OptimumConfig(Games):
    """What the best play under each reward leads to, by dynamic programming."""

    rewards: tuple[str, ...] = tuple(REWARDS)
    """Rewards by name or as formulas."""
    out: Path | None = None
    """A CSV for the numbers; a table in Markdown lies beside it."""


@dataclass(frozen=True)
class LintConfig(Games):
    """What is wrong with a reward. Ends with status 1 if anything is."""

    reward: str = "accuracy"
    """A reward by name or as a formula."""


@dataclass(frozen=True)
class RescoreConfig:
    """What rewards say of the networks that a run scored."""

    run: Path
    """Folder of a run of scripts/train_agent.py that is finished."""
    rewards: tuple[str, ...] = ("accuracy", "final", "n2n", "huang", "distiller_harmonic")
    """Rewards by name or as formulas."""


@dataclass(frozen=True)
class GalleryConfig(Games):
    """Pictures of the best play under each reward, one for each table."""

    rewards: tuple[str, ...] = ("final", "improvement", "accuracy", "distiller_harmonic", "distiller_budget", "purl", "huang")
    """Rewards by name or as formulas."""
    out: Path = Path("results/rewards")
    """Folder of the pictures."""


@dataclass(frozen=True)
class LatencyConfig:
    """Time networks on this device, for rewards that read latency("FILE")."""

    out: Path
    """The file."""
    task: str = "digits"
    """A task by name; for a network of your own call prune_gym.scoring.latency_model.measure_latency."""
    base: Annotated[int, AtLeast(0)] = 0
    """Which of its base networks."""
    images: Annotated[int, AtLeast(1)] = 64
    """Images at a time."""
    networks: Annotated[int, AtLeast(1)] = 120
    """Random networks that are timed, in turns with the original one."""
    device: str = "auto"
    """cpu, cuda, ...; auto is the GPU if there is one."""

    def __post_init__(self) -> None:
        check_settings(self)


Config = OptimumConfig | LintConfig | RescoreConfig | GalleryConfig | LatencyConfig
Commands = (
    Annotated[OptimumConfig, subcommand("optimum")]
    | Annotated[LintConfig, subcommand("lint")]
    | Annotated[RescoreConfig, subcommand("rescore")]
    | Annotated[GalleryConfig, subcommand("gallery")]
    | Annotated[LatencyConfig, subcommand("latency")]
)


COLUMNS = ("task", "macs_reduction", "gamma", "reward", "formula", "steps", "accuracy", "regret", "without_shaping")


def optima(config: OptimumConfig) -> Iterator[dict[str, Any]]:
    """A row for every game and reward: the worst network that best play ends with, how much less it is worth than the best one,
    and, of rewards with shaping, whether the best moves are those without it."""
    yardstick = make_yardstick("accuracy")
    rewards = {text: make_scalar(text, "rewards") for text in config.rewards}
    for task, game in config.games():
        for name, reward in rewards.items():
            found = optimum(game, reward, config.gamma, yardstick)
            plain = without_shaping(reward)
            if plain == reward:
                same = ""
            elif plain == Number(0):
                same = "nothing is left"
            else:
                same = "same" if same_policy(game, found, optimum(game, plain, config.gamma, yardstick)) else "other"
            steps = " to ".join(str(number) for number in dict.fromkeys(found.steps))
            numbers = f"{found.worth.min():.4f}", f"{found.regret:.4f}"
            row = (task, game.reduction, config.gamma, name, str(reward), steps, *numbers, same)
            yield dict(zip(COLUMNS, row, strict=True))


def main(config: Config) -> int:
    """Print what was asked for; gives the exit status."""
    match config:
        case OptimumConfig():
            return print_optima(config)
        case RescoreConfig():
            return print_rescored(config)
        case GalleryConfig():
            return draw_gallery(config)
        case LatencyConfig():
            return time_networks(config)
        case LintConfig():
            return print_findings(config)


def print_findings(config: LintConfig) -> int:
    reward, faults = make_scalar(config.reward), 0
    for task, game in config.games():
        print(f"{reward}  on {task} at -{game.reduction:.0%} of the MACs, gamma {config.gamma:g}")
        for finding in lint(reward, game, config.gamma, make_yardstick("accuracy")):
            print(f"  {finding.verdict:5}  {finding.check:9}  {finding.text}")
            faults += finding.verdict == FAULT
    return int(faults > 0)


def draw_gallery(config: GalleryConfig) -> int:
    rewards = {name: make_scalar(name, "rewards") for name in config.rewards}
    yardstick = make_yardstick("accuracy")
    for task, game in config.games():
        optima = {name: optimum(game, reward, config.gamma, yardstick) for name, reward in rewards.items()}
        path = config.out.expanduser() / f"gallery_{task.replace('-', '_')}_{round(100 * game.reduction)}.png"
        write_atomically(path, png(gallery(game, optima)))
        print(path)
    return 0


def time_networks(config: LatencyConfig) -> int:
    """Time networks, and say how well the times tell those of others, and how well the clock repeats itself."""
    out = config.out.expanduser()
    check_writable(out)
    task, device = tasks.load(config.task, seed=config.base), choose_device(config.device)
    model, images = copy.deepcopy(task.model).eval().to(device), task.val.inputs(slice(config.images)).to(device)
    found = measure_latency(model, task.graph, images, config.networks)
    one, other = (measure_latency(model, task.graph, images, UNSEEN, seed=1) for _ in range(2))
    found.save(out)
    said, macs = found.share(one.timed), task.graph.costs(one.timed).macs
    times = (one.shares + other.shares) / 2
    print(f"The original network takes {found.milliseconds:.3g} ms for {len(images)} images on {found.device}.")
    print(f"Of {UNSEEN} other networks the fastest takes {times.min():.0%} of that.")
    for what, first, second in (("Two timings of them", one.shares, other.shares), ("Their mean and the file", times, said)):
        error, tau = np.abs(second / first - 1).mean(), kendalltau(first, second).statistic
        print(f"{what} differ by {error:.1%} in the mean, and rank alike with a tau of {tau:.2f}.")
    print(f"Their MACs rank them like that mean with {kendalltau(times, macs).statistic:.2f}.")
    return 0


def print_rescored(config: RescoreConfig) -> int:
    """For each reward the network at the target that it would have chosen, and how it ranks all of them."""
    recorded = read_run(config.run)
    lines = []
    for name in config.rewards:
        found = recorded.under(make_scalar(name, "rewards"))
        chosen = found.chosen
        lines.append([name, f"{chosen.accuracy:.2%}", f"{chosen.macs:,}", f"{chosen.params:,}", f"{found.tau:.2f}"])
    print(markdown_table(["reward", "accuracy", "MACs", "parameters", "tau with accuracy"], lines))
    return 0


def optima_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Markdown: for every reward and game the regret of the best play in points, and its moves."""
    games = list(dict.fromkeys((row["task"], float(row["macs_reduction"])) for row in rows))
    found: dict[str, dict[tuple[str, float], str]] = {}
    for row in rows:
        cell = f"{100 * float(row['regret']):.1f} ({row['steps']} moves)"
        found.setdefault(row["reward"], {})[row["task"], float(row["macs_reduction"])] = cell
    lines = ([f"`{reward}`", *(cells.get(game, "") for game in games)] for reward, cells in found.items())
    return markdown_table(["reward", *(f"{task}, -{reduction:.0%}" for task, reduction in games)], lines)


def print_optima(config: OptimumConfig) -> int:
    rows = []
    for row in optima(config):
        rows.append(row)
        print("  ".join(str(row[name]) for name in COLUMNS if name != "formula"), flush=True)
    if config.out is not None:
        write_atomically(config.out, csv_text(COLUMNS, rows))
        write_atomically(config.out.with_suffix(".md"), optima_table(rows))
    return 0


if __name__ == "__main__":
    run_command(lambda config: sys.exit(main(config)), Commands, __doc__, "what was finished is written")  # type: ignore[arg-type]  # one of several
