"""A journal gives back what was put into it, whatever became of the process that wrote it."""

from __future__ import annotations

import json
import os

import pytest

from prune_gym.simulation.result_cache import MAX_ENTRIES, Journal, ResultCache

VALUES = [("accuracy", "a:1", 0.1 + 0.2), ("accuracy", "a:2", 1 / 3), ("ranks", "1", "AAAA"), ("posttraining", "x", {"val": 0.5})]


def written(path, identity=None, values=VALUES):
    journal = Journal()
    journal.open(path, identity or {"seed": 0})
    for value in values:
        journal.put(*value)
    journal.close()


def opened(path, identity=None):
    journal = Journal()
    journal.open(path, identity or {"seed": 0})
    return journal


def test_the_oldest_of_a_kind_is_forgotten(monkeypatch):
    monkeypatch.setitem(MAX_ENTRIES, "ranks", 2)
    cache = ResultCache()
    cache.put("accuracy", "1", 1.0)
    for key in ("1", "2", "3"):
        cache.put("ranks", key, key)
    assert [cache.get("ranks", key) for key in ("1", "2", "3")] == [None, "2", "3"]
    assert cache.get("accuracy", "1") == 1.0


def test_values_come_back_exactly(tmp_path):
    written(tmp_path / "journal")
    journal = opened(tmp_path / "journal")
    assert [journal.get(kind, key) for kind, key, _ in VALUES] == [value for *_, value in VALUES]
    assert journal.get("accuracy", "a:3") is None


def test_what_was_put_before_opening_is_written_too(tmp_path):
    journal = Journal()
    journal.put("accuracy", "early", 0.25)
    journal.open(tmp_path / "journal", {"seed": 0})
    journal.close()
    assert opened(tmp_path / "journal").get("accuracy", "early") == 0.25


@pytest.mark.parametrize("lost", range(1, 60, 7))
def test_a_torn_last_line_is_dropped_and_writing_goes_on(lost, tmp_path):
    path = tmp_path / "journal"
    written(path)
    content = path.read_bytes()
    last = content.splitlines(keepends=True)[-1]
    path.write_bytes(content[: -min(lost, len(last) - 1)])
    journal = opened(path)
    assert journal.get("ranks", "1") == "AAAA"
    assert journal.get("posttraining", "x") is None
    journal.put("posttraining", "x", {"val": 0.5})
    journal.close()
    assert path.read_bytes() == content


@pytest.mark.parametrize("line", range(4))
def test_a_flipped_bit_is_found(line, tmp_path):
    path = tmp_path / "journal"
    written(path)
    lines = path.read_bytes().splitlines(keepends=True)
    damaged = bytearray(lines[line])
    damaged[len(damaged) // 2] ^= 4
    path.write_bytes(b"".join([*lines[:line], bytes(damaged), *lines[line + 1 :]]))
    with pytest.raises(ValueError, match=rf"journal: line {line + 1} is damaged; delete it and all that follow"):
        opened(path)


def test_the_journal_of_another_run_is_refused(tmp_path):
    written(tmp_path / "journal", {"seed": 0, "task": "digits"})
    with pytest.raises(ValueError, match="expected the journal of this run, but it was written with another seed"):
        opened(tmp_path / "journal", {"seed": 1, "task": "digits"})


def test_a_full_disk_is_named_and_leaves_whole_lines(tmp_path, monkeypatch):
    path = tmp_path / "journal"
    written(path)
    whole = path.read_bytes()
    journal, write = opened(path), os.write

    def full(file, content):
        if len(content) > 5:
            return write(file, content[:5])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match=f"No space left on device: '{path}'"):
        journal.put("accuracy", "b", 0.5)
    assert journal.get("accuracy", "b") is None
    assert path.read_bytes() == whole


def test_lines_are_json_behind_a_digest(tmp_path):
    written(tmp_path / "journal")
    lines = (tmp_path / "journal").read_text().splitlines()
    assert [json.loads(line[17:]) for line in lines][1:] == [list(value) for value in VALUES]
