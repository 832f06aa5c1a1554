"""Operators that take some channels or join several tensors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from prune_gym.graph.labels import LabelBook, Labels
from prune_gym.graph.operators.call import RULES, BatchCount, Call, Size, normal_dim, rule, sized
from prune_gym.graph.operators.elementwise import broadcast


@rule("slice")
def slice_(call: Call, book: LabelBook) -> Sequence[list[Labels]]:
    """A range of channels; one with a stride binds them."""
    x, dim = call["self"], normal_dim(call["dim"], len(call["self"].shape))
    result = list(x.labels)
    labels, count = x.labels[dim], x.shape[dim]
    if labels is None:
        return [result]
    start, end, step = slice(call["start"], call["end"], call["step"]).indices(count)
    partial = (start, end) != (0, count)
    if step != 1 or (partial and isinstance(count, BatchCount)):
        book.bind(labels)
        result[dim] = None
        return [result]
    result[dim] = labels[start:end]
    book.release(labels)
    if partial:
        book.cut(labels[start:end])
        call["start"], call["end"] = Size(labels[:start]), Size(labels[:end])
    return [result]


@rule("select")
def select(call: Call, book: LabelBook) -> Sequence[list[Labels]]:
    """One channel, which stays, whatever becomes of those before it."""
    x = call["self"]
    result = list(x.labels)
    dim = normal_dim(call["dim"], len(x.shape))
    labels = result.pop(dim)
    if labels is not None and not isinstance(x.shape[dim], BatchCount):
        place = normal_dim(call["index"], len(labels))
        book.release(labels)
        call.bind_if_used[0] = labels[place : place + 1]
        call["index"] = Size(labels[:place])
    return [result]


@rule("unbind")
def unbind(call: Call, book: LabelBook) -> Sequence[list[Labels]]:
    labels = list(call["self"].labels)
    book.bind(labels.pop(normal_dim(call["dim"], len(labels))))
    return [labels] * len(call.shapes)


@rule("index_select", "unfold")
def by_table(call: Call, book: LabelBook) -> Sequence[list[Labels]]:
    """Takes channels by a table or in windows: they all stay."""
    labels = list(call["self"].labels)
    dim = normal_dim(call["dim"] if "dim" in call.names else call["dimension"], len(labels))
    for gone in [labels[dim], *(labels for t in call.tensors[1:] for labels in t.labels)]:
        book.bind(gone)
    labels[dim] = None
    return [[*labels, *[None] * (len(call.shapes[0]) - len(labels))]]


@rule("index")
def index(call: Call, book: LabelBook) -> Sequence[list[Labels]]:
    """A table of places in one dimension leaves the others as they are."""
    x = call["self"]
    tables = [(dim, table) for dim, table in enumerate(call["indices"]) if table is not None]
    if len(tables) != 1:
        return stays(call, book)
    ((dim, table),) = tables
    for labels in (x.labels[dim], *table.labels):
        book.bind(labels)
    return [[*x.labels[:dim], *[None] * len(table.shape), *x.labels[dim + 1 :]]]


@rule("sort", "topk", "kthvalue", "mode", "cummax", "cummin", "cumprod", "logcumsumexp", "roll")
def within(call: Call, book: LabelBook) -> Sequence[list[Labels]]:
    """Takes the entries of some dimensions in another order, or some of them."""
    x = call["self"]
    dims = call["dims"] or range(len(x.shape)) if "dims" in call.names else [call["dim"]]
    gone = {normal_dim(dim, len(x.shape)) for dim in dims}
    for dim in gone:
        book.bind(x.labels[dim])
    dropped = len(call.shapes[0]) < len(x.shape)
    labels = [None if dim in gone else k for dim, k in enumerate(x.labels) if not (dropped and dim in gone)]
    return [labels] * len(call.shapes)


def stays(call: Call, book: LabelBook) -> Sequence[list[Labels]]:
    """Known, and not to be pruned through: all channels stay."""
    for tensor in call.tensors:
        for labels in tensor.labels:
            book.bind(labels)
    return [[None] * len(shape) for shape in call.shapes]


RULES |= dict.fromkeys(
    ["index_put", "index_add", "index_copy", "index_fill", "gather", "scatter", "scatter_add", "scatter_reduce", "diagonal",
     "diag_embed", "affine_grid_generator", "linalg_inv_ex", "bucketize", "searchsorted"],
    stays,
)  # fmt: skip


@rule("tril", "triu")
def triangle(call: Call, book: LabelBook) -> Sequence[list[Labels]]:
    labels = call["self"].labels
    for gone in labels[-2:]:
        book.bind(gone)
    return [[*labels[:-2], None, None]]


@rule("_fft_r2c", "_fft_c2r", "_fft_c2c", "rot90")
def turn(call: Call, book: LabelBook) -> Sequence[list[Labels]]:
    """Works along some dimensions; the channels of the others stay apart."""
    labels = list(call["self"].labels)
    for dim in call["dims"] if "dims" in call.names else call["dim"]:
        book.bind(labels[dim])
        labels[dim] = None
    return [labels]


@rule("split", "split_with_sizes", "chunk", "unsafe_split", "unsafe_split_with_sizes", "unsafe_chunk")
def split_(call: Call, book: LabelBook) -> Sequence[list[Labels]]:
    """Consecutive ranges of channels, of the sizes that are left of each."""
    x = call["self"]
    dim = normal_dim(call["dim"], len(x.shape))
    counts = [shape[dim] for shape in call.shapes]
    labels = x.labels[dim]
    # the results of an unsafe split may be written to while gradients are computed
    name = f"aten.{'unsafe_' if 'unsafe' in call.op else ''}split_with_sizes.default"
    if labels is None:
        if not isinstance(x.shape[dim], BatchCount):
            call.becomes(name, x, counts, dim)
        return [x.labels] * len(counts)
    if isinstance(x.shape[dim], BatchCount):
        book.bind(labels)
        return [[*x.labels[:dim], None, *x.labels[dim + 1 :]]] * len(counts)
    pieces = np.split(labels, np.cumsum(counts)[:-1])
    for piece in pieces:
        book.cut(piece)
    call.becomes(name, x, [Size(piece) for piece in pieces], dim)
    return [[*x.labels[:dim], piece, *x.labels[dim + 1 :]] for piece in pieces]


@rule("glu")
def glu(call: Call, book: LabelBook) -> Sequence[list[Labels]]:
    """Gates the first half of the channels with the second."""
    x = call["self"]
    result = list(x.labels)
    dim = normal_dim(call["dim"], len(result))
    labels = result[dim]
    result[dim] = None if labels is None else book.tie_rows(labels.reshape(2, -1))
    call.zeroed = x.zeroed
    return [result]


@rule("cat")
def cat(call: Call, book: LabelBook) -> Sequence[list[Labels]]:
    tensors = [t for t in call["tensors"] if t.shape != (0,)]
    ndim = len(call.shapes[0])
    dim = normal_dim(call["dim"], ndim)
    result: list[Labels] = []
    for d in range(ndim):
        if d != dim:
            first = tensors[0].labels[d]
            for other in tensors[1:]:
                book.unify(first, other.labels[d])
                first = None if other.labels[d] is None else first
            result.append(first)
        elif all(t.labels[d] is None for t in tensors):
            result.append(None)
        else:
            result.append(np.concatenate([sized(t, d) for t in tensors]))
    return [result]


@rule("stack")
def stack(call: Call, book: LabelBook) -> Sequence[list[Labels]]:
    tensors = call["tensors"]
    labels = broadcast(tensors, tensors[0].shape, book)
    labels.insert(normal_dim(call["dim"], len(labels) + 1), None)
    return [labels]
