"""The numbers that the RL-Pruner paper prints; ``README.md`` describes the files."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

FOLDER = Path(__file__).parent


def published(table: str, **key: object) -> list[dict[str, str]]:
    """The rows of one of the paper's tables, such as ``"table1"``, that have these values; numbers are compared as numbers."""
    with (FOLDER / f"{table}.csv").open(newline="") as file:
        return [row for row in csv.DictReader(file) if all(_equal(row[name], value) for name, value in key.items())]


def _equal(text: str, value: object) -> bool:
    return float(text) == value if isinstance(value, float) else text == str(value)


def paper_columns(theirs: Sequence[Mapping[str, str]], names: Sequence[str]) -> dict[str, object]:
    """Those of the columns ``names`` that the first of the paper's rows has, each called ``paper_...``; none without a row."""
    return {f"paper_{name}": row[name] for row in theirs[:1] for name in names if name in row}


def paper_headings(names: Sequence[str]) -> tuple[str, ...]:
    """What :func:`paper_columns` calls the columns ``names``."""
    return tuple(f"paper_{name}" for name in names)
