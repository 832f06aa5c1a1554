"""Files are whole or not there."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from prune_gym.files import check_writable, write_atomically


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
    with pytest.raises(OSError, match="there"):
        write_atomically(tmp_path / "there", "x")
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
