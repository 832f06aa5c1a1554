"""A cache that survives the process: everything that was computed, in a file that is only ever appended to.

A run is a deterministic function of its settings. Nearly all of its time goes into a few kinds of values: accuracies,
importance rankings, trained weights. So a run that is repeated with the journal of one that was killed passes through the
same states without computing anything, and goes on where the other stopped; whatever the agent is, and without it knowing.

A journal lies in a folder that its user also writes to. Its first line says that it is a journal, and of what. Nothing is
cut, overwritten or deleted before that line was read, and nothing is reached through a symbolic link.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from prune_gym.files import remove_stale_temporaries, write_atomically
from prune_gym.fingerprint import fingerprint
from prune_gym.simulation.result_cache import ResultCache

DIGEST = "prune_gym_journal"  # the entry of a tensor file that says that a journal wrote it
IDENTITY = "identity"  # the kind of the first entry
MAX_LISTED = 3  # as many differences are named in an error; the others are counted
NO_LINKS = getattr(os, "O_NOFOLLOW", 0)  # Windows has no such flag


class Journal(ResultCache):
    """A cache that, once it is opened, also appends every value to a file, one line each, with a digest of the line.

    A line is written by one call of the operating system, so a killed process loses at most the line that it was writing.
    Tensors go to files of their own, in a hidden folder beside it. Nothing is forgotten, as a run that is repeated asks for
    all of it.
    """

    forgets = False

    def __init__(self) -> None:
        super().__init__()
        self._file: int | None = None
        self._lock: FileLock | None = None

    def open(self, path: Path, identity: Mapping[str, Any]) -> None:
        """Take over what the file holds, if it exists, and write to it from now on.

        ``identity`` says, as JSON, what the values belong to. Raises ValueError if the file is no journal, belongs to something
        else, is damaged anywhere but in its last line, or is open in another process; the file is then as it was.
        """
        self.path = path
        identity = json.loads(json.dumps(identity))
        computed, self._values = self._values, defaultdict(dict)
        try:
            self._acquire(identity)
            self._file = _open_regular(path, os.O_RDWR | os.O_APPEND | os.O_CREAT)
            entries = self._read(identity)
            if not entries:
                self._append([IDENTITY, "", identity])
        except BaseException:
            self.close()
            raise
        for kind, key, value in entries[1:]:
            super().put(kind, key, value)
        for kind, values in computed.items():
            for key, value in values.items():
                if self.get(kind, key) is None:
                    self.put(kind, key, value)

    def put(self, kind: str, key: str, value: Any) -> None:
        """Keep a value and write it down. Raises OSError, with the path, if the disk is full; what was there stays valid."""
        if self._file is not None:
            self._append([kind, key, value])
        super().put(kind, key, value)

    def save_tensors(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """Write a file in the folder of the journal's tensors."""
        if self._file is None:
            return
        content = {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}
        write_atomically(self._tensor_file(name), save(content, {DIGEST: fingerprint("", content)}))

    def load_tensors(self, name: str) -> dict[str, Tensor] | None:
        """Read what was written. Raises ValueError for a damaged file."""
        if self._file is None or not os.path.lexists(self._tensor_file(name)):
            return None
        file = self._tensor_file(name)
        _refuse_link(file)
        try:
            with safe_open(file, framework="pt") as content:
                tensors = {key: content.get_tensor(key).clone() for key in content.keys()}  # noqa: SIM118  # not a dict
                digest = (content.metadata() or {}).get(DIGEST)
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{file}: damaged ({error}); delete it, and the network is trained again.") from error
        if digest != fingerprint("", tensors):
            raise ValueError(f"{file}: damaged (its content is not what was saved); delete it, and the network is trained again.")
        return tensors

    def forget_tensors(self, name: str) -> None:
        """Remove their file."""
        if self._file is not None:
            self._tensor_file(name).unlink(missing_ok=True)

    def _tensor_file(self, name: str) -> Path:
        folder = tensor_folder(self.path)
        _refuse_link(folder)
        return folder / f"{name}.safetensors"

    def sync(self) -> None:
        """Return when everything is on the disk, so that a machine that loses power loses nothing."""
        if self._file is not None:
            os.fsync(self._file)

    def close(self) -> None:
        """Write nothing any more."""
        if self._file is not None:
            os.close(self._file)
            self._file = None
        if self._lock is not None:
            self._lock.release()

    def remove(self) -> None:
        """Close it and remove all its files: what they are for is done."""
        self.close()
        remove_journal(self.path)

    def _acquire(self, identity: Mapping[str, Any]) -> None:
        """Keep other processes out. Nothing is created beside a file that is no journal."""
        lock = _lock_file(self.path)
        for file in (self.path, lock):
            _refuse_link(file)
        if lock.exists() and (not lock.is_file() or lock.stat().st_size > 0):
            raise ValueError(f"{lock}: expected the lock of a journal, which is an empty file; move it away.")
        if self.path.exists():
            _check_beginning(self.path, _content(self.path), identity)
        self._lock = FileLock(lock, timeout=0)
        try:
            self._lock.acquire()
        except Timeout:
            raise ValueError(f"{self.path}: another process is writing it; wait for that run, or start another one.") from None

    def _append(self, entry: list[Any]) -> None:
        assert self._file is not None  # it is open
        line = _line(entry)
        size = os.fstat(self._file).st_size
        try:
            while line:  # once, but for a full disk, which the second call reports
                line = line[os.write(self._file, line) :]
        except OSError as error:
            os.ftruncate(self._file, size)
            error.filename = str(self.path)
            raise

    def _read(self, identity: Mapping[str, Any]) -> list[list[Any]]:
        """The entries, the identity first, without a last line that a killed process left unfinished; that one is cut off, once
        the first line has shown that the file is a journal of ``identity``."""
        assert self._file is not None
        content = _content(self.path)
        _check_beginning(self.path, content, identity)
        *lines, torn = content.split(b"\n")
        entries = []
        for number, line in enumerate(lines, 1):
            entry = _parse(line)
            if entry is None:
                raise ValueError(
                    f"{self.path}: line {number} is damaged; delete it and all that follow, and the run goes on from there."
                )
            entries.append(entry)
        if entries and (differences := list(_differences(entries[0][2], identity))):
            more = f" and {len(differences) - MAX_LISTED} more" if len(differences) > MAX_LISTED else ""
            raise ValueError(
                f"{self.path}: expected the journal of this run, but it was written with another "
                f"{', another '.join(differences[:MAX_LISTED])}{more}; make it as it was, or start another run in another folder."
            )
        if torn:
            os.ftruncate(self._file, len(content) - len(torn))
        return entries


def remove_journal(path: Path) -> None:
    """Remove the files of a journal that nobody has open: what is no journal, and what others put beside it, stays."""
    if path.is_symlink() or not path.is_file() or not _is_identity(_content(path).partition(b"\n")[0]):
        return
    folder, lock = tensor_folder(path), _lock_file(path)
    if folder.is_dir() and not folder.is_symlink():
        for file in list(folder.iterdir()):
            if _holds_tensors_of_a_journal(file):
                file.unlink()
        remove_stale_temporaries(folder)
        if not any(folder.iterdir()):
            folder.rmdir()
    if lock.is_file() and not lock.is_symlink() and lock.stat().st_size == 0:
        lock.unlink()
    path.unlink()  # last, so that what is left of a removal that was interrupted is still known to be a journal's


def tensor_folder(path: Path) -> Path:
    """Where the tensors of the journal ``path`` are kept."""
    return path.with_name(f".{path.stem}_tensors")


def _lock_file(path: Path) -> Path:
    return path.with_name(f"{path.name}.lock")


def _holds_tensors_of_a_journal(file: Path) -> bool:
    if file.suffix != ".safetensors" or file.is_symlink() or not file.is_file():
        return False
    try:
        with safe_open(file, framework="pt") as content:
            return DIGEST in (content.metadata() or {})
    except SafetensorError:
        return False


# ------------------------------------------------------------------------------------------------------------- lines


def _line(entry: list[Any]) -> bytes:
    text = json.dumps(entry, separators=(",", ":"))
    return f"{_digest(text)} {text}\n".encode()


def _parse(line: bytes) -> list[Any] | None:
    """The entry of a line: kind, key and value. None for a line that no journal wrote."""
    digest, _, text = line.decode(errors="replace").partition(" ")
    if digest != _digest(text):
        return None
    try:
        entry = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(entry, list) or len(entry) != 3 or not all(isinstance(word, str) for word in entry[:2]):
        return None
    return entry


def _is_identity(line: bytes) -> bool:
    entry = _parse(line)
    return entry is not None and entry[:2] == [IDENTITY, ""] and isinstance(entry[2], dict)


def _check_beginning(path: Path, content: bytes, identity: Mapping[str, Any]) -> None:
    """Raise ValueError unless it begins with an identity, or is the beginning of the line that would say this one."""
    first, end, _ = content.partition(b"\n")
    if not (_is_identity(first) if end else _line([IDENTITY, "", identity]).startswith(first)):
        raise _foreign(path)


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(errors="replace"), digest_size=8).hexdigest()


def _differences(found: Any, expected: Any, name: str = "") -> Iterator[str]:
    """What is not the same in two identities: the names of settings, with both values."""
    if isinstance(found, dict) and isinstance(expected, dict):
        for key in sorted(found.keys() | expected.keys()):
            yield from _differences(found.get(key), expected.get(key), f"{name}.{key}" if name else key)
    elif found != expected:
        yield f"{name} ({_short(found)}, now {_short(expected)})"


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


# ------------------------------------------------------------------------------------------------------------- files


def _open_regular(path: Path, flags: int) -> int:
    """A descriptor of a regular file, never of what a symbolic link points to."""
    _refuse_link(path)
    file = os.open(path, flags | NO_LINKS, 0o666)
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise _foreign(path)
    return file


def _content(path: Path) -> bytes:
    if not path.is_file():  # a folder, or a pipe, which would wait for somebody to write
        raise _foreign(path)
    file = _open_regular(path, os.O_RDONLY)
    with os.fdopen(file, "rb") as stream:
        return stream.read()


def _refuse_link(path: Path) -> None:
    if path.is_symlink():
        raise ValueError(f"{path}: expected a file of this run, got a symbolic link to {os.readlink(path)}; remove the link.")


def _foreign(path: Path) -> ValueError:
    return ValueError(
        f"{path}: expected the journal of a run, but its first line is damaged, or it is another file; move it away, and the run "
        "starts anew."
    )
