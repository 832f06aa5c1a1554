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
    "digits-resnet": ("c1de6f22abb2d1f1e1987bc78c0dbbc0", "08039bd48c3e7ac1159e0fc06c644307"),
    "digits-mobilenet": ("4ded9b74d61b684c7d9b2d5fe4b7820a", "4022e60d827977d7977fe0cfde70d31b"),
}


def find(table: str | Table, base: int = 0) -> Table:
    """A table as it is, or by name as :func:`load` does. Raises TypeError for anything else, and ValueError for a ``base`` beside
    a table, which is that of one base network."""
    if isinstance(table, str):
        return load(table, base)
    if not isinstance(table, Table):
        raise TypeError(f"table: expected a Table or the name of a task, got {type(table).__name__}.")
    if base != 0:
        raise ValueError(f"base: expected none beside a Table, which is of base {table.base}, got {base}.")
    return table


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
