"""Labels: which channels of which tensors belong together.

Every dimension of every tensor carries an array of integer labels, one per index, or None where nothing can be removed
(batch, space, the network's input). An operator that needs two channels to go together *unifies* their labels. In the
end a connected component of labels is what must be removed as one.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

Labels = np.ndarray | None
Key = tuple[int, int]  # a dimension of a view's result, as (number of the operator, dimension)
BOUND = 0  # the label of everything that must stay


class LabelBook:
    """Hands out labels and collects what is said about them; nothing is resolved before :meth:`components`.

    ``batch`` is the number of images of the recorded forward pass. ``reason`` says, while a rule runs, what the rule is for;
    labels that get bound are noted with it.
    """

    def __init__(self, batch: int, prefers_first: Callable[[Key], bool] = lambda _key: False) -> None:
        self.batch = batch
        self.prefers_first = prefers_first
        self.size = 1  # label 0 is BOUND
        self.mixed: list[tuple[np.ndarray, Any]] = []  # labels of channels over which a value is averaged, and by what
        self.cuts: list[np.ndarray] = []  # labels that one side of a slice or split took
        self.choices: dict[Key, np.ndarray] = {}  # where a view could be read in two ways: the labels that it gave
        self.bound: list[tuple[np.ndarray, Any]] = []  # labels that stay, and why
        self.reason: Any = None
        self._pairs: list[tuple[np.ndarray, np.ndarray]] = []
        self._mentioned: list[np.ndarray] = []  # labels about which the present rule has said something
        self._scratch = np.zeros(1024, bool)
        self._blocks: list[np.ndarray] = []  # the arrays handed out; their first labels ascend
        self._block_of: dict[int, int] = {}  # by the identity of an array
        self._parents: list[int] = []  # a forest of blocks that go together label by label
        self._found: np.ndarray | None = None
        self._starts: list[int] = []
        self._owners: list[tuple[str, int] | None] = []  # and the parameter and dimension that it was made for

    def fresh(self, count: int, owner: str | None = None, dim: int = 0) -> np.ndarray:
        self._starts.append(self.size)
        self._owners.append(None if owner is None else (owner, dim))
        labels = np.arange(self.size, self.size + count)
        self._block_of[id(labels)] = len(self._blocks)
        self._parents.append(len(self._blocks))
        self._blocks.append(labels)
        self.size += count
        self._found = None
        return labels

    def owner(self, labels: np.ndarray) -> tuple[str, int] | None:
        """The parameter and dimension that these labels were made for, None if they were not made for one."""
        position = bisect_right(self._starts, int(labels[0])) - 1 if len(labels) else -1
        return self._owners[position] if position >= 0 else None

    # ------------------------------------------------------------------------------------------------ what rules say

    def unify(self, a: Labels, b: Labels) -> None:
        """Say that a[i] and b[i] go together; None stands for channels that stay."""
        if a is None or b is None:
            self.bind(a)
            self.bind(b)
            return
        self._mentioned += (a, b)
        if a is b:
            return
        self._found = None
        i, j = self._block_of.get(id(a)), self._block_of.get(id(b))
        if i is not None and j is not None:  # by far the most frequent case
            self._parents[self._root(i)] = self._root(j)
        else:
            self._pairs.append(self._first_images(a.ravel(), b.ravel()))

    def _first_images(self, a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Two arrays of labels, without those of the other images where all images say the same."""
        if len(a) == 0 or len(a) % self.batch:
            return a, b
        x, y = a.reshape(self.batch, -1), b.reshape(self.batch, -1)
        return (x[0], y[0]) if (x == x[0]).all() and (y == y[0]).all() else (a, b)

    def _root(self, block: int) -> int:
        parents = self._parents
        while parents[block] != block:
            parents[block] = block = parents[parents[block]]
        return block

    def unify_all(self, labels: Labels, others: Iterable[Labels]) -> None:
        """Say that ``labels`` and all ``others`` go together. The others one with the next, as they are whole parameters,
        which is faster where ``labels`` are parts of several."""
        for other in others:
            self.unify(labels, other)
            labels = labels if labels is None else other

    def bind(self, labels: Labels) -> None:
        """Say that these channels stay."""
        if labels is not None:
            self._mentioned.append(labels)
            self.bound.append((labels.ravel(), self.reason))

    def tie_rows(self, table: np.ndarray) -> np.ndarray:
        """Make all rows of a 2-d array of labels go together; gives the first row."""
        self.unify(np.broadcast_to(table[:1], table[1:].shape), table[1:])
        return table[0]

    def mix(self, labels: Labels) -> None:
        """Say that a value is computed across these channels, so that a zero is not the same as an absent channel."""
        if labels is not None:
            self._mentioned.append(labels)
            self.mixed.append((labels, self.reason))

    def cut(self, labels: Labels) -> None:
        if labels is not None:
            self.cuts.append(labels)

    def release(self, labels: Labels) -> None:
        """Say that the result of an operator does not depend on how many of these channels there are."""
        if labels is not None:
            self._mentioned.append(labels)

    # ------------------------------------------------------------------------------------------------ what rules do not say

    def begin_rule(self, reason: Any) -> None:
        self.reason = reason
        self._mentioned.clear()

    def end_rule(self, inputs: Iterable[list[Labels]], outputs: Iterable[list[Labels]]) -> None:
        """Bind the labels of ``inputs`` that a rule neither passes on to ``outputs`` nor says anything about.

        Such labels belong to a dimension that the rule did not reckon with, so nothing is known of what a removed channel
        would change.
        """
        seen = {id(labels) for labels in self._mentioned}
        passed = [labels for dims in outputs for labels in dims if labels is not None]
        seen.update(map(id, passed))
        left = [labels for dims in inputs for labels in dims if labels is not None and id(labels) not in seen]
        if not left:
            return
        if len(self._scratch) < self.size:
            self._scratch = np.zeros(2 * self.size, bool)
        known = [*self._mentioned, *passed]
        for labels in known:
            self._scratch[labels] = True
        self._scratch[BOUND] = True
        lost = [missing for labels in left if len(missing := labels[~self._scratch[labels]])]
        for labels in known:
            self._scratch[labels] = False
        for labels in lost:
            self.bind(labels)

    # ------------------------------------------------------------------------------------------------ images

    def one_image(self, labels: np.ndarray) -> np.ndarray:
        """The labels of one image where a view has laid the channels of all images of a batch one behind the other."""
        if len(labels) == 0 or len(labels) % self.batch:
            return labels
        images = labels.reshape(self.batch, -1)
        return images[0] if (images == images[0]).all() else labels.reshape(-1, self.batch)[:, 0]

    def per_image(self, count: int) -> int:
        return count // self.batch if count % self.batch == 0 else count

    # ------------------------------------------------------------------------------------------------ the end

    def parts(self) -> dict[Key, int]:
        """For every view of ``choices``: in how many parts the labels that it gave may be removed."""
        component = self.components()
        return {key: len(np.setdiff1d(component[labels], component[BOUND])) for key, labels in self.choices.items()}

    def components(self) -> np.ndarray:
        """The component of every label; that of ``BOUND`` is what stays."""
        component = self._unbound_components().copy()
        stays = np.zeros(self.size, bool)
        stays[component[BOUND]] = True
        for labels, _ in self.bound:
            stays[component[labels]] = True
        component[stays[component]] = BOUND
        return component

    def reasons(self) -> Callable[[np.ndarray], Any]:
        """A function that gives the first reason why some of these labels stay, None if none of them does."""
        component = self._unbound_components()
        first = np.full(self.size, len(self.bound))
        for i in range(len(self.bound) - 1, -1, -1):
            first[component[self.bound[i][0]]] = i

        def reason(labels: np.ndarray) -> Any:
            position = int(first[component[labels]].min(initial=len(self.bound)))
            return self.bound[position][1] if position < len(self.bound) else None

        return reason

    def _unbound_components(self) -> np.ndarray:
        """The component of every label by what goes together, whatever stays: the first label of it."""
        if self._found is None:
            self._found = self._connected(self._pairs)
        return self._found

    def _connected(self, pairs: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
        """The component of every label: blocks that go together first, then what was said about single labels."""
        same = np.arange(self.size)  # for every label the one of the root of its block
        for i, block in enumerate(self._blocks):
            root = self._root(i)
            if root != i and len(block):
                same[block[0] : block[-1] + 1] = self._blocks[root]
        if not pairs:
            return same
        rows = same[np.concatenate([a for a, _ in pairs])]
        columns = same[np.concatenate([b for _, b in pairs])]
        mask = np.zeros(self.size, bool)
        mask[rows] = mask[columns] = True
        involved, number = np.flatnonzero(mask), np.empty(self.size, np.int64)
        number[involved] = np.arange(len(involved))
        links = coo_array((np.ones(len(rows), np.int8), (number[rows], number[columns])), (len(involved), len(involved)))
        component = np.arange(self.size)
        component[involved] = _smallest(connected_components(links, directed=False)[1], involved)
        return component[same]


def _smallest(component: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """For every one of the ascending ``labels`` the first one of its component."""
    _, first = np.unique(component, return_index=True)
    return labels[first][component]
