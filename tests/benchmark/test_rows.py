"""The CSV of results: its order, what it holds, and files that it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from prune_gym.benchmark.rows import Rows

COLUMNS, KEY = ("name", "step", "value"), ("name", "step")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "results" / "a.csv"


def test_rows_are_sorted_by_the_key_numbers_as_numbers(path: Path) -> None:
    rows = Rows(path, COLUMNS, KEY)
    assert rows.rows == []
    assert not path.parent.exists()
    rows.add({"name": "b", "step": 10, "value": 1}, {"name": "b", "step": 9}, {"name": "a", "step": 11})
    assert path.read_text() == "name,step,value\na,11,\nb,9,\nb,10,1\n"
    rows.add({"name": "b", "step": "last", "value": 2}, {"name": "b", "step": 9.5, "value": 3}, {"name": "10", "step": 0})
    assert path.read_text() == "name,step,value\n10,0,\na,11,\nb,9,\nb,9.5,3\nb,10,1\nb,last,2\n"


def test_rows_of_the_same_key_keep_their_order(path: Path) -> None:
    rows = Rows(path, COLUMNS, KEY)
    rows.add({"name": "a", "step": 1, "value": 9}, {"name": "a", "step": 1, "value": 2})
    rows.add({"name": "a", "step": 1, "value": 5}, {"name": "a", "step": 0, "value": 7})
    assert [row["value"] for row in rows.rows] == ["7", "9", "2", "5"]


def test_a_file_is_continued(path: Path) -> None:
    Rows(path, COLUMNS, KEY).add({"name": "b, or c", "step": 0.5, "value": "x"})
    again = Rows(path, COLUMNS, KEY)
    assert again.rows == [{"name": "b, or c", "step": "0.5", "value": "x"}]
    assert ("b, or c", 0.5) in again
    assert ("b, or c", "0.5") in again
    assert ("b, or c", 5) not in again
    assert ("b", 0.5) not in again
    again.add({"name": "a", "step": 2})
    assert path.read_text() == 'name,step,value\na,2,\n"b, or c",0.5,x\n'


def test_keys_are_read_off_the_rows_once(path: Path) -> None:
    class Unread(list):
        def __iter__(self) -> Any:
            raise AssertionError("read again")

    Rows(path, COLUMNS, KEY).add({"name": "a", "step": 1})
    rows = Rows(path, COLUMNS, KEY)
    rows.add({"name": "b", "step": 2}, {"name": "b", "step": 3})
    rows.rows = Unread(rows.rows)
    assert all(key in rows for key in (("a", 1), ("b", 2), ("b", "3")))
    assert ("a", 2) not in rows


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"name,step\n", r"is not a file of this command: expected the columns name, step, value; it has name, step\."),
        (b"name,value,step\n", r"is not a file of this command"),
        (b"", r"expected a CSV of this command, but .*a.csv is none"),
        (b"\xff\xfe\x00\x00", r"expected a CSV of this command, but .*a.csv is none"),
        (b"name,step,value\na,1,2\nb,1\n", r"row 3 of .*a.csv is damaged: expected 3 columns, it has 2"),
        (b"name,step,value\na,1,2,3\n", r"row 2 of .*a.csv is damaged: expected 3 columns, it has 4"),
    ],
)
def test_a_file_of_something_else_is_refused_and_kept(path: Path, content: bytes, message: str) -> None:
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"^out: .*{message}"):
        Rows(path, COLUMNS, KEY)
    assert path.read_bytes() == content
