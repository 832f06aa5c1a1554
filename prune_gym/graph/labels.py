"""Labels: which channels of which tensors belong together.

Every dimension of every tensor carries an array of integer labels, one per index, or None where nothing can be removed
(batch, space, the network's input). An operator that needs two channels to go together *unifies* their labels. In the
end a connected component of labels is what must be removed as one.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

Labels = np.ndarray | None
Key = tuple[int, int]  # a dimension of a view's result, as (number of the operator, dimension)
BOUND = 0  # the label of everything that must stay


class LabelBook:
    """Hands out labels and collects what is said about them; nothing is resolved before :meth:`components`."""

    def __init__(self) -> None:
        self.size = 1  # label 0 is BOUND
        self._pairs: list[tuple[np.ndarray, np.ndarray]] = []
        self.mixed: list[np.ndarray] = []  # labels of channels over which a value is averaged
        self.cuts: list[np.ndarray] = []  # labels that one side of a slice or split took
        self._starts: list[int] = []  # the first label of every array handed out, ascending
        self._owners: list[tuple[str, int] | None] = []  # and the parameter and dimension that it was made for
        self.prefers_first: Callable[[Key], bool] = lambda _key: False
        self.choices: dict[Key, np.ndarray] = {}  # where a view could be read in two ways: the labels that it gave

    def fresh(self, count: int, owner: str | None = None, dim: int = 0) -> np.ndarray:
        self._starts.append(self.size)
        self._owners.append(None if owner is None else (owner, dim))
        labels = np.arange(self.size, self.size + count)
        self.size += count
        return labels

    def owner(self, labels: np.ndarray) -> tuple[str, int] | None:
        """The parameter and dimension that these labels were made for, None if they were not made for one."""
        position = bisect_right(self._starts, int(labels[0])) - 1 if len(labels) else -1
        return self._owners[position] if position >= 0 else None

    def unify(self, a: Labels, b: Labels) -> None:
        """Say that a[i] and b[i] go together; None stands for channels that stay."""
        if a is b:
            return
        if a is None or b is None:
            self.bind(a)
            self.bind(b)
        else:
            self._pairs.append((a.ravel(), b.ravel()))

    def bind(self, labels: Labels) -> None:
        if labels is not None:
            self._pairs.append((labels.ravel(), np.zeros(labels.size, labels.dtype)))

    def tie_rows(self, table: np.ndarray) -> np.ndarray:
        """Make all rows of a 2-d array of labels go together; gives the first row."""
        self.unify(np.broadcast_to(table[:1], table[1:].shape), table[1:])
        return table[0]

    def mix(self, labels: Labels) -> None:
        """Say that a value is computed across these channels, so that a zero is not the same as an absent channel."""
        if labels is not None:
            self.mixed.append(labels)

    def cut(self, labels: Labels) -> None:
        if labels is not None:
            self.cuts.append(labels)

    def parts(self) -> dict[Key, int]:
        """For every view of ``choices``: in how many parts the labels that it gave may be removed."""
        component = self.components()
        return {key: len(np.setdiff1d(component[labels], component[BOUND])) for key, labels in self.choices.items()}

    def components(self) -> np.ndarray:
        """The component of every label; that of ``BOUND`` is what stays."""
        if not self._pairs:
            return np.arange(self.size)
        rows = np.concatenate([a for a, _ in self._pairs])
        columns = np.concatenate([b for _, b in self._pairs])
        links = coo_array((np.ones(len(rows), np.int8), (rows, columns)), (self.size, self.size))
        return connected_components(links, directed=False)[1]
