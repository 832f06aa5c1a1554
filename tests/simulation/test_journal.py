"""A journal gives back what was put into it, whatever became of the process that wrote it."""

from __future__ import annotations

import json
import os
import random

import pytest
import torch

from prune_gym.simulation.journal import Journal, _digest, remove_journal, tensor_folder

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


def test_a_line_may_be_written_in_pieces(tmp_path, monkeypatch):
    """As a call writes less than it was given where a disk is nearly full."""
    write = os.write
    monkeypatch.setattr(os, "write", lambda file, line: write(file, line[:7]))
    written(tmp_path / "pieces")
    monkeypatch.undo()
    written(tmp_path / "whole")
    assert (tmp_path / "pieces").read_bytes() == (tmp_path / "whole").read_bytes()


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


@pytest.mark.parametrize("line", range(1, 4))
def test_a_flipped_bit_is_found(line, tmp_path):
    path = tmp_path / "journal"
    written(path)
    lines = path.read_bytes().splitlines(keepends=True)
    damaged = bytearray(lines[line])
    damaged[len(damaged) // 2] ^= 4
    path.write_bytes(b"".join([*lines[:line], bytes(damaged), *lines[line + 1 :]]))
    with pytest.raises(ValueError, match=rf"journal: line {line + 1} is damaged; delete it and all that follow"):
        opened(path)


@pytest.mark.parametrize("entry", ['"abc"', "{}", '{"a":1,"b":2,"c":3}', '["ranks","1"]', '["ranks",1,0.5]', "0.5", "null"])
def test_a_line_that_is_no_entry_is_found(entry, tmp_path):
    """Whatever its digest says."""
    written(tmp_path / "journal")
    with open(tmp_path / "journal", "a") as file:
        file.write(f"{_digest(entry)} {entry}\n")
    with pytest.raises(ValueError, match="journal: line 6 is damaged"):
        opened(tmp_path / "journal")


def test_the_journal_of_another_run_is_refused(tmp_path):
    written(tmp_path / "journal", {"seed": 0, "task": "digits"})
    before = (tmp_path / "journal").read_bytes()
    with pytest.raises(ValueError, match="expected the journal of this run, but it was written with another seed"):
        opened(tmp_path / "journal", {"seed": 1, "task": "digits"})
    assert (tmp_path / "journal").read_bytes() == before


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


def test_what_differs_is_named_with_both_values(tmp_path):
    written(tmp_path / "journal", {"settings": {"sparsity": 0.5, "agent": "ppo"}, "threads": 1, "version": "1", "same": [1]})
    with pytest.raises(ValueError) as error:
        opened(tmp_path / "journal", {"settings": {"sparsity": 0.3, "agent": "ppo"}, "threads": 2, "data": "x" * 99, "same": [1]})
    assert (
        'it was written with another data (null, now "' + "x" * 56 + "...), another settings.sparsity (0.5, now 0.3), "
        "another threads (1, now 2) and 1 more; make it as it was, or start another run in another folder."
    ) in str(error.value)


def test_nothing_is_forgotten(tmp_path):
    """A journal is asked for everything again, however much that is."""
    many = [("ranks", str(i), i) for i in range(2_001)]
    written(tmp_path / "journal", values=many)
    journal = opened(tmp_path / "journal")
    assert [journal.get("ranks", key) for _, key, _ in many] == list(range(2_001))


def test_a_second_process_is_refused(tmp_path):
    journal = opened(tmp_path / "journal")
    with pytest.raises(ValueError, match="journal: another process is writing it"):
        opened(tmp_path / "journal")
    journal.close()
    opened(tmp_path / "journal").close()


@pytest.mark.parametrize("whole", [True, False])
def test_a_journal_that_was_cut_or_changed_anywhere_is_never_misread(whole, tmp_path):
    """Cut, it gives back a beginning of what was put into it; with a bit flipped, it is refused."""
    path, rng = tmp_path / "journal", random.Random(0)
    written(path)
    content = path.read_bytes()
    for _ in range(300):
        place = rng.randrange(len(content))
        changed = bytearray(content)
        changed[place] ^= 1 << rng.randrange(8)
        path.write_bytes(bytes(changed) if whole else content[:place])
        try:
            journal = opened(path)
        except ValueError:
            assert whole
            assert path.read_bytes() == changed
            continue
        found = [journal.get(kind, key) for kind, key, _ in VALUES]
        journal.close()
        n = next((i for i, value in enumerate(found) if value is None), len(found))
        assert found == [value for *_, value in VALUES[:n]] + [None] * (len(VALUES) - n)
        if whole:  # only the newline at the end may go unnoticed: the last line is then an unfinished one
            assert place == len(content) - 1
        else:
            assert n == max(content[:place].count(b"\n") - 1, 0)


# ------------------------------------------------------------------------------------------- what is not the journal's


FOREIGN = [b"a letter", b"a letter\nof two lines, unfinished", b"0123456789abcdef [1]\n", b"\n", b"\xff\n\x00"]


@pytest.mark.parametrize("content", FOREIGN)
def test_a_file_that_is_no_journal_is_left_alone(content, tmp_path):
    path = tmp_path / "journal.txt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"journal\.txt: expected the journal of a run, but .* move it away"):
        opened(path)
    remove_journal(path)
    assert path.read_bytes() == content
    assert list(tmp_path.iterdir()) == [path]


def test_a_line_with_a_digest_is_not_yet_an_identity(tmp_path):
    path = tmp_path / "journal.txt"
    written(path)
    content = path.read_bytes().split(b"\n", 1)[1]  # entries without the first
    path.write_bytes(content)
    with pytest.raises(ValueError, match="expected the journal of a run"):
        opened(path)
    remove_journal(path)
    assert path.read_bytes() == content


def test_links_are_never_followed(tmp_path):
    target, folder = tmp_path / "precious", tmp_path / "elsewhere"
    written(target)  # even where it leads to a journal
    target.write_bytes(target.read_bytes() + b"torn")
    content = target.read_bytes()
    (tmp_path / "run").mkdir()
    path = tmp_path / "run" / "journal.txt"
    path.symlink_to(target)
    with pytest.raises(ValueError, match=r"journal\.txt: expected a file of this run, got a symbolic link to .*precious"):
        opened(path)
    remove_journal(path)
    assert path.is_symlink()
    path.unlink()
    (tmp_path / "run" / "journal.txt.lock").symlink_to(target)
    with pytest.raises(ValueError, match=r"journal\.txt\.lock: expected a file of this run, got a symbolic link"):
        opened(path)
    (tmp_path / "run" / "journal.txt.lock").unlink()
    folder.mkdir()
    tensor_folder(path).symlink_to(folder)
    journal = opened(path)
    for act in (lambda: journal.save_tensors("x", {}), lambda: journal.load_tensors("x"), lambda: journal.forget_tensors("x")):
        with pytest.raises(ValueError, match="_tensors: expected a file of this run, got a symbolic link"):
            act()
    journal.remove()
    assert folder.is_dir()
    assert target.read_bytes() == content
    assert not path.exists()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes as on POSIX")
def test_pipes_and_folders_are_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name in ("pipe", "folder"):
        with pytest.raises(ValueError, match=f"{name}: expected the journal of a run"):
            opened(tmp_path / name)
        remove_journal(tmp_path / name)
        assert (tmp_path / name).exists()


def test_a_lock_that_is_none_is_left_alone(tmp_path):
    (tmp_path / "journal.lock").write_text("mine")
    with pytest.raises(ValueError, match=r"journal\.lock: expected the lock of a journal, which is an empty file; move it away"):
        opened(tmp_path / "journal")
    assert (tmp_path / "journal.lock").read_text() == "mine"


# -------------------------------------------------------------------------------------------------------- tensors


def test_tensors_come_back_until_they_are_forgotten(tmp_path):
    journal = Journal()
    journal.save_tensors("early", {"w": torch.ones(2)})
    assert journal.load_tensors("early") is None  # it is not open
    journal.open(tmp_path / "journal.txt", {"seed": 0})
    assert journal.load_tensors("a") is None
    journal.save_tensors("a", {"w": torch.arange(3.0), "n": torch.tensor(7)})
    journal.save_tensors("b", {"w": torch.zeros(1)})
    journal.close()
    journal = opened(tmp_path / "journal.txt")
    found = journal.load_tensors("a")
    assert found is not None
    assert found.keys() == {"w", "n"}
    assert torch.equal(found["w"], torch.arange(3.0))
    assert found["n"] == 7
    journal.forget_tensors("a")
    assert journal.load_tensors("a") is None
    assert journal.load_tensors("b") is not None
    journal.forget_tensors("a")  # once more does no harm


@pytest.mark.parametrize("change", [lambda c: c[:-1], lambda c: c[:-1] + bytes([c[-1] ^ 1]), lambda c: b"", lambda c: b"PK" * 50])
def test_damaged_tensors_are_named(change, tmp_path):
    journal = opened(tmp_path / "journal.txt")
    journal.save_tensors("a", {"w": torch.arange(3.0)})
    file = tensor_folder(tmp_path / "journal.txt") / "a.safetensors"
    file.write_bytes(change(file.read_bytes()))
    with pytest.raises(ValueError, match=r"a\.safetensors: damaged .*; delete it, and the network is trained again"):
        journal.load_tensors("a")


def test_removing_leaves_what_others_put_there(tmp_path):
    path = tmp_path / "journal.txt"
    journal = opened(path)
    journal.put("accuracy", "a", 0.5)
    journal.save_tensors("a", {"w": torch.ones(1)})
    mine = [tensor_folder(path) / "notes.txt", tensor_folder(path) / "mine.safetensors", tmp_path / "weights" / "w.safetensors"]
    mine[2].parent.mkdir()
    for file in mine:
        file.write_bytes(b"mine")
    journal.remove()
    assert not path.exists()
    assert not (tmp_path / "journal.txt.lock").exists()
    assert {file for file in tmp_path.rglob("*") if file.is_file()} == set(mine)
    for file in mine[:2]:
        file.unlink()
    remove_journal(path)  # nothing is left that says that the empty folder was a journal's
    assert tensor_folder(path).is_dir()


def test_removing_leaves_nothing_of_its_own(tmp_path):
    journal = opened(tmp_path / "journal.txt")
    journal.save_tensors("a", {"w": torch.ones(1)})
    journal.remove()
    assert list(tmp_path.iterdir()) == []
