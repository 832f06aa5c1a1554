"""Files are whole or not there."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import stat
import time
import tracemalloc
import zipfile
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest

from prune_gym.files import (
    MAX_JSON,
    STALE_AFTER,
    TEMPORARY,
    check_writable,
    read_json,
    read_zipped_json,
    to_json,
    write_atomically,
)


def test_bytes_and_text(tmp_path: Path) -> None:
    write_atomically(tmp_path / "bytes", b"\x00\xff\r\n")
    write_atomically(tmp_path / "text", "naïve\n")
    write_atomically(str(tmp_path / "by name"), "")  # type: ignore[arg-type]
    assert (tmp_path / "bytes").read_bytes() == b"\x00\xff\r\n"
    assert (tmp_path / "text").read_bytes() == "naïve\n".encode()
    assert (tmp_path / "by name").read_bytes() == b""
    assert sorted(path.name for path in tmp_path.iterdir()) == ["by name", "bytes", "text"]


def test_folders_are_made_and_files_replaced(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "file.txt"
    write_atomically(path, "first, and longer")
    write_atomically(path, "second")
    assert path.read_text() == "second"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.skipif(os.name != "posix", reason="permissions as on POSIX")
def test_permissions_are_those_of_any_new_file(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_atomically(tmp_path / "file", "x")
        assert os.umask(0o027) == 0o027  # left as it was
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640


@pytest.mark.parametrize("function", ["fsync", "replace"])
@pytest.mark.parametrize("kind", [OSError, KeyboardInterrupt])
def test_the_old_content_survives_a_failure(
    function: str, kind: type[BaseException], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")

    def fail(*_: object) -> None:
        assert path.read_text() == "old"  # until the very last moment
        raise kind(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, function, fail)
    with pytest.raises(kind) as raised:
        write_atomically(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
    if kind is OSError:
        assert str(raised.value) == f"[Errno {errno.ENOSPC}] No space left on device: '{path}'"


def test_text_that_cannot_be_encoded_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(UnicodeEncodeError):
        write_atomically(tmp_path / "file", "\ud800")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_in_the_place_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    for act in (lambda path: write_atomically(path, "x"), check_writable):
        with pytest.raises(IsADirectoryError) as error:
            act(tmp_path / "there")
        assert error.value.filename == str(tmp_path / "there")
        assert error.value.filename2 is None
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


def test_a_file_in_the_place_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "there").write_text("x")
    with pytest.raises(OSError, match="there"):
        write_atomically(tmp_path / "there" / "file", "x")


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o500)
    if os.access(folder, os.W_OK):
        pytest.skip("this user may write anywhere")
    with pytest.raises(OSError, match="locked"):
        write_atomically(folder / "file", "x")
    assert list(folder.iterdir()) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="this user may write anywhere")
def test_a_folder_that_cannot_be_written_is_found_out_before_the_work(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(PermissionError, match=str(tmp_path)):
        check_writable(tmp_path / "file")
    with pytest.raises(PermissionError, match=str(tmp_path)):
        check_writable(tmp_path / "folder" / "file")


def test_asking_whether_a_file_can_be_written_leaves_nothing(tmp_path: Path) -> None:
    check_writable(tmp_path / "new" / "file")
    assert list((tmp_path / "new").iterdir()) == []
    (tmp_path / "taken").touch()
    with pytest.raises(OSError, match="taken"):
        check_writable(tmp_path / "taken" / "file")


def test_a_file_that_has_no_room_is_found_out_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=1000) if folder == tmp_path else None)
    check_writable(tmp_path / "file")
    check_writable(tmp_path / "file", 1000)
    with pytest.raises(OSError, match=r"No space left on device \(1001 bytes are needed, 1000 are free\)") as error:
        check_writable(tmp_path / "file", bytes_needed=1001)
    assert error.value.errno == errno.ENOSPC
    assert error.value.filename == str(tmp_path / "file")
    assert list(tmp_path.iterdir()) == []


def test_what_killed_writers_left_is_removed_after_an_hour(tmp_path: Path) -> None:
    old = time.time() - STALE_AFTER - 60
    stale = [tmp_path / f".{name}.abcd1234{TEMPORARY}" for name in ("file", "another")]
    fresh, folder, link = (tmp_path / f".file.{name}{TEMPORARY}" for name in ("fresh123", "folder12", "link1234"))
    others = [tmp_path / name for name in (".file.abcd1234.tmp", f"file.abcd1234{TEMPORARY}", "notes")]
    folder.mkdir()
    for file in (*stale, fresh, *others):
        file.write_text("half")
    link.symlink_to(others[-1])
    for file in (*stale, *others, folder):
        os.utime(file, (old, old))
    os.utime(link, (old, old), follow_symlinks=False)
    os.utime(fresh, (old + 120, old + 120))
    write_atomically(tmp_path / "file", "whole")
    assert {file.name for file in tmp_path.iterdir()} == {f.name for f in (fresh, *others, folder, link)} | {"file"}


# -------------------------------------------------------------------------------------------------------------- JSON

BAD_JSON = {
    "nothing": b"",
    "half": b'{"a": ',
    "a list": b"[1]",
    "a number": b"7",
    "not a number": b'{"a": NaN}',
    "infinity": b'{"a": -Infinity}',
    "many digits": b'{"a": ' + b"1" * 5000 + b"}",
    "lists in lists": b'{"a": ' + b"[" * 100_000,
    "objects in objects": b'{"a":' * 100_000,
    "no text": b'{"a": "\xff"}',
    "too long": b" " * MAX_JSON + b"{}",
}


@pytest.mark.parametrize("case", BAD_JSON)
def test_damaged_json(case: str, tmp_path: Path) -> None:
    path = tmp_path / "summary.json"
    path.write_bytes(BAD_JSON[case])
    with pytest.raises(ValueError, match=r"summary\.json: expected the summary of a run, but it is damaged \("):
        read_json(path, "the summary of a run")
    with zipfile.ZipFile(tmp_path / "agent.zip", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("data.json", BAD_JSON[case])
    with pytest.raises(ValueError, match=r"agent\.zip: expected a zip that holds data\.json, but it is damaged \("):
        read_zipped_json(tmp_path / "agent.zip", "data.json")


def test_json_comes_back(tmp_path: Path) -> None:
    content = {"a": [1, 2.5, None, True, "ü"], "b": {"c": 2**60}}
    text = json.dumps(content).encode()
    (tmp_path / "file.json").write_bytes(text + b" " * (MAX_JSON - len(text)))  # exactly as long as may be
    assert read_json(str(tmp_path / "file.json"), "x") == content
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        with zipfile.ZipFile(tmp_path / "file.zip", "w", method) as file:
            file.writestr("data.json", text)
        assert read_zipped_json(tmp_path / "file.zip", "data.json") == content


def test_files_of_json_that_are_not_there(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(FileNotFoundError, match=f"{path}: expected the summary of a run, but there is no such file"):
            read_json(path, "the summary of a run")
        with pytest.raises(FileNotFoundError, match=f"{path}: expected a zip that holds x, but there is no such file"):
            read_zipped_json(path, "x")
    for act in (lambda path: read_json(path, "x"), lambda path: read_zipped_json(path, "x")):
        with pytest.raises(TypeError, match="path: expected a path, got NoneType"):
            act(None)


def zipped(path: Path, content: bytes = b'{"a": 1}' * 50, method: int = zipfile.ZIP_DEFLATED) -> bytearray:
    with zipfile.ZipFile(path, "w", method) as file:
        file.writestr("data.json", content)
    return bytearray(path.read_bytes())


def test_damaged_zips(tmp_path: Path) -> None:
    path = tmp_path / "agent.zip"
    for method in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):  # which unpack more at once than is asked for
        zipped(path, b'{"a": 1}', method)
        with pytest.raises(ValueError, match=rf"agent\.zip: .* \(it is compressed by method {method}\)"):
            read_zipped_json(path, "data.json")
    content = zipped(path)
    with pytest.raises(ValueError, match=r"agent\.zip: expected a zip that holds other, but it does not\."):
        read_zipped_json(path, "other")
    central = content.rindex(b"PK\x01\x02")
    damages = {
        "no zip": b"a letter",
        "encrypted": content[:6] + b"\x01" + content[7 : central + 8] + b"\x01" + content[central + 9 :],
        "an unknown method": content[:8] + b"\x63" + content[9 : central + 10] + b"\x63" + content[central + 11 :],
        "bad data": content[:40] + b"\xff" * 6 + content[46:],
        "a bad offset": content[: central + 42] + b"\xff\xff\xff\x7f" + content[central + 46 :],
    }
    for name, damaged in damages.items():
        path.write_bytes(bytes(damaged))
        with pytest.raises(ValueError, match=r"agent\.zip: expected a zip that holds data\.json, but it is damaged \("):
            pytest.fail(f"{name}: {read_zipped_json(path, 'data.json')}")


def test_flipped_and_cut_zips_raise_nothing_else(tmp_path: Path) -> None:
    path, rng = tmp_path / "agent.zip", random.Random(0)
    content = zipped(path, json.dumps({"a": list(range(99))}).encode())
    for i in range(400):
        damaged = bytearray(content)
        damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        path.write_bytes(damaged[: rng.randrange(len(damaged))] if i % 4 == 0 else damaged)
        with suppress(ValueError):
            assert read_zipped_json(path, "data.json") == {"a": list(range(99))}


def test_a_zip_bomb_is_not_unpacked(tmp_path: Path) -> None:
    """Whatever size its header states."""
    path = tmp_path / "agent.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file, file.open("data.json", "w", force_zip64=True) as member:
        for _ in range(12):
            member.write(bytes(10_000_000))
    tracemalloc.start()
    with pytest.raises(ValueError, match="it is longer than"):
        read_zipped_json(path, "data.json")
    assert tracemalloc.get_traced_memory()[1] < 8 * MAX_JSON
    tracemalloc.stop()


@pytest.mark.parametrize("value", [{"a": object()}, {"a": {1}}, {(1, 2): 3}])
def test_what_json_cannot_hold(value: object) -> None:
    with pytest.raises(TypeError, match="info: expected what JSON can hold, but "):
        to_json("info", value)


def test_numbers_that_are_not_finite_are_no_json() -> None:
    for number in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="info: expected what JSON can hold, but "):
            to_json("info", {"a": [number]})
    assert to_json("info", {"a": 1e300}) == '{"a": 1e+300}'
