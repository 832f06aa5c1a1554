"""The experiments of the RL-Pruner paper: a CSV with the paper's numbers beside ours, and a picture.

``--scale paper`` is the real thing and wants a GPU; ``--scale small`` runs the same code in minutes, on a network of your own.
Rows that the CSV holds are kept, so an interrupted experiment goes on where it stopped.
"""

from __future__ import annotations

import time

from rich.console import Console
from rich.table import Table

from prune_gym.benchmark.command import run_command
from prune_gym.benchmark.paper.reproduction import ReproductionConfig, describe, reproduce
from prune_gym.benchmark.rows import Rows

HEADINGS = {  # of the printed table, by column of the CSV
    "reward": "reward",
    "method": "method",
    "epsilon": "epsilon",
    "decay": "decay",
    "sparsity": "sparsity",
    "base_top1": "original",
    "top1_before_posttraining": "before",
    "top1": "top-1",
    "flops_reduction_pct": "FLOPs -%",
    "params_reduction_pct": "params -%",
    "pruned_top1": "pruned",
    "scratch_top1": "from scratch",
    "gain": "gain",
    "paper_top1": "paper",
    "paper_gain": "paper",
}

CAUTION = (
    "As in the paper, networks are scored as they were cut; with so little training their rewards are read near chance, so this "
    "shows that the code runs and ranks no method. For that, see python -m prune_gym.benchmark.matched."
)


def report(console: Console, rows: Rows) -> None:
    """Print the numbers of a table. Those of a figure are in its picture."""
    if "group" in rows.columns:
        return
    shown = [name for name in HEADINGS if name in rows.columns]
    table = Table()
    for name in shown:
        table.add_column(HEADINGS[name], justify="right")
    for row in rows.rows:
        table.add_row(*(row[name] for name in shown))
    console.print(table)


def main(config: ReproductionConfig) -> None:
    """Run the experiment, and print what it is, what it found, and how long it took."""
    console = Console()
    start = time.perf_counter()
    sentence = f"{describe(config.experiment)} Scale {config.scale}, {config.protocol_name}.\n{config.work.describe()}"
    if config.scale == "small":
        sentence += f"\n{CAUTION}"
    console.print(sentence, highlight=False, soft_wrap=True)
    rows, picture = reproduce(config)
    report(console, rows)
    minutes, busy = (time.perf_counter() - start) / 60, time.process_time() / 60
    console.print(
        f"{minutes:.1f} minutes, {busy:.1f} of processor time; written to {rows.path} and {picture.name}",
        highlight=False,
        soft_wrap=True,
    )


if __name__ == "__main__":
    run_command(main, ReproductionConfig, __doc__, "the same command goes on")
