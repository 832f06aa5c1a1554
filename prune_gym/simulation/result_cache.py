"""What has been computed already, so that it is not computed again. :mod:`prune_gym.simulation.journal` outlives the process."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from torch import Tensor

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
