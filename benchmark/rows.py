"""A CSV of results that grows row by row and keeps the rows it holds, so that interrupted work goes on where it stopped."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

from prune_gym.files import csv_text, write_atomically


class Rows:
    """Results as rows of text, in a file that is whole at any time.

    Args:
        path: the CSV. If it exists, its rows are read at once.
        columns: the columns of the file.
        key: the columns that tell the results from each other. Rows are sorted by them, numbers as numbers and before text;
            rows with the same key keep the order in which they were added.
        filled: whether the file must hold rows, as nothing will be computed.

    Raises ValueError for a file that is no CSV with these columns, and for one without rows if it must hold some.
    """

    def __init__(self, path: Path, columns: tuple[str, ...], key: tuple[str, ...], filled: bool = False):
        self.path, self.columns, self.key = path, columns, key
        self.rows: list[dict[str, str]] = []
        if path.exists():
            self.rows = self._read()
        self._keys = {self._key_of(row) for row in self.rows}
        if filled and not self.rows:
            raise ValueError(f"out: {path} holds no results yet; run the same command without --table-only.")

    def _read(self) -> list[dict[str, str]]:
        try:
            with self.path.open(newline="") as file:
                header, *lines = csv.reader(file)
        except (csv.Error, ValueError) as error:  # no text, or no line
            raise ValueError(f"out: expected a CSV of this command, but {self.path} is none ({error}).") from error
        if tuple(header) != self.columns:
            raise ValueError(
                f"out: {self.path} is not a file of this command: expected the columns {', '.join(self.columns)}; "
                f"it has {', '.join(header)}."
            )
        for number, line in enumerate(lines, 2):
            if len(line) != len(header):
                raise ValueError(
                    f"out: row {number} of {self.path} is damaged: expected {len(header)} columns, it has {len(line)}; delete it."
                )
        return [dict(zip(self.columns, line, strict=True)) for line in lines]

    def _key_of(self, row: Mapping[str, str]) -> tuple[str, ...]:
        return tuple(row[name] for name in self.key)

    def __contains__(self, values: tuple[object, ...]) -> bool:
        """Whether there is a row with these values of the key's columns."""
        return tuple(map(str, values)) in self._keys

    def check_settings(self, task: str, settings: str) -> None:
        """Raises ValueError if the rows of a task were made with other settings, as their column ``settings`` says."""
        others = {row["settings"] for row in self.rows if row["task"] == task} - {settings}
        if others:
            raise ValueError(
                f"out: {self.path} holds results of {task} with other settings or another network ({min(others) or 'unknown'} in "
                f"place of {settings}); choose another --out, or delete these rows."
            )

    def add(self, *rows: Mapping[str, object]) -> None:
        """Add rows and write the file; columns that a row lacks stay empty."""
        new = [{name: str(row.get(name, "")) for name in self.columns} for row in rows]
        self.rows += new
        self._keys |= set(map(self._key_of, new))
        self.rows.sort(key=lambda row: [_order(row[name]) for name in self.key])
        write_atomically(self.path, csv_text(self.columns, self.rows))


def _order(text: str) -> tuple[float, str]:
    try:
        return float(text), ""
    except ValueError:
        return float("inf"), text
