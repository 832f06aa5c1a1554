"""Measure what tracing, scoring and stepping cost, and write the numbers as JSON.

Every speed is also given as a ratio to the bare forward passes that the same work needs: the compact networks, built
beforehand, at the best batch size, in inference mode. Ratios are taken within one run and medians over repetitions, since
machines are noisy. On a GPU scoring is also compared to its arithmetic limit, and a whole search is timed.
"""

from __future__ import annotations

import json
from typing import Any

from rich.console import Console
from rich.table import Table

from prune_gym.benchmark.command import run_command
from prune_gym.benchmark.speed.suite import SpeedConfig, measure
from prune_gym.files import check_writable, write_atomically
from prune_gym.scoring.candidates import FIDELITY


def main(config: SpeedConfig) -> None:
    """Measure, write the numbers, and print them."""
    check_writable(config.file)
    result = measure(config)
    write_atomically(config.file, json.dumps(result, indent=2) + "\n")
    report(result)
    print(f"written to {config.file}")


def report(result: dict[str, Any]) -> None:
    """Print what was measured."""
    console = Console()
    table = Table(title="tracing, one core")
    for heading in ("network", "ms"):
        table.add_column(heading, justify="right" if heading == "ms" else "left")
    for name, value in result["trace_seconds"].items():
        table.add_row(name, f"{1e3 * value:.0f}")
    console.print(table)
    table = Table(title=f"scoring 10 candidates on {result['machine']['device']}, {result['machine']['threads']} threads")
    headings = ("network", "fidelity", "evaluations/s", "time over bare passes", "step, ms", "step in the network's passes")
    for heading in headings:
        table.add_column(heading, justify="left" if heading in ("network", "fidelity") else "right")
    for name, by_fidelity in result["scoring"].items():
        for fidelity, row in by_fidelity.items():
            step = result["step"].get(name) if fidelity == FIDELITY else None
            extra = (f"{step['milliseconds']:.1f}", f"{step['share_of_passes']:.0%}") if step else ("", "")
            table.add_row(name, fidelity, f"{row['evaluations_per_second']:.1f}", f"{row['ratio_to_bare_passes']:.2f}", *extra)
    console.print(table)
    table = Table(title="steps per second of environments")
    for heading in ("environment", "one", "copies", "together", "times one"):
        table.add_column(heading, justify="left" if heading == "environment" else "right")
    for name, row in result["environments"].items():
        together = f"{row['steps_per_second_together']:,.0f}"
        table.add_row(name, f"{row['steps_per_second']:,.0f}", str(row["copies"]), together, f"{row['times_those_of_one']:.2f}")
    console.print(table)
    for name, rows in result.get("arithmetic", {}).items():
        table = Table(title=f"{name}: masked scoring against a matrix product")
        for heading in ("arithmetic", "teraflops", "ms per candidate", "times the limit", "changed predictions"):
            table.add_column(heading, justify="left" if heading == "arithmetic" else "right")
        for arithmetic, row in rows.items():
            numbers = (f"{row['matrix_product_teraflops']:.0f}", f"{row['milliseconds_per_candidate']:.1f}")
            table.add_row(arithmetic, *numbers, f"{row['times_arithmetic_limit']:.2f}", f"{row['changed_predictions']:.2%}")
        console.print(table)
    for name, row in result.get("search", {}).items():
        console.print(f"search of {name}: {row['evaluations']} evaluations in {row['seconds']:.0f} s")
    for what, curve in result.get("memory", {}).items():
        first, last = curve[0], curve[-1]
        grown = [f"{key.partition('_')[0]} {first[key]:.0f} to {last[key]:.0f} MB" for key in first if key != "step"]
        console.print(f"memory over {what} {first['step']} to {last['step']}: {', '.join(grown)}")


if __name__ == "__main__":
    run_command(main, SpeedConfig, __doc__)
