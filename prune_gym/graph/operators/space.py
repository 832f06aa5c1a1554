"""Operators that work within every channel: pooling, padding, shuffling pixels."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np

from prune_gym.graph.labels import LabelBook, Labels
from prune_gym.graph.operators.call import RULES, BatchCount, Call, Size, elements, rule, sized
from prune_gym.graph.operators.elementwise import broadcast
from prune_gym.graph.operators.products import pick, slide


def spatial(call: Call, book: LabelBook) -> Sequence[list[Labels]]:
    """Works within every channel: labels stay, the spatial dimensions (as many as the name says) are not prunable."""
    x = call.tensors[0]
    n_spatial = next(int(c) for c in call.op if c.isdigit())
    lead, space = x.labels[:-n_spatial], x.labels[-n_spatial:]
    along = [d for d, labels in enumerate(space) if labels is not None]
    result = [*lead, *[None] * (len(call.shapes[0]) - len(lead))]
    if len(along) == 1 and call.op.startswith("aten.avg_pool"):  # local response normalisation pools neighbouring channels
        d = along[0]
        window = pick(call["kernel_size"], d), pick(call["stride"] or call["kernel_size"], d), pick(call["padding"], d), 1
        result[len(lead) + d] = slide(space[d], call.shapes[0][len(lead) + d], *window, book)
        return [result]
    for labels in space:
        book.bind(labels)
    if "avg_pool" in call.op and len(x.shape) == n_spatial + 2:
        area = prod(x.shape[2:]) // prod(call.shapes[0][2:])
        call.paper_flops = elements(call.shapes[0], [sized(x, 1)], area + 1 if "adaptive" in call.op else 1, book)
    return [result] * len(call.shapes)


RULES |= dict.fromkeys(
    [f"{kind}{n}d" for n in (1, 2, 3) for kind in
     ("avg_pool", "_adaptive_avg_pool", "adaptive_avg_pool", "adaptive_max_pool", "reflection_pad", "replication_pad",
      "upsample_nearest", "_upsample_nearest_exact")],
    spatial,
)  # fmt: skip


RULES |= dict.fromkeys(
    ["max_pool2d_with_indices", "max_pool3d_with_indices", "upsample_linear1d", "upsample_bilinear2d", "upsample_bicubic2d",
     "upsample_trilinear3d", "_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa"],
    spatial,
)  # fmt: skip


@rule("constant_pad_nd")
def constant_pad(call: Call, book: LabelBook) -> Sequence[list[Labels]]:
    """Padded channels get labels of their own, so that they can go with the channels they are later added to."""
    x, pad = call["self"], list(call["pad"])
    result = list(x.labels)
    for i in range(0, len(pad), 2):
        dim = len(x.shape) - 1 - i // 2
        before, after = pad[i], pad[i + 1]
        if x.labels[dim] is None or (before, after) == (0, 0):
            continue
        if before < 0 or after < 0 or isinstance(x.shape[dim], BatchCount):  # a crop: leave the channels alone
            book.bind(x.labels[dim])
            result[dim] = None
            continue
        left, right = book.fresh(before), book.fresh(after)
        result[dim] = np.concatenate([left, x.labels[dim], right])
        pad[i], pad[i + 1] = Size(left), Size(right)
    call["pad"] = pad
    return [result]


@rule("max_unpool2d", "max_unpool3d")
def max_unpool(call: Call, book: LabelBook) -> Sequence[list[Labels]]:
    x = call["self"]
    n_spatial = len(call["output_size"])
    labels = broadcast([x, call["indices"]], x.shape, book)
    for gone in labels[-n_spatial:]:
        book.bind(gone)
    call.zeroed = x.zeroed
    return [[*labels[:-n_spatial], *[None] * n_spatial]]


@rule("im2col")
def im2col(call: Call, book: LabelBook) -> Sequence[list[Labels]]:
    x = call["self"]
    channels = x.labels[1]
    repeated = None if channels is None else np.repeat(channels, call.shapes[0][1] // x.shape[1])
    return [[None, repeated, None]]


@rule("col2im")
def col2im(call: Call, book: LabelBook) -> Sequence[list[Labels]]:
    x = call["self"]
    channels = x.labels[1]
    if channels is not None:
        channels = book.tie_rows(channels.reshape(-1, prod(call["kernel_size"])).T)
    book.bind(x.labels[2])
    return [[x.labels[0], channels, None, None]]


@rule("pixel_shuffle")
def pixel_shuffle(call: Call, book: LabelBook) -> Sequence[list[Labels]]:
    x, factor = call["self"], call["upscale_factor"]
    channels = x.labels[-3]
    if channels is not None:
        channels = book.tie_rows(channels.reshape(-1, factor**2).T)
    return [[*x.labels[:-3], channels, None, None]]


@rule("pixel_unshuffle")
def pixel_unshuffle(call: Call, book: LabelBook) -> Sequence[list[Labels]]:
    x, factor = call["self"], call["downscale_factor"]
    channels = x.labels[-3]
    return [[*x.labels[:-3], None if channels is None else np.repeat(channels, factor**2), None, None]]


@rule("native_channel_shuffle", "channel_shuffle")
def channel_shuffle(call: Call, book: LabelBook) -> Sequence[list[Labels]]:
    x, groups = call["self"], call["groups"]
    channels = x.labels[1]
    if channels is not None:
        channels = np.repeat(book.tie_rows(channels.reshape(groups, -1)), groups)
    return [[x.labels[0], channels, *x.labels[2:]]]


@rule("grid_sampler_2d", "grid_sampler_3d")
def grid_sampler(call: Call, book: LabelBook) -> Sequence[list[Labels]]:
    """Takes all channels from the same places."""
    x, grid = call["input"], call["grid"]
    for labels in (*x.labels[2:], *grid.labels):
        book.bind(labels)
    call.zeroed = x.zeroed
    return [[*x.labels[:2], *[None] * (len(x.shape) - 2)]]
