"""A CSV of results that grows row by row and keeps what it holds, so that what was interrupted goes on where it stopped."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

from prune_gym.files import csv_text, write_atomically


class Rows:
    """Results as rows of text, in a file that is whole at any time.

    Args:
        path: the CSV; what it holds is read at once.
        columns: of the file.
        key: the columns that say what a row is about; rows are sorted by them, numbers as numbers.

    Raises ValueError for a file with other columns.
    """

    def __init__(self, path: Path, columns: tuple[str, ...], key: tuple[str, ...]):
        self.path, self.columns, self.key = path, columns, key
        self.rows: list[dict[str, str]] = []
        if path.exists():
            with path.open(newline="") as file:
                reader = csv.DictReader(file)
                if tuple(reader.fieldnames or ()) != columns:
                    raise ValueError(f"out: {path} is not a file of this script: its columns are {reader.fieldnames}.")
                self.rows = list(reader)

    def __contains__(self, values: tuple[object, ...]) -> bool:
        """Whether there is a row with these values of the key's columns."""
        return tuple(map(str, values)) in {tuple(row[name] for name in self.key) for row in self.rows}

    def add(self, *rows: Mapping[str, object]) -> None:
        """Add rows and write the file; columns that a row lacks stay empty."""
        self.rows += [{name: str(row.get(name, "")) for name in self.columns} for row in rows]
        self.rows.sort(key=lambda row: [_order(row[name]) for name in self.key])
        write_atomically(self.path, csv_text(self.columns, self.rows))


def _order(text: str) -> tuple[float, str]:
    try:
        return float(text), ""
    except ValueError:
        return float("inf"), text
