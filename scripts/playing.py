"""What the commands that play share: settings from a file, a dry run, and failures at the end."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TypeVar

import tyro
from rich.console import Console
from rich.table import Table

from prune_gym.agents.progress import count, in_words
from prune_gym.benchmark.harness import BenchmarkConfig, forecast, run_benchmark


@dataclass(frozen=True)
class PlayingConfig:
    """How a command plays."""

    plan: Path | None = None
    """A YAML file with any of the settings of what is played by name; what the command line says comes before it."""
    dry_run: bool = False
    """Play nothing; say what would be played and about how long it takes."""


Config = TypeVar("Config", bound=BenchmarkConfig)


def plan_of(kind: type[Config]) -> Callable[[Sequence[str]], Config | None]:
    """A function that gives the settings in the file that ``--plan`` names among arguments."""

    def read(arguments: Sequence[str]) -> Config | None:
        given, _ = tyro.cli(PlayingConfig, args=arguments, return_unknown_args=True, add_help=False)
        return None if given.plan is None else read_plan(given.plan, kind)

    return read


def read_plan(path: Path, kind: type[Config]) -> Config:
    """The settings in a YAML file. Raises FileNotFoundError, ValueError for what is no mapping of settings, ImportError without
    PyYAML."""
    import yaml  # of few users

    try:
        content = yaml.safe_load(path.expanduser().read_text())
    except yaml.YAMLError as error:
        raise ValueError(f"plan: expected YAML in {path}, but {error}.") from error
    known = [field.name for field in fields(kind) if field.name not in {own.name for own in fields(PlayingConfig)}]
    if not isinstance(content, dict) or not set(content) <= set(known):
        raise ValueError(f"plan: expected settings by name in {path} ({', '.join(known)}), got {content!r}.")
    try:
        return kind(**content)
    except (TypeError, ValueError) as error:
        raise ValueError(f"plan: {path}: {error}") from error


def play_all(config: BenchmarkConfig) -> str | None:
    """Play what the store lacks, and list what failed; gives what to end with if anything did."""
    failures = run_benchmark(config)
    for failure in failures:
        print(f"\nfailed: {failure.play}\n{failure.why}", file=sys.stderr)
    return f"{count(len(failures), 'play')} failed; the same command tries them again." if failures else None


def show(config: BenchmarkConfig) -> None:
    """Say what would be played: a line for every task and agent, and the whole."""
    forecasts = forecast(config)
    table = Table(title=f"{config.budget}, to {config.store}")
    for heading in ("task", "agent", "plays", "to be played", "seconds each"):
        table.add_column(heading, justify="left" if heading in ("task", "agent") else "right")
    for one in forecasts:
        seconds = "?" if one.seconds is None else f"{one.seconds:.1f}"
        table.add_row(one.task, one.agent, str(one.plays), str(one.missing), seconds)
    console = Console()
    console.print(table)
    duration = sum(one.seconds * one.missing for one in forecasts if one.seconds is not None) / config.processes
    unknown = sum(one.missing for one in forecasts if one.seconds is None)
    sentences = [f"{count(sum(one.missing for one in forecasts), 'play')} to be played."]
    if duration:
        sentences.append(f"With --processes {config.processes} this takes about {in_words(duration)}.")
    if unknown:
        sentences.append(f"How long {unknown} of them take is not known, as the store has no play of the same agent and task.")
    console.print(" ".join(sentences))
