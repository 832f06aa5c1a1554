"""What has been computed already, so that it is not computed again: in memory, or in a journal that survives the process.

A run is a deterministic function of its settings. Nearly all of its time goes into a few kinds of values: accuracies,
importance rankings, trained weights. So a run that is repeated with the journal of one that was killed passes through the
same states without computing anything, and goes on where the other stopped; whatever the agent is, and without it knowing.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from prune_gym.files import write_atomically
from prune_gym.fingerprint import fingerprint

TENSORS = "weights"  # the folder beside a journal
MAX_ENTRIES = {"accuracy": 100_000, "ranks": 2_000, "posttraining": 10_000}  # values of a kind that are kept in memory


class ResultCache:
    """Values by kind and key. Of each kind the oldest are forgotten when there are too many."""

    forgets = True

    def __init__(self) -> None:
        self._values: defaultdict[str, dict[str, Any]] = defaultdict(dict)

    def get(self, kind: str, key: str) -> Any | None:
        """The value, or None if there is none."""
        return self._values[kind].get(key)

    def put(self, kind: str, key: str, value: Any) -> None:
        """Keep a value that JSON can hold."""
        values = self._values[kind]
        if self.forgets and len(values) >= MAX_ENTRIES[kind]:
            del values[next(iter(values))]
        values[key] = value

    def save_tensors(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """Keep tensors where :meth:`load_tensors` finds them, if there is such a place; here, there is none."""

    def load_tensors(self, name: str) -> dict[str, Tensor] | None:
        """The tensors on the CPU, or None if they are not kept."""
        return None

    def forget_tensors(self, name: str) -> None:
        """They are not needed any more."""

    def sync(self) -> None:
        """Return when everything is as safe as it can be; here, at once."""


class NamespacedCache(ResultCache):
    """A part of another cache: what belongs to one network, data set and way of computing."""

    def __init__(self, cache: ResultCache, name: str):
        super().__init__()
        self._cache, self._name = cache, name

    def get(self, kind: str, key: str) -> Any | None:
        return self._cache.get(kind, f"{self._name}:{key}")

    def put(self, kind: str, key: str, value: Any) -> None:
        self._cache.put(kind, f"{self._name}:{key}", value)

    def save_tensors(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        self._cache.save_tensors(f"{self._name}-{name}", tensors)

    def load_tensors(self, name: str) -> dict[str, Tensor] | None:
        return self._cache.load_tensors(f"{self._name}-{name}")

    def forget_tensors(self, name: str) -> None:
        self._cache.forget_tensors(f"{self._name}-{name}")

    def sync(self) -> None:
        self._cache.sync()


class Journal(ResultCache):
    """A cache that, once it is opened, also appends every value to a file, one line each, with a digest of the line.

    A line is written by one call of the operating system, so a killed process loses at most the line that it was writing.
    Tensors go to files of their own. Nothing is forgotten, as a run that is repeated asks for all of it.
    """

    forgets = False

    def __init__(self) -> None:
        super().__init__()
        self._file: int | None = None
        self._lock: FileLock | None = None

    def open(self, path: Path, identity: Mapping[str, Any]) -> None:
        """Take over what the file holds, if it exists, and write to it from now on.

        ``identity`` says, as JSON, what the values belong to. Raises ValueError if the file belongs to something else, is
        damaged anywhere but in its last line, or is open in another process.
        """
        self.path = path
        self._lock = FileLock(path.with_name(f"{path.name}.lock"), timeout=0)
        try:
            self._lock.acquire()
        except Timeout:
            raise ValueError(f"{path}: another process is writing it; wait for that run, or start another one.") from None
        identity = json.loads(json.dumps(identity))
        computed, self._values = self._values, defaultdict(dict)
        lines = self._read()
        if lines and lines[0][2] != identity:
            found = lines[0][2]
            differing = sorted(key for key in identity.keys() | found.keys() if identity.get(key) != found.get(key))
            raise ValueError(
                f"{path}: expected the journal of this run, but it was written with another {', '.join(differing)}; make it as "
                "it was, or start another run in another folder."
            )
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        if not lines:
            self._append(["identity", "", identity])
        for kind, key, value in lines[1:]:
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
        """Write a file beside the journal."""
        if self._file is None:
            return
        content = {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}
        write_atomically(self._tensor_file(name), save(content, {"digest": fingerprint("", content)}))

    def load_tensors(self, name: str) -> dict[str, Tensor] | None:
        """Read what was written. Raises ValueError for a damaged file."""
        if self._file is None or not self._tensor_file(name).exists():
            return None
        file = self._tensor_file(name)
        try:
            with safe_open(file, framework="pt") as content:
                tensors = {key: content.get_tensor(key).clone() for key in content.keys()}  # noqa: SIM118  # not a dict
                digest = (content.metadata() or {}).get("digest")
        except SafetensorError as error:
            raise ValueError(f"{file}: damaged ({error}); delete it, and the network is trained again.") from error
        if digest != fingerprint("", tensors):
            raise ValueError(f"{file}: damaged (its content is not what was saved); delete it, and the network is trained again.")
        return tensors

    def forget_tensors(self, name: str) -> None:
        """Remove their file."""
        if self._file is not None:
            self._tensor_file(name).unlink(missing_ok=True)

    def _tensor_file(self, name: str) -> Path:
        return self.path.parent / TENSORS / f"{name}.safetensors"

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

    def _append(self, entry: list[Any]) -> None:
        assert self._file is not None  # it is open
        text = json.dumps(entry, separators=(",", ":"))
        line = f"{_digest(text)} {text}\n".encode()
        size = os.fstat(self._file).st_size
        try:
            while line:  # once, but for a full disk, which the second call reports
                line = line[os.write(self._file, line) :]
        except OSError as error:
            os.ftruncate(self._file, size)
            error.filename = str(self.path)
            raise

    def _read(self) -> list[list[Any]]:
        content = self.path.read_bytes() if self.path.exists() else b""
        *lines, torn = content.split(b"\n")
        if torn:  # the process was killed while it wrote this
            os.truncate(self.path, len(content) - len(torn))
        entries = []
        for number, line in enumerate(lines, 1):
            digest, _, text = line.decode(errors="replace").partition(" ")
            if digest != _digest(text):
                raise ValueError(
                    f"{self.path}: line {number} is damaged; delete it and all that follow, and the run goes on from there."
                )
            entries.append(json.loads(text))
        return entries


def remove_journal(path: Path) -> None:
    """Remove the files of a journal that nobody has open."""
    if (path.parent / TENSORS).exists():
        shutil.rmtree(path.parent / TENSORS)
    for file in (path, path.with_name(f"{path.name}.lock")):
        file.unlink(missing_ok=True)


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(errors="replace"), digest_size=8).hexdigest()
