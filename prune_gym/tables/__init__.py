"""The tables that come with the package: the accuracies of every architecture on a grid, for two base networks of each task.

They are made by ``python -m prune_gym.benchmark.tabulate``.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from prune_gym.arguments import check_choice, check_integer
from prune_gym.simulation.table import Table

DIGESTS = {
    "digits": ("cf9e1fad46a118cab8ccad8492d10f7d", "acda2e646134decef0d5c4e7533eef7b"),
    "digits-resnet": ("163a8a811228fe97f0e00c2129431025", "1c7530d3469fa19e1d4ce85b62839548"),
    "digits-mobilenet": ("4fbd0f08252f6c7ca65a93d71b01cd4d", "87a6d7782a968cef3e7099faab298981"),
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
