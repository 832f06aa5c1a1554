"""Agents x tasks x targets x seeds at one budget, into a store: what scripts/report.py makes its report of. Three more
commands: ``submit --agent NAME --out FILE`` writes what an agent found as a file that others can check, ``validate FILE`` checks
one, and ``leaderboard`` makes docs/leaderboard.md of all that are handed in.

The same command goes on where it stopped, and another one may fill the same store at the same time. Plays that fail are listed
at the end, with their tracebacks; the exit code is 1 then, and the same command tries them again.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import tyro
from playing import PlayingConfig, plan_of, play_all, show

from prune_gym.agents.progress import count
from prune_gym.benchmark.command import run_command
from prune_gym.benchmark.harness import BenchmarkConfig, missing
from prune_gym.benchmark.leaderboard import leaderboard
from prune_gym.benchmark.report.report import markdown
from prune_gym.benchmark.results import PLAYS, read_results
from prune_gym.benchmark.store import Store
from prune_gym.benchmark.submissions import plays_in, validate, write_submission
from prune_gym.files import parse_json, write_atomically


@dataclass(frozen=True)
class PlayConfig(PlayingConfig, BenchmarkConfig):
    """What is played: every agent on every task at every target under every reward with every seed."""


def main(config: PlayConfig) -> None:
    """Play, or say what would be played."""
    if config.dry_run:
        show(config)
        return
    if failed := play_all(config):
        sys.exit(failed)
    elsewhere = len(missing(config, Store(config.store, new=False)))
    if elsewhere:
        print(f"left to another command: {count(elsewhere, 'play')}; give this one again to see them through")
    else:
        print(f"all plays are in {config.store}; python scripts/report.py --store {config.store} shows them")


@dataclass(frozen=True)
class SubmitConfig:
    """What an agent found, as a file for others."""

    agent: str
    """The agent, by name."""
    out: Path
    """The file, a CSV."""
    store: Path = Path("runs/benchmark")
    """Where its plays are: a store, or a folder of results."""
    tried: str | None = None
    """The range of every setting that was tried, as JSON: '{"learning_rate": [1e-4, 1e-2]}'. By default none, but for tuned
    settings of this project's agents those that they were tuned in."""


def submit(config: SubmitConfig) -> None:
    """Write a submission."""
    tried = None if config.tried is None else parse_json(config.tried)
    plays = write_submission(config.out, plays_in(config.store), config.agent, tried)
    held = count(plays, "play")
    print(f"{config.out} holds {held} of {config.agent}; python scripts/benchmark.py validate {config.out} checks them")


@dataclass(frozen=True)
class ValidateConfig:
    """A submission that is checked."""

    file: tyro.conf.Positional[Path]
    """The file."""
    results: Path = Path("results/benchmark")
    """Results that it is set beside, where they played the same problems; none for a folder without results."""


def check(config: ValidateConfig) -> None:
    """Score every network of a submission again, and print where it stands."""
    known = read_results(config.results) if (config.results / PLAYS).exists() else []
    print(markdown(validate(config.file, known)))
    print(f"{config.file} is right: every network has the accuracies that it says, and is at its target")


@dataclass(frozen=True)
class LeaderboardConfig:
    """A page of all submissions."""

    folder: Path = Path("results/submissions")
    """Where they are."""
    out: Path = Path("docs/leaderboard.md")
    """The page."""


def write_leaderboard(config: LeaderboardConfig) -> None:
    """Score every network of all submissions again, and write the page."""
    files, out = sorted(config.folder.expanduser().glob("*.csv")), config.out.expanduser()
    if not files:
        raise ValueError(f"folder: expected submissions (*.csv) in {config.folder}, found none.")
    write_atomically(out, leaderboard(files, out.parent))
    print(config.out)


COMMANDS = {
    "submit": (submit, SubmitConfig),
    "validate": (check, ValidateConfig),
    "leaderboard": (write_leaderboard, LeaderboardConfig),
}

if __name__ == "__main__":
    if len(sys.argv) > 1 and sys.argv[1] in COMMANDS:
        command, settings = COMMANDS[sys.argv[1]]
        run_command(command, settings, command.__doc__, arguments=sys.argv[2:])  # type: ignore[arg-type]
    else:
        run_command(main, PlayConfig, __doc__, "the same command goes on", defaults=plan_of(PlayConfig))
