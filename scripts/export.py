"""Write the pruned network of a run in a format to ship, and say what it is worth: ``python scripts/export.py --help``."""

from __future__ import annotations

from functools import reduce
from operator import getitem
from typing import Any

from rich.console import Console
from rich.table import Table

from prune_gym.agents.export_run import BATCH_SIZES, ExportConfig, export_run
from prune_gym.benchmark.command import run_command


def main(config: ExportConfig) -> None:
    show(export_run(config))
    Console().print(f"Written: {config.file} and {config.report.name}", highlight=False, soft_wrap=True)


def show(report: dict[str, Any]) -> None:
    """Print a report."""
    networks = report["networks"]
    original, shipped = networks["original"], networks[report["network"]]
    table = Table(title=f"{report['task']} pruned by {report['agent']}, as {report['format']} ({report['protocol']})")
    for heading in ("", *networks, "change"):
        table.add_column(heading, justify="left" if not heading else "right")
    for label, key in (("validation accuracy", "val_accuracy"), ("test accuracy", "test_accuracy")):
        change = f"{100 * (shipped[key] - original[key]):+.2f} points"
        table.add_row(label, *(f"{network[key]:.2%}" for network in networks.values()), change)
    rows: list[tuple[str, tuple[str, ...], str]] = [
        ("MACs", ("macs",), ",d"),
        ("parameters", ("params",), ",d"),
        ("file, bytes", ("file_bytes",), ",d"),
    ]
    rows += [(f"latency, ms, batch {n}", ("latency_ms", str(n)), ".3f") for n in BATCH_SIZES]
    rows += [(f"peak bytes, batch {n}", ("peak_memory_bytes", str(n)), ",d") for n in BATCH_SIZES]
    for label, keys, form in rows:
        numbers: list[Any] = [reduce(getitem, keys, network) for network in networks.values()]
        table.add_row(label, *(f"{number:{form}}" for number in numbers), f"{numbers[-1] / numbers[0] - 1:+.1%}")
    agreement = report["agreement"]
    console = Console()
    console.print(table)
    console.print(f"Latency and peak memory: PyTorch {report['torch']}, {report['device']}", highlight=False, soft_wrap=True)
    console.print(
        f"What was exported, against PyTorch on {agreement['test_images']} test images: logits differ by at most "
        f"{agreement['max_difference']:.2g}, {agreement['changed_predictions']} predictions change",
        highlight=False,
        soft_wrap=True,
    )


if __name__ == "__main__":
    run_command(main, ExportConfig, __doc__)
