"""The tables that come with the package: the accuracies of every architecture on a grid, for two base networks of each task.

They are made by ``python -m prune_gym.benchmark.tabulate``.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from prune_gym.arguments import check_choice, check_integer
from prune_gym.simulation.table import Table

DIGESTS = {
    "digits": ("aa05a4e2ce75432c0c464541d94d7438", "6c8264c26e538f08d387819717ccf98a"),
}


def load(task: str, base: int = 0) -> Table:
    """The table of a task, of the network that ``tasks.load(task, seed=base)`` gives; read once in a process.

    Raises ValueError for an unknown task or base, and for a file that is damaged.
    """
    check_choice("task", task, DIGESTS)
    check_integer("base", base, 0, len(DIGESTS[task]))
    return _load(task, int(base))


@lru_cache
def _load(task: str, base: int) -> Table:
    return Table.load(Path(__file__).with_name(f"{task}-{base}.npz"), DIGESTS[task][base])
