"""Prune a network with an agent: ``python scripts/train_agent.py --help``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import tyro
from rich.console import Console
from rich.table import Table

from prune_gym.agents.config import RunConfig
from prune_gym.agents.rl_pruner import RLPrunerConfig
from prune_gym.agents.run import RunResult, run
from prune_gym.agents.run_folder import CONFIG, read_config
from prune_gym.benchmark.command import run_command
from prune_gym.training.distillation import PostTraining

# What is done without arguments: three quarters of the MACs go in small steps, with some training after each, as in the paper.
MAIN_JOB = RunConfig(
    macs_reduction=0.75,
    rl_pruner=RLPrunerConfig(stages=5, prune_with="sample"),
    posttraining=PostTraining(epochs=5, final_epochs=40, learning_rate=0.01, batch_size=64),
)


@dataclass(frozen=True)
class Given:
    """The part of the command line that decides which settings hold where it says nothing."""

    out: Path | None = None
    resume: bool = False
    agent: str = MAIN_JOB.agent
    sparsity: float | None = None
    params_reduction: float | None = None


def defaults(arguments: Sequence[str]) -> RunConfig:
    """The settings that hold for all options that are not given: those of the main job, but for its target if another one is
    given, and for those of its agent if another one is; with ``--resume``, those in the run folder, if it holds a run."""
    given, _ = tyro.cli(Given, args=arguments, return_unknown_args=True, add_help=False)
    if given.resume and given.out is not None and (given.out.expanduser() / CONFIG).exists():
        return read_config(given.out)
    job = MAIN_JOB
    if given.agent != MAIN_JOB.agent:
        job = replace(job, rl_pruner=RLPrunerConfig())
    if given.sparsity is not None or given.params_reduction is not None:
        job = replace(job, macs_reduction=None)
    return job


def main(config: RunConfig) -> None:
    report(run(config, progress=True))


def report(result: RunResult) -> None:
    """Print what the run found."""
    summary = result.summary
    before, after = summary["before"], summary["after"]
    table = Table(
        title=f"{summary['task']} pruned by {summary['agent']} ({summary['evaluations']} evaluations, {summary['protocol']})"
    )
    for heading in ("", "before", "after", "change"):
        table.add_column(heading, justify="left" if not heading else "right")
    for name, key in (("validation accuracy", "val_accuracy"), ("test accuracy", "test_accuracy")):
        table.add_row(name, f"{before[key]:.2%}", f"{after[key]:.2%}", f"{100 * (after[key] - before[key]):+.2f} points")
    table.add_row("MACs", f"{before['macs']:,}", f"{after['macs']:,}", f"{-after['flops_reduction']:+.1%}")
    table.add_row("parameters", f"{before['params']:,}", f"{after['params']:,}", f"{-after['params_reduction']:+.1%}")
    old, new = (sum(widths[i] for widths in summary["widths"].values()) for i in (0, 1))
    table.add_row("channels (units)", f"{old:,}", f"{new:,}", f"{new / old - 1:+.1%}")
    table.add_row("channel sparsity", "0.0%", f"{after['channel_sparsity']:.1%}", "")
    console = Console()
    console.print(table)
    console.print(f"Run folder: {result.folder}", highlight=False, soft_wrap=True)


if __name__ == "__main__":
    run_command(main, RunConfig, __doc__, defaults=defaults)
