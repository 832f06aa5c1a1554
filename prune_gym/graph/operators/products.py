"""Convolutions and matrix products: where channels of one tensor meet those of a weight."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

from prune_gym.graph.labels import LabelBook, Labels
from prune_gym.graph.operators.call import Call, CostTerm, Traced, rule, size, sized
from prune_gym.graph.operators.elementwise import broadcast


@rule("convolution", "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
def convolution(call: Call, book: LabelBook) -> Sequence[list[Labels]]:
    """Input channels go with the weight's input side; a grouped one ties positions across groups, a depthwise one ties
    output to input and shrinks its number of groups."""
    x, weight, bias, groups = call["input"], call["weight"], call["bias"], call["groups"]
    channels, width = x.labels[1], x.shape[1]
    transposed = bool(call["transposed"]) or "transpose" in call.op
    sides = weight.labels[:2]  # (in, out / groups), and (out, in / groups) where it is not transposed
    inputs, outputs = sides if transposed else reversed(sides)
    filters, times = outputs, 1
    depthwise = 1 < groups == width and call.op == "aten.convolution.default"
    if groups == 1:
        book.unify(channels, inputs)
    elif depthwise:
        if transposed:
            book.unify(channels, inputs)
            book.bind(outputs)
            filters, times = inputs, weight.shape[1]
            outputs = None if channels is None else np.repeat(channels, times)
        else:
            book.unify(None if channels is None else np.repeat(channels, weight.shape[0] // groups), outputs)
        call["groups"] = size(channels, groups)
    else:
        tied = None if channels is None else book.tie_rows(channels.reshape(groups, -1))
        if transposed:
            book.unify(channels, inputs)
            times = groups
            outputs = None if outputs is None else np.tile(outputs, groups)
        else:
            book.unify(tied, inputs)
            if outputs is not None:
                book.tie_rows(outputs.reshape(groups, -1))
        if call.op == "aten.convolution.default":  # by this name it is not depthwise when one channel is left in every group
            common = [x, weight, bias, call["stride"], call["padding"]]
            n = len(x.shape) - 2
            if transposed:
                name = f"aten.conv_transpose{n}d.{'default' if n == 1 else 'input'}"
                call.becomes(name, *common, call["output_padding"], groups, call["dilation"])
            else:
                call.becomes(f"aten.conv{n}d.default", *common, call["dilation"], groups)
    if bias is not None:
        book.unify(bias.labels[0], outputs)
    if not (depthwise or x.zeroed or weight.zeroed):  # a sum over channels, and no zeros where there are less of them
        book.mix(channels)
    call.zeroed = weight.zeroed and (bias is None or bias.zeroed)

    shape, kernel = x.shape if transposed else call.shapes[0], weight.shape[2:]
    area = book.per_image(shape[0] * prod(shape[2:]))  # of all frames, where the frames of a video are a batch
    factors = [book.one_image(sized(weight, 0)), book.one_image(sized(weight, 1))]
    if x.labels[0] is not None:  # channels among the images: every one of them is convolved
        factors.append(book.one_image(x.labels[0]))
        area //= len(factors[-1])
        call.zeroed = False
    space: list[Labels] = [None] * len(kernel)
    along = [d for d, labels in enumerate(x.labels[2:]) if labels is not None]
    for d in along:  # such as ECA's 1-d convolution, which runs over the channels
        labels = x.labels[2 + d]
        if len(along) == 1 and groups == 1 and not transposed:
            window = kernel[d], pick(call["stride"], d), pick(call["padding"], d), pick(call["dilation"], d)
            space[d] = labels = slide(labels, call.shapes[0][2 + d], *window, book)
            if labels is not None:
                area //= len(labels)
                factors.append(labels)
                call.zeroed = False
        else:
            book.bind(labels)
    call.layer = CostTerm(area * prod(kernel), tuple(factors), filters, times)
    return [[x.labels[0], outputs, *space]]


def slide(labels: Labels, count: int, kernel: int, stride: int, padding: int, dilation: int, book: LabelBook) -> Labels:
    """A window that slides along channels: its result has the labels of the channels that lie in its middle, so that there
    is one less of them for every channel that is removed. What each of them is depends on its neighbours."""
    first = dilation * (kernel - 1) // 2 - padding
    if labels is None or stride != 1 or first < 0 or first + count > len(labels):
        book.bind(labels)
        return None
    book.bind(labels[:first])
    book.bind(labels[first + count :])
    book.mix(labels)
    return labels[first : first + count]


def pick(setting: Any, dim: int) -> int:
    """An entry of a setting such as a stride, which may be one number for all dimensions."""
    return setting if isinstance(setting, int) else setting[dim if len(setting) > 1 else 0]


@rule("mm", "addmm", "bmm", "baddbmm")
def product(call: Call, book: LabelBook) -> Sequence[list[Labels]]:
    """A matrix product contracts the last dimension of the left with the last but one of the right operand."""
    left, right = call.tensors[-2:]
    bias = call.tensors[0] if len(call.tensors) == 3 else None
    book.unify(left.labels[-1], right.labels[-2])
    lead: list[Labels] = []
    for a, b in zip(left.labels[:-2], right.labels[:-2], strict=True):
        book.unify(a, b)
        lead.append(None if b is None else a)
    rows, inner, columns = left.labels[-2], left.labels[-1], right.labels[-1]
    result = [*lead, rows, columns]
    zeros = left.zeroed or right.zeroed
    if not zeros:
        book.mix(inner)
    call.zeroed = (
        (rows is None or left.zeroed) and (columns is None or right.zeroed) and (zeros or all(labels is None for labels in lead))
    )
    if bias is not None:
        result = broadcast([Traced(bias.source, call.shapes[0], result, False), bias], call.shapes[0], book)
        call.zeroed = call.zeroed and bias.zeroed and rows is None
    sizes = [sized(right, -1), sized(left, -1), sized(left, -2), *(sized(left, d) for d in range(len(lead)))]
    factors = tuple(book.one_image(labels) for labels in sizes)
    filters = None if left.static == right.static else columns if right.static else rows
    call.layer = CostTerm(book.per_image(prod(map(len, sizes))) // prod(map(len, factors)), factors, filters)
    return [result]


@rule("mv", "dot", "vdot")
def vector_product(call: Call, book: LabelBook) -> Sequence[list[Labels]]:
    """As in spectral normalisation. Not a layer: no batch of images goes through it."""
    left, right = call.tensors
    book.unify(left.labels[-1], right.labels[-1])
    if not (left.zeroed or right.zeroed):
        book.mix(left.labels[-1])
    for labels in left.labels[:-1]:
        book.bind(None if left.static and right.static else labels)
    call.zeroed = left.zeroed
    return [left.labels[:-1]]


@rule("cdist", "_euclidean_dist", "_cdist_forward")
def distance(call: Call, book: LabelBook) -> Sequence[list[Labels]]:
    """Between all rows of the one operand and all rows of the other."""
    left, right = call["x1"], call["x2"]
    book.unify(left.labels[-1], right.labels[-1])
    if not (left.zeroed and right.zeroed):
        book.mix(left.labels[-1])
    for labels in (*left.labels[:-1], *right.labels[:-1]):
        book.bind(labels)
    return [[None] * len(call.shapes[0])]


@rule("embedding")
def embedding(call: Call, book: LabelBook) -> Sequence[list[Labels]]:
    table, places = call["weight"], call["indices"]
    for labels in (table.labels[0], *places.labels):
        book.bind(labels)
    call.zeroed = table.zeroed
    return [[*[None] * len(places.shape), table.labels[1]]]
