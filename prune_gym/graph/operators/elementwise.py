"""Operators that work element by element, and tensors that hold one value everywhere."""

from __future__ import annotations

from collections.abc import Sequence

from prune_gym.graph.labels import BOUND, LabelBook, Labels
from prune_gym.graph.operators.call import RULES, BatchCount, Call, Traced, rule, size
from prune_gym.graph.program import Training


def pointwise(call: Call, book: LabelBook) -> Sequence[list[Labels]]:
    """Elementwise with broadcasting: where several operands share a dimension, their channels go together."""
    tensors = call.tensors
    shape = call.shapes[0]
    if len(tensors) == 1 and tensors[0].shape == shape:
        return [tensors[0].labels] * len(call.shapes)
    return [broadcast(tensors, shape, book)] * len(call.shapes)


def broadcast(tensors: Sequence[Traced], shape: tuple[int, ...], book: LabelBook) -> list[Labels]:
    result: list[Labels] = []
    for dim, count in enumerate(shape):
        back = dim - len(shape)
        present = [t for t in tensors if len(t.shape) >= -back]
        full = [t.labels[back] for t in present if t.shape[back] == count]
        for t in present:
            if t.shape[back] != count:  # one channel for all: it could not be broadcast if it were gone
                book.bind(t.labels[back])
        first = full[0] if full else None
        for other in full[1:]:
            book.unify(first, other)
            if first is None or other is None:
                first = None
            elif (
                len(first) and first[0] != BOUND and book.owner(first) is None
            ):  # rather the labels of a weight than those of its mask
                first = other
        result.append(first)
    return result


RULES |= dict.fromkeys(
    ["where", "masked_fill", "clone", "detach", "alias", "lift_fresh", "lift", "_to_copy", "to", "contiguous", "lerp",
     "rrelu_with_noise", "native_dropout", "fill", "zero", "hardswish", "log_sigmoid_forward"],
    pointwise,
)  # fmt: skip


@rule("_prelu_kernel")
def prelu(call: Call, book: LabelBook) -> Sequence[list[Labels]]:
    return [broadcast(call.tensors, call.shapes[0], book)]


@rule("copy")
def copy_(call: Call, book: LabelBook) -> Sequence[list[Labels]]:
    return [broadcast([call["self"], call["src"]], call.shapes[0], book)]


@rule("dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout")
def dropout(call: Call, book: LabelBook) -> Sequence[list[Labels]]:
    if call["train"] is False:  # traced in evaluation mode: follow the network's mode from here on
        call["train"] = Training()
    return [call["input"].labels]


@rule("zeros", "ones", "full", "empty", "new_zeros", "new_ones", "new_full", "new_empty")
def constant(call: Call, book: LabelBook) -> Sequence[list[Labels]]:
    """One value everywhere: it can be made in any size, so its channels are those of whatever it meets."""
    shape = call.shapes[0]
    for like in call.tensors:  # of which only the type matters
        for labels in like.labels:
            book.release(labels)
    result = [None if isinstance(n, BatchCount) else book.fresh(n) for n in shape]
    call["size"] = [size(labels, n) for labels, n in zip(result, shape, strict=True)]
    return [result]


RULES |= dict.fromkeys(["zeros_like", "ones_like", "full_like", "empty_like"], pointwise)


@rule("arange", "linspace", "scalar_tensor", "eye")
def table(call: Call, book: LabelBook) -> Sequence[list[Labels]]:
    return [[None] * len(shape) for shape in call.shapes]
