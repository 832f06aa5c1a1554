"""Operators that move, merge and split dimensions."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

from prune_gym.graph.labels import BOUND, Key, LabelBook, Labels
from prune_gym.graph.operators.call import BatchCount, Call, Size, Traced, normal_dim, rule, size

MAX_LABELS = 2**23  # in one dimension


@rule("permute")
def permute(call: Call, book: LabelBook) -> Sequence[list[Labels]]:
    return [[call["self"].labels[d] for d in call["dims"]]]


@rule("t", "transpose")
def transpose(call: Call, book: LabelBook) -> Sequence[list[Labels]]:
    labels = list(call["self"].labels)
    if len(labels) > 1:
        a, b = (call["dim0"], call["dim1"]) if "dim0" in call.names else (0, 1)
        labels[a], labels[b] = labels[b], labels[a]
    return [labels]


@rule("view_as_real", "view_as_complex")
def complex_parts(call: Call, book: LabelBook) -> Sequence[list[Labels]]:
    labels = call["self"].labels
    if len(call.shapes[0]) > len(labels):
        return [[*labels, None]]
    book.bind(labels[-1])
    return [labels[:-1]]


@rule("unsqueeze")
def unsqueeze(call: Call, book: LabelBook) -> Sequence[list[Labels]]:
    labels = list(call["self"].labels)
    labels.insert(normal_dim(call["dim"], len(labels) + 1), None)
    return [labels]


@rule("squeeze")
def squeeze(call: Call, book: LabelBook) -> Sequence[list[Labels]]:
    """Names the squeezed dimensions, so that a channel dimension pruned to one is not squeezed away by accident."""
    x = call["self"]
    dims = call["dim"]
    chosen = range(len(x.shape)) if dims is None else [dims] if isinstance(dims, int) else dims
    gone = [d for d in (normal_dim(d, len(x.shape)) for d in chosen) if x.shape[d] == 1]
    for d in gone:
        book.bind(x.labels[d])
    call.becomes("aten.squeeze.dims", x, gone)
    return [[labels for d, labels in enumerate(x.labels) if d not in gone]]


@rule("expand")
def expand(call: Call, book: LabelBook) -> Sequence[list[Labels]]:
    """Copies of one value, as many as the channels that they meet."""
    x, shape = call["self"], call.shapes[0]
    lead = len(shape) - len(x.shape)
    result: list[Labels] = []
    sizes: list[Any] = []
    call.zeroed = x.zeroed
    for dim, count in enumerate(shape):
        inside = x.labels[dim - lead] if dim >= lead else None
        if dim >= lead and x.shape[dim - lead] == count:
            result.append(inside)
            sizes.append(-1)
            continue
        book.bind(inside)
        result.append(None if isinstance(count, BatchCount) else book.fresh(count))
        sizes.append(size(result[-1], count))
        call.zeroed = call.zeroed and result[-1] is None
    call["size"] = sizes
    return [result]


@rule("repeat")
def repeat(call: Call, book: LabelBook) -> Sequence[list[Labels]]:
    """Copies of channels go with them; of a single channel, which stays, each copy is a channel of its own."""
    x, shape = call["self"], call.shapes[0]
    repeats = list(call["repeats"])
    lead = len(shape) - len(x.shape)
    result: list[Labels] = []
    for dim, count in enumerate(shape):
        inside = x.labels[dim - lead] if dim >= lead else None
        width = x.shape[dim - lead] if dim >= lead else 1
        if repeats[dim] == 1:
            result.append(inside)
        elif width == 1 or isinstance(repeats[dim], BatchCount):
            book.bind(inside)
            result.append(None if isinstance(repeats[dim], BatchCount) else book.fresh(count))
            repeats[dim] = size(result[-1], repeats[dim])
        else:
            result.append(None if inside is None else np.tile(inside, repeats[dim]))
    call["repeats"] = repeats
    return [result]


@rule("flip")
def flip(call: Call, book: LabelBook) -> Sequence[list[Labels]]:
    labels = list(call["self"].labels)
    for dim in call["dims"]:
        channels = labels[dim]
        labels[dim] = None if channels is None else channels[::-1]
    return [labels]


@rule("view", "_unsafe_view", "reshape")
def view(call: Call, book: LabelBook) -> Sequence[list[Labels]]:
    """Merging dimensions repeats the labels of the one that carries channels; splitting one ties what is no longer a
    dimension. Where channels are concerned, either becomes a call of its own, so that it cannot be read in another way when
    few of them are left; in a split, -1 marks the part that carries them."""
    x, shape = call["self"], call.shapes[0]
    result: list[Labels] = [None] * len(shape)
    between: list[Any] = []  # the sizes after merging and before splitting
    regrouped = False  # whether something is left to do between them
    merges: list[tuple[str, list[Any]]] = []
    splits: list[tuple[str, list[Any]]] = []
    for inside, outside in view_groups(x.shape, shape):
        sizes = [shape[d] for d in outside]
        flat = x.labels[inside[0]] if len(inside) == 1 else merged(x, inside, book)
        if flat is None or not sizes:
            book.bind(flat)
            between += sizes
            regrouped |= len(inside) != 1 or len(sizes) != 1
            continue
        if len(inside) > 1:
            merges.insert(0, ("aten.flatten.using_ints", [inside[0], inside[-1]]))
        if len(sizes) > 1:
            axis, labels = split(flat, sizes, (call.index, outside[0]), book)
            splits.insert(0, ("aten.unflatten.int", [len(between), [-1 if i == axis else n for i, n in enumerate(sizes)]]))
            result[outside[axis]] = labels
        else:
            result[outside[0]] = flat
        between.append(size(flat, len(flat)))
    # not a view: memory need not lie in the smaller network as it did in the traced one
    rest = ("aten.reshape.default", [[-1 if _counts_images(n, book) else n for n in between]])
    calls = [*merges, *([rest] if regrouped or not (merges or splits) else []), *splits]
    first, arguments = calls[0]
    call.becomes(first, x, *arguments)
    call.followed_by = calls[1:]
    return [result]


def _counts_images(size: Any, book: LabelBook) -> bool:
    return isinstance(size, BatchCount) or (isinstance(size, Size) and len(size.labels) % book.batch == 0 < len(size.labels))


@rule("flatten")
def flatten(call: Call, book: LabelBook) -> Sequence[list[Labels]]:
    """As :func:`view` records it."""
    x, start, end = call["self"], call["start_dim"], call["end_dim"]
    return [[*x.labels[:start], merged(x, range(start, end + 1), book), *x.labels[end + 1 :]]]


@rule("unflatten")
def unflatten(call: Call, book: LabelBook) -> Sequence[list[Labels]]:
    """As :func:`view` records it: the part of size -1 carries the channels."""
    x, sizes = call["self"], list(call["sizes"])
    dim = normal_dim(call["dim"], len(x.shape))
    result = list(x.labels)
    labels, axis = result[dim], sizes.index(-1)
    if labels is not None:
        table = np.moveaxis(labels.reshape(call.shapes[0][dim : dim + len(sizes)]), axis, -1)
        labels = book.tie_rows(table.reshape(-1, table.shape[-1]))
    result[dim : dim + 1] = [labels if i == axis else None for i in range(len(sizes))]
    return [result]


def view_groups(a: Sequence[int], b: Sequence[int]) -> list[tuple[range, range]]:
    """The finest cut of two shapes of equal product into runs of dimensions with equal products."""
    groups = []
    i = j = 0
    while i < len(a) or j < len(b):
        start = i, j
        left = a[i] if i < len(a) else 1
        right = b[j] if j < len(b) else 1
        i, j = min(i + 1, len(a)), min(j + 1, len(b))
        while left != right:
            if left < right:
                left *= a[i]
                i += 1
            else:
                right *= b[j]
                j += 1
        groups.append((range(start[0], i), range(start[1], j)))
    return groups


def merged(x: Traced, dims: range, book: LabelBook) -> Labels:
    """The labels of the one dimension that these become. Where several have labels, one keeps them and the others are bound.
    Channels that are laid out once per image of the batch stay if there are too many of them to label, as in a convolution
    whose kernels differ from image to image, and if there are not as many as images."""
    labelled = [(d, labels) for d in dims if (labels := x.labels[d]) is not None]
    if len(labelled) > 1:
        labelled = [(d, labels) for d, labels in labelled if x.shape[d] > 1]
    if not labelled:
        return None
    uneven = any(isinstance(n, BatchCount) and n.offset for n in (x.shape[d] for d in dims))
    if uneven or prod(x.shape[d] for d in dims) > MAX_LABELS:
        for _, labels in labelled:
            book.bind(labels)
        return None
    # Two channel dimensions in one: nothing rectangular could be removed. One of them stays as it is: rather the copies
    # that an expand made than the channels of a parameter, rather the size of a kernel than its channels, and rather one
    # of which something stays anyhow, such as places with a class token among them.
    free = [pair for pair in labelled if BOUND not in pair[1]] or labelled
    kept, channels = next((pair for pair in free if book.owner(pair[1]) is not None), free[0])
    for d, labels in labelled:
        if d != kept:
            book.bind(labels)
    shape = [x.shape[d] for d in dims]
    return np.broadcast_to(channels.reshape([-1 if d == kept else 1 for d in dims]), shape).ravel()


def split(flat: np.ndarray, sizes: list[int], key: Key, book: LabelBook) -> tuple[int, np.ndarray]:
    """Which of the new dimensions carries the channels, and their labels. A view that undoes a flatten is exact. Else it is
    the last one, as where channels fall into groups, or the first, as in a pixel shuffle; see ``trace``."""
    batch = book.batch
    if len(flat) % batch == 0 and sizes[0] % batch == 0 and sizes[0] > batch:
        images = flat.reshape(batch, -1)
        if (images == images[0]).all():  # all images say the same, and there are many of them
            axis, labels = split(images[0], [sizes[0] // batch, *sizes[1:]], key, book)
            return axis, np.tile(labels, batch) if axis == 0 else labels
    table = flat.reshape(sizes)
    axes = [axis for axis, n in enumerate(sizes) if n > 1]
    if len(axes) <= 1:
        return (axes[0] if axes else 0), flat
    for axis in axes:
        rows = np.moveaxis(table, axis, -1).reshape(-1, sizes[axis])
        if (rows == rows[0]).all():
            return axis, rows[0]
    axis = axes[0] if book.prefers_first(key) else axes[-1]
    labels = book.tie_rows(np.moveaxis(table, axis, -1).reshape(-1, sizes[axis]))
    book.choices[key] = labels
    return axis, labels
