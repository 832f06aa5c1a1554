"""A report of what scripts/benchmark.py played: one page with tables and figures, and these as files of their own.

The store's plays are first added to two small files beside the report; without a store, the report is made of these.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from prune_gym.benchmark.command import run_command
from prune_gym.benchmark.report.report import TABLE, write_report
from prune_gym.benchmark.results import add_results, read_results
from prune_gym.benchmark.store import Store

RESULTS = Path("results/benchmark")


@dataclass(frozen=True)
class ReportConfig:
    """Where results are, and where the report goes."""

    store: Path | None = None
    """A store of scripts/benchmark.py, whose plays are added to the results in --out; by default these alone."""
    out: Path | None = None
    """Folder of the results and of the report; by default report/ in the store, and without one results/benchmark."""


def main(config: ReportConfig) -> None:
    """Write the report, and print its tables."""
    if config.store is None:
        folder = (config.out or RESULTS).expanduser()
        played = read_results(folder)
    else:
        folder = (config.out or config.store / "report").expanduser()
        played = add_results(folder, Store(config.store, new=False))
    written = write_report(folder, played)
    print((folder / TABLE).read_text())
    print(f"{written[0]}, and {len(written) - 1} files beside it")


if __name__ == "__main__":
    run_command(main, ReportConfig, __doc__)
