"""Files that are whole or not there, and where they are kept."""

from __future__ import annotations

import csv
import io
import json
import os
import tempfile
import zipfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any


def write_atomically(path: Path, content: bytes | str) -> None:
    """Write under a temporary name beside ``path`` and rename: readers see the old file or the new one, never half of it.

    Missing folders are made. Raises OSError, with the path, if the folder cannot be written or the disk is full; then
    nothing is left behind.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
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


def check_writable(path: Path, bytes_needed: int = 0) -> None:
    """Raise OSError, with the path, if no file of ``bytes_needed`` can be written there; before long work is done for it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp") as file:
            file.write(bytes(bytes_needed))
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


def csv_text(columns: Sequence[str], rows: Iterable[Mapping[str, object]]) -> str:
    """Rows as the content of a CSV file, with a line of headings."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def cache_folder() -> Path:
    """Where base networks and downloads are kept: ``$PRUNE_GYM_CACHE``, else ``prune_gym`` in the user's cache folder."""
    chosen = os.environ.get("PRUNE_GYM_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "prune_gym"
    return Path(chosen).expanduser()


def read_json(path: Path, what: str) -> Any:
    """The content of a JSON file. Raises FileNotFoundError, or ValueError for a damaged file; ``what`` says what it should be."""
    try:
        return json.loads(Path(path).read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: expected {what}, but it is damaged ({error}).") from error


def read_zipped_json(path: Path, member: str) -> Any:
    """The content of a JSON file in a zip. Raises FileNotFoundError, or ValueError for a damaged or foreign file."""
    try:
        with zipfile.ZipFile(path) as file:
            return json.loads(file.read(member))
    except (zipfile.BadZipFile, zlib.error, KeyError, ValueError, RecursionError, RuntimeError, NotImplementedError) as error:
        raise ValueError(f"{path}: expected a zip that holds {member}, but {error}.") from error
