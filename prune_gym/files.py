"""Files that are whole or not there, JSON that somebody else may have written, and where files are kept."""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import shutil
import stat
import struct
import tempfile
import time
import zipfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from tokenize import TokenError
from typing import IO, Any, NoReturn

import numpy as np

MAX_JSON = 2**24  # bytes; Python objects take some ten times as many
TEMPORARY = ".prune_gym.tmp"  # how the names of temporary files end
STALE_AFTER = 3600.0  # seconds without a change, after which nobody writes a temporary file any more


def as_path(argument: str, value: object) -> Path:
    """``value`` as a path, with ``~`` as it is. Raises TypeError unless it is text or a path."""
    if not isinstance(value, str | os.PathLike):
        raise TypeError(f"{argument}: expected a path, got {type(value).__name__}.")
    return Path(value)


def write_atomically(path: Path, content: bytes | str) -> None:
    """Write under a temporary name beside ``path`` and rename: readers see the old file or the new one, never half of it.

    Missing folders are made. Temporary files that killed processes left in the folder an hour ago or earlier are removed. Raises
    OSError, with the path, if the folder cannot be written or the disk is full; then nothing is left behind.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_stale_temporaries(path.parent)
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, "Is a directory", str(path))
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=TEMPORARY)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)  # mkstemp gives 0o600
        os.replace(temporary, path)
    except BaseException as error:
        os.unlink(temporary)
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(path)  # a full disk does not say which file
        raise


def is_temporary(path: Path) -> bool:
    """Whether it is named like a temporary file of :func:`write_atomically`, or of other programs and earlier versions of this
    one, whose names ended with ``.tmp``."""
    return path.name.startswith(".") and path.name.endswith(".tmp")


def remove_stale_temporaries(folder: Path) -> None:
    """Remove what killed processes left in a folder: temporary files that nobody has changed for an hour."""
    for file in folder.iterdir():
        if not (is_temporary(file) and file.name.endswith(TEMPORARY)):  # what others call temporary is theirs
            continue
        try:
            status = file.lstat()
            if stat.S_ISREG(status.st_mode) and time.time() - status.st_mtime > STALE_AFTER:
                file.unlink()
        except FileNotFoundError:  # another process was faster
            continue


def check_writable(path: Path, bytes_needed: int = 0) -> None:
    """Raise OSError, with the path, if no file of ``bytes_needed`` bytes can be written there; before work that takes long is
    done for it. Missing folders are made, and nothing else is left behind."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, "Is a directory", str(path))
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", suffix=TEMPORARY):
        free = shutil.disk_usage(path.parent).free
    if free < bytes_needed:
        raise OSError(errno.ENOSPC, f"No space left on device ({bytes_needed} bytes are needed, {free} are free)", str(path))


# -------------------------------------------------------------------------------------------------------------- JSON


def to_json(argument: str, value: object, indent: int | None = None) -> str:
    """``value`` as JSON. Raises TypeError for what JSON cannot hold, ValueError for numbers that are not finite."""
    try:
        return json.dumps(value, indent=indent, allow_nan=False)
    except TypeError as error:
        raise TypeError(f"{argument}: expected what JSON can hold, but {error}.") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{argument}: expected what JSON can hold, but {error}.") from error


def parse_json(content: str | bytes) -> dict[str, Any]:
    """The object that ``content`` holds. Raises ValueError for anything else, however deeply it is nested: what is not JSON,
    numbers that are not finite, more than :data:`MAX_JSON` characters or bytes, and values that are not objects."""
    if len(content) > MAX_JSON:
        raise ValueError(f"it is longer than {MAX_JSON} characters")
    try:
        found = json.loads(content, parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(found, dict):
        raise ValueError(f"it holds no object, but {type(found).__name__}")
    return found


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def read_json(path: str | Path, what: str) -> dict[str, Any]:
    """The object in a JSON file; ``what`` says what it should be, such as ``"the settings of a run"``.

    Raises FileNotFoundError, or ValueError, which names the file, for anything that :func:`parse_json` refuses.
    """
    path = as_path("path", path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: expected {what}, but there is no such file.")
    with path.open("rb") as file:
        content = file.read(MAX_JSON + 1)
    try:
        return parse_json(content)
    except ValueError as error:
        raise ValueError(f"{path}: expected {what}, but it is damaged ({error}).") from error


def read_zipped_json(path: str | Path, member: str) -> dict[str, Any]:
    """The object in the JSON file ``member`` of a zip, of which at most :data:`MAX_JSON` bytes are ever unpacked.

    Raises FileNotFoundError, or ValueError, which names the file, if it is damaged or encrypted, holds no such member, or
    holds anything in it that :func:`parse_json` refuses.
    """
    path = as_path("path", path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: expected a zip that holds {member}, but there is no such file.")
    with path.open("rb") as raw:
        return _read_member(path, raw, member)


def _read_member(path: Path, raw: IO[bytes], member: str) -> dict[str, Any]:
    try:
        with zipfile.ZipFile(raw) as file:
            entry = file.getinfo(member)
            if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # others unpack more than is asked for
                raise ValueError(f"it is compressed by method {entry.compress_type}")
            with file.open(entry) as stream:
                content = stream.read(MAX_JSON + 1)
        return parse_json(content)
    except KeyError:
        raise ValueError(f"{path}: expected a zip that holds {member}, but it does not.") from None
    except _ZIP_ERRORS as error:
        raise ValueError(f"{path}: expected a zip that holds {member}, but it is damaged ({error}).") from error


_ZIP_ERRORS = (  # what zipfile raises: RuntimeError for encryption, NotImplementedError for methods, OSError for offsets
    *(zipfile.BadZipFile, zlib.error, ValueError, RuntimeError, NotImplementedError, EOFError, OverflowError, OSError),
    *(struct.error, IndexError, AttributeError),
)
DAMAGES = (  # what NumPy and :func:`parse_json` raise besides: for the header of an array, its size, and a missing entry
    *_ZIP_ERRORS,
    *(KeyError, TypeError, TokenError, SyntaxError, MemoryError),
)


# ------------------------------------------------------------------------------------------------------ tables and places


def csv_text(columns: Sequence[str], rows: Iterable[Mapping[str, object]]) -> str:
    """Rows as the content of a CSV file, with a line of headings."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def npz_bytes(arrays: Mapping[str, np.ndarray]) -> bytes:
    """Arrays as the content of an npz file; the same arrays give the same bytes."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as file:
        for name, array in arrays.items():
            member = io.BytesIO()
            np.save(member, array, allow_pickle=False)
            file.writestr(zipfile.ZipInfo(f"{name}.npy"), member.getvalue(), zipfile.ZIP_DEFLATED)  # ZipInfo: no date in it
    return content.getvalue()


def cache_folder() -> Path:
    """Where base networks and downloads are kept: ``$PRUNE_GYM_CACHE``, else ``prune_gym`` in the user's cache folder."""
    chosen = os.environ.get("PRUNE_GYM_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "prune_gym"
    return Path(chosen).expanduser()
