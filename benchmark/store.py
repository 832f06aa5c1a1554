"""A folder of finished plays, one file for each, which several commands can fill at the same time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from prune_gym.benchmark.play import KEY, Play, Record
from prune_gym.files import DAMAGES, check_writable, npz_bytes, parse_json, remove_stale_temporaries, to_json, write_atomically

LOCKS = "locks"  # a folder
ABOUT = "about"
PARTS = ("key", "found", "made")  # of a record, in its entry about


class Store:
    """Records of plays, by their keys. A file is there as a whole or not at all, so whatever is killed takes nothing else along.

    Args:
        folder: where they are.
        new: whether the folder is made if need be, and will be written to.

    Raises OSError if nothing can be written there, ValueError if there is no folder to read.
    """

    def __init__(self, folder: Path, new: bool = True):
        self.folder = folder.expanduser()
        if new:
            check_writable(self.folder / LOCKS / "play.lock")
            (self.folder / LOCKS).mkdir(parents=True, exist_ok=True)
            remove_stale_temporaries(self.folder)
        elif not self.folder.is_dir():
            raise ValueError(f"store: expected a folder of scripts/benchmark.py, {self.folder} is none.")

    def __contains__(self, play: Play) -> bool:
        return self._path(play).exists()

    def __iter__(self) -> Iterator[Record]:
        """All records, in the order of their keys, one at a time in memory. Raises ValueError for a damaged file."""
        keys = {path: tuple(_about(path)["key"][name] for name in KEY) for path in self.folder.glob("*.npz")}
        yield from map(self.read, sorted(keys, key=keys.__getitem__))

    def made(self) -> Iterator[tuple[Mapping[str, Any], Mapping[str, Any]]]:
        """The key of every record and how it was made, in no order. Raises ValueError for a damaged file."""
        for path in self.folder.glob("*.npz"):
            about = _about(path)
            yield about["key"], about["made"]

    def _path(self, play: Play) -> Path:
        return self.folder / f"{play.digest}.npz"

    def add(self, play: Play, record: Record) -> None:
        """Keep what a play gave."""
        about = np.array(to_json("record", {name: getattr(record, name) for name in PARTS}))
        write_atomically(self._path(play), npz_bytes({ABOUT: about, **record.networks}))

    @staticmethod
    def read(path: Path) -> Record:
        """The record in a file. Raises ValueError for a damaged one."""
        with _opened(path) as file:
            networks = {name: file[name] for name in file.files if name != ABOUT}
            return Record(**_parts(file), networks=networks)

    @contextmanager
    def claim(self, play: Play) -> Iterator[bool]:
        """Whether the play is still to be played and nobody else plays it; nobody else will until the end of the context. The
        file of the lock stays: if it went, another one with its name could be locked at the same time."""
        lock = FileLock(self.folder / LOCKS / f"{play.digest}.lock", timeout=0)
        try:
            lock.acquire()
        except Timeout:
            yield False
            return
        try:
            yield play not in self
        finally:
            lock.release()


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    content = path.read_bytes()
    try:
        with np.load(BytesIO(content), allow_pickle=False) as file:
            yield file
    except DAMAGES as error:
        raise ValueError(f"store: {path} is damaged ({error}); delete it, and its play is played again.") from error


def _about(path: Path) -> dict[str, Any]:
    """What a file says of its play, without its networks."""
    with _opened(path) as file:
        return _parts(file)


def _parts(file: Any) -> dict[str, Any]:
    about = parse_json(str(file[ABOUT]))
    return {name: about[name] for name in PARTS}
