"""How channel labels flow through ATen operators: one rule per operator, checked by its name and never guessed.

A rule reads a :class:`Call`, says what goes together in a :class:`~prune_gym.labels.LabelBook`, and returns the labels
of every dimension of every output. Where an argument depends on how many channels are kept, the rule replaces it by a
:class:`Size` of labels, so that the recorded call runs at every width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from math import prod
from typing import Any

import numpy as np
import torch

from prune_gym.labels import LabelBook, Labels
from prune_gym.program import BatchSize, Named, Training, Value, operator

# The batch size of the trace: a prime that no layer is wide, so that a size is a multiple of it only if it counts images.
BATCH = 1009


@dataclass(frozen=True, slots=True, eq=False)
class Size:
    """The number of kept channels among ``labels``; becomes a :class:`~prune_gym.program.Count` when labels are resolved."""

    labels: np.ndarray


@dataclass(slots=True, eq=False)
class Traced:
    """What the tracer knows of a tensor: where it comes from, its labels, and whether only parameters went into it."""

    source: Value | Named
    shape: tuple[int, ...]
    labels: list[Labels]
    static: bool


@dataclass(slots=True)
class Layer:
    """A use of a weight: the output channels it makes and what its arithmetic costs per image."""

    outputs: Labels
    weight: Traced | None
    macs: int
    factors: tuple[Labels, Labels]


@dataclass(slots=True)
class Call:
    """One dispatched operator with its arguments by name (tensors as :class:`Traced`) and its output shapes."""

    op: str
    names: list[str]
    args: list[Any]
    kwargs: dict[str, Any]
    tensors: list[Traced]
    shapes: list[tuple[int, ...]]
    layer: Layer | None = None
    extra: tuple[str, int, Labels] | None = None  # what the paper's FLOPs add: kind, elements per channel, channels
    drop: int | None = None  # keep only this many outputs

    def __getitem__(self, name: str) -> Any:
        return self.args[self.names.index(name)] if name in self.names else self.kwargs.get(name)

    def __setitem__(self, name: str, value: Any) -> None:
        if name in self.names:
            self.args[self.names.index(name)] = value
        else:
            self.kwargs[name] = value

    def becomes(self, op: str, *args: Any) -> None:
        """Record ``op`` with positional ``args`` in place of the dispatched operator."""
        self.op, self.names, self.args, self.kwargs = op, [], list(args), {}


Rule = Callable[[Call, LabelBook], Sequence[list[Labels]]]
RULES: dict[str, Rule] = {}
REPLACEMENTS = {  # what rules record in place of what was dispatched
    "aten.batch_norm.default", "aten.layer_norm.default", "aten.group_norm.default", "aten.instance_norm.default",
    "aten.dropout.default", "aten.feature_dropout.default", "aten.alpha_dropout.default",
    "aten.feature_alpha_dropout.default", "aten.adaptive_avg_pool1d.default", "aten.adaptive_avg_pool2d.default",
    "aten.adaptive_avg_pool3d.default", "aten.split_with_sizes.default",
}  # fmt: skip


def rule(*names: str) -> Callable[[Rule], Rule]:
    def register(function: Rule) -> Rule:
        for name in names:
            RULES[name] = function
        return function

    return register


@cache
def find_rule(func: torch._ops.OpOverload) -> Rule | None:
    """The rule for an operator: by its name, in-place variants included, else the one for pointwise operators."""
    name = func._schema.name.removeprefix("aten::")
    base = name.removesuffix("_")
    known = RULES.get(name) or RULES.get(base)
    if known is None:  # PyTorch tags pointwise operators, though not every in-place variant
        functional = getattr(getattr(torch.ops.aten, base, None), func._overloadname, func)
        if torch.Tag.pointwise in func.tags or torch.Tag.pointwise in functional.tags:
            known = pointwise
    return known


def is_known(op: str) -> bool:
    """Whether a saved program may call this operator."""
    if op in REPLACEMENTS:
        return True
    parts = op.split(".")
    if len(parts) != 3 or parts[0] != "aten":
        return False
    try:
        return find_rule(operator(op)) is not None
    except AttributeError:
        return False


def size(labels: Labels, count: int) -> Any:
    """A size argument for a dimension of ``count`` indices with these labels."""
    return count if labels is None else Size(labels)


def normal_dim(dim: int, ndim: int) -> int:
    return dim + ndim if dim < 0 else dim


# ---------------------------------------------------------------------------------------------------- pointwise


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
        full = [t.labels[back] for t in tensors if len(t.shape) >= -back and t.shape[back] == count]
        first = full[0] if full else None
        for other in full[1:]:
            book.unify(first, other)
            first = None if other is None else first
        result.append(first)
    return result


RULES |= dict.fromkeys(
    ["where", "masked_fill", "clone", "detach", "alias", "lift_fresh", "lift", "_to_copy", "contiguous", "lerp", "rrelu_with_noise",
     "native_dropout", "fill", "zero", "bernoulli", "hardswish"],
    pointwise,
)  # fmt: skip


@rule("_prelu_kernel")
def prelu(call: Call, book: LabelBook) -> Sequence[list[Labels]]:
    return [broadcast(call.tensors, call.shapes[0], book)]


@rule("copy")
def copy_(call: Call, book: LabelBook) -> Sequence[list[Labels]]:
    return [broadcast([call["self"], call["src"]], call.shapes[0], book)]


# ------------------------------------------------------------------------------------- convolutions and products


@rule("convolution", "_convolution")
def convolution(call: Call, book: LabelBook) -> Sequence[list[Labels]]:
    """Input channels go with the weight's input side; a grouped one ties positions across groups, a depthwise one ties
    output to input and shrinks its number of groups."""
    x, weight, groups = call["input"], call["weight"], call["groups"]
    channels, n_channels = x.labels[1], x.shape[1]
    for labels in x.labels[2:]:
        book.bind(labels)
    kernel_area, output_area = prod(weight.shape[2:]), prod(call.shapes[0][2:])
    if call["transposed"]:  # weight (in, out / groups, *kernel)
        inputs, outputs = weight.labels[0], weight.labels[1]
        area = prod(x.shape[2:])
        book.unify(channels, inputs)
        if groups > 1 and groups == n_channels:
            book.bind(outputs)
            outputs = None if channels is None else np.repeat(channels, weight.shape[1])
            call["groups"] = size(channels, groups)
        elif groups > 1:
            if channels is not None:
                book.tie_rows(channels.reshape(groups, -1))
            outputs = None if outputs is None else np.tile(outputs, groups)
    else:  # weight (out, in / groups, *kernel)
        inputs, outputs = weight.labels[1], weight.labels[0]
        area = output_area
        if groups == 1:
            book.unify(channels, inputs)
        elif groups == n_channels:
            multiplier = weight.shape[0] // groups
            book.unify(None if channels is None else np.repeat(channels, multiplier), outputs)
            call["groups"] = size(channels, groups)
        else:
            if channels is not None:
                book.unify(book.tie_rows(channels.reshape(groups, -1)), inputs)
            else:
                book.bind(inputs)
            if outputs is not None:
                book.tie_rows(outputs.reshape(groups, -1))
    if call["bias"] is not None:
        book.unify(call["bias"].labels[0], outputs)
    call.layer = Layer(outputs, weight, area * kernel_area, (sized(weight, 0), sized(weight, 1)))
    return [[None, outputs, *[None] * (len(x.shape) - 2)]]


def sized(tensor: Traced, dim: int) -> Labels:
    """The labels of a dimension for counting; channels that stay count as bound labels."""
    labels = tensor.labels[dim]
    return np.zeros(tensor.shape[dim], np.int64) if labels is None else labels


def per_image(count: int) -> int:
    return count // BATCH if count % BATCH == 0 else count


@rule("mm", "addmm", "bmm", "baddbmm")
def product(call: Call, book: LabelBook) -> Sequence[list[Labels]]:
    """A matrix product contracts the last dimension of the left with the first (after the batch) of the right operand."""
    left, right = call.tensors[-2:]
    bias = call.tensors[0] if call.op.startswith(("aten.addm", "aten.baddbmm")) else None
    batch = len(left.shape) - 2 if len(left.shape) == 3 else 0
    rows, inner = left.labels[batch:-1], left.labels[-1]
    columns = right.labels[batch + 1 :]
    book.unify(inner, right.labels[batch])
    if not (left.static or right.static):  # two activations: a sum over channels without a weight to zero
        book.mix(inner)
    lead = []
    for a, b in zip(left.labels[:batch], right.labels[:batch], strict=True):
        book.unify(a, b)
        lead.append(None if b is None else a)
    result = [*lead, *rows, *columns]
    if bias is not None:
        result = broadcast([bias, Traced(bias.source, call.shapes[0], result, False)], call.shapes[0], book)
    n_rows = prod(left.shape[:-1])
    if right.static and not left.static and columns:
        outputs, weight, macs = columns[0], right, per_image(n_rows)
        factors = (sized(right, batch), sized(right, batch + 1))
        for labels in rows:
            book.bind(labels)
    elif left.static and not right.static and rows:
        outputs, weight, macs = rows[0], left, per_image(prod(right.shape[:batch]) * prod(right.shape[batch + 1 :]))
        factors = (sized(left, batch), sized(left, batch + 1))
        for labels in columns:
            book.bind(labels)
    else:
        for labels in (*rows, *columns):
            book.bind(labels)
        outputs, weight, macs = None, None, per_image(n_rows * prod(right.shape[batch + 1 :]))
        factors = (sized(left, -1), np.zeros(1, np.int64))
    call.layer = Layer(outputs, weight, macs, factors)
    return [result]


# -------------------------------------------------------------------------------------------------------- norms


@rule("native_batch_norm", "_native_batch_norm_legit", "_native_batch_norm_legit_no_training", "cudnn_batch_norm",
      "_batch_norm_with_update", "_batch_norm_no_update", "batch_norm")  # fmt: skip
def batch_norm(call: Call, book: LabelBook) -> Sequence[list[Labels]]:
    x, weight, bias = call["input"], call["weight"], call["bias"]
    mean, var = call["running_mean"], call["running_var"]
    for parameter in (weight, bias, mean, var):
        if parameter is not None:
            book.unify(x.labels[1], parameter.labels[0])
    for labels in x.labels[2:]:
        book.bind(labels)
    training = True if mean is None else Training()
    call.extra = ("batch_norm", per_image(prod(x.shape)) // x.shape[1], sized(x, 1))
    call.becomes("aten.batch_norm.default", x, weight, bias, mean, var, training, call["momentum"], call["eps"], True)
    call.drop = 1
    return [x.labels]


@rule("instance_norm")
def instance_norm(call: Call, book: LabelBook) -> Sequence[list[Labels]]:
    x = call["input"]
    for name in ("weight", "bias", "running_mean", "running_var"):
        if call[name] is not None:
            book.unify(x.labels[1], call[name].labels[0])
    return [x.labels]


@rule("native_layer_norm", "layer_norm")
def layer_norm(call: Call, book: LabelBook) -> Sequence[list[Labels]]:
    """Mixes the normalised dimensions."""
    x, weight, bias = call["input"], call["weight"], call["bias"]
    normalized = len(call["normalized_shape"])
    result = list(x.labels)
    for back in range(-normalized, 0):
        for parameter in (weight, bias):
            if parameter is not None:
                book.unify(x.labels[back], parameter.labels[back])
        book.mix(x.labels[back])
    sizes = [size(labels, count) for labels, count in zip(x.labels[-normalized:], x.shape[-normalized:], strict=True)]
    call.becomes("aten.layer_norm.default", x, sizes, weight, bias, call["eps"])
    call.drop = 1
    return [result]


@rule("native_group_norm", "group_norm")
def group_norm(call: Call, book: LabelBook) -> Sequence[list[Labels]]:
    """Mixes the channels of a group and ties positions across groups; one channel per group is an instance norm."""
    x, weight, bias = call["input"], call["weight"], call["bias"]
    groups = call["group"] if "group" in call.names else call["num_groups"]
    channels = x.labels[1]
    for parameter in (weight, bias):
        if parameter is not None:
            book.unify(channels, parameter.labels[0])
    if groups == x.shape[1] and groups > 1:
        groups = size(channels, groups)
    elif channels is not None:
        book.tie_rows(channels.reshape(groups, -1))
        book.mix(channels)
    call.becomes("aten.group_norm.default", x, groups, weight, bias, call["eps"])
    call.drop = 1
    return [x.labels]


@rule("_weight_norm_interface")
def weight_norm(call: Call, book: LabelBook) -> Sequence[list[Labels]]:
    v, g = call["v"], call["g"]
    return [broadcast([v, g], v.shape, book), g.labels]


# ------------------------------------------------------------------------------------- dropout (its own functions)


@rule("dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout")
def dropout(call: Call, book: LabelBook) -> Sequence[list[Labels]]:
    if call["train"] is False:  # traced in evaluation mode: follow the network's mode from here on
        call["train"] = Training()
    return [call["input"].labels]


# --------------------------------------------------------------------------------------- pooling and other space


def spatial(call: Call, book: LabelBook) -> Sequence[list[Labels]]:
    """Works within every channel: labels stay, the spatial dimensions (as many as the name says) are not prunable."""
    x = call.tensors[0]
    n_spatial = next(int(c) for c in call.op if c.isdigit())
    for labels in x.labels[-n_spatial:]:
        book.bind(labels)
    lead = x.labels[:-n_spatial]
    result = [*lead, *[None] * (len(call.shapes[0]) - len(lead))]
    if "avg_pool" in call.op and len(x.shape) == n_spatial + 2:
        out_area, in_area = prod(call.shapes[0][2:]), prod(x.shape[2:])
        if "adaptive" in call.op:
            call.extra = ("adaptive_avg_pool", (in_area // out_area + 1) * out_area, sized(x, 1))
        else:
            call.extra = ("avg_pool", out_area, sized(x, 1))
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
        if before < 0 or after < 0:  # a crop: leave the channels alone
            book.bind(x.labels[dim])
            result[dim] = None
            continue
        left, right = book.fresh(before), book.fresh(after)
        result[dim] = np.concatenate([left, x.labels[dim], right])
        pad[i], pad[i + 1] = Size(left), Size(right)
    call["pad"] = pad
    return [result]


@rule("im2col")
def im2col(call: Call, book: LabelBook) -> Sequence[list[Labels]]:
    x = call["self"]
    channels = x.labels[1]
    repeated = None if channels is None else np.repeat(channels, call.shapes[0][1] // x.shape[1])
    return [[None, repeated, None]]


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


# --------------------------------------------------------------------------------------------------- reductions


def reduction(call: Call, book: LabelBook) -> Sequence[list[Labels]]:
    """Removes dimensions. A value computed across channels is *mixed*: a zeroed channel still counts in it."""
    x = call.tensors[0]
    dims = call["dim"]
    everything = range(len(x.shape))
    chosen = everything if dims is None or dims == [] else [dims] if isinstance(dims, int) else dims
    reduced = {normal_dim(d, len(x.shape)) for d in chosen}
    for dim in reduced:
        book.mix(x.labels[dim])
    if len(call.shapes[0]) == len(x.shape):
        result = [None if d in reduced else x.labels[d] for d in everything]
    else:
        result = [x.labels[d] for d in everything if d not in reduced]
    return [result] * len(call.shapes)


RULES |= dict.fromkeys(
    ["mean", "sum", "amax", "amin", "max", "min", "var", "std", "var_mean", "std_mean", "argmax", "argmin", "prod",
     "linalg_vector_norm", "norm", "logsumexp"],
    reduction,
)  # fmt: skip


@rule("_softmax", "_log_softmax", "softmax", "log_softmax", "cumsum")
def along(call: Call, book: LabelBook) -> Sequence[list[Labels]]:
    x = call["self"]
    book.mix(x.labels[normal_dim(call["dim"], len(x.shape))])
    return [x.labels]


# --------------------------------------------------------------------------------------------- moving dimensions


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
    call.becomes("aten.squeeze.dims", x, gone)
    return [[labels for d, labels in enumerate(x.labels) if d not in gone]]


@rule("expand")
def expand(call: Call, book: LabelBook) -> Sequence[list[Labels]]:
    x, shape = call["self"], call.shapes[0]
    lead = len(shape) - len(x.shape)
    result: list[Labels] = []
    sizes: list[Any] = []
    for dim, count in enumerate(shape):
        grows = dim < lead or x.shape[dim - lead] != count
        if grows and count % BATCH == 0:
            result.append(None)
            sizes.append(BatchSize(count // BATCH))
        elif grows:  # copies of one value: as many as the channels they meet
            result.append(book.fresh(count))
            sizes.append(Size(result[-1]))
        else:
            result.append(x.labels[dim - lead])
            sizes.append(-1)
    call["size"] = sizes
    return [result]


@rule("repeat")
def repeat(call: Call, book: LabelBook) -> Sequence[list[Labels]]:
    x, shape = call["self"], call.shapes[0]
    repeats = list(call["repeats"])
    lead = len(shape) - len(x.shape)
    result: list[Labels] = []
    for dim, count in enumerate(shape):
        inside = x.labels[dim - lead] if dim >= lead else None
        width = x.shape[dim - lead] if dim >= lead else 1
        if repeats[dim] % BATCH == 0:
            repeats[dim] = BatchSize(repeats[dim] // BATCH)
            book.bind(inside)
            result.append(None)
        elif width == 1 and count > 1:
            result.append(book.fresh(count))
            repeats[dim] = Size(result[-1])
        else:
            result.append(None if inside is None else np.tile(inside, repeats[dim]))
    call["repeats"] = repeats
    return [result]


@rule("roll", "flip")
def roll(call: Call, book: LabelBook) -> Sequence[list[Labels]]:
    x = call["self"]
    labels = list(x.labels)
    for dim in call["dims"]:
        book.bind(labels[dim])
    return [labels]


@rule("view", "_unsafe_view", "reshape")
def view(call: Call, book: LabelBook) -> Sequence[list[Labels]]:
    """Merging repeats the labels of the one channel dimension; splitting it ties what is no longer a dimension."""
    x, shape = call["self"], call.shapes[0]
    result: list[Labels] = [None] * len(shape)
    for inside, outside in view_groups(x.shape, shape):
        if len(inside) == 1 and len(outside) == 1:
            result[outside[0]] = x.labels[inside[0]]
            continue
        flat = merged(x, inside, book)
        if flat is not None and outside:
            dim, labels = split(flat, [shape[d] for d in outside], book)
            result[outside[dim]] = labels
    sizes = [-1 if n % BATCH == 0 and n else size(labels, n) for labels, n in zip(result, shape, strict=True)]
    call.becomes("aten.reshape.default", x, sizes)  # memory need not lie in the smaller network as it did in the traced one
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
    labelled = [d for d in dims if x.labels[d] is not None]
    if len(labelled) > 1:
        labelled = [d for d in labelled if x.shape[d] > 1]
    if len(labelled) > 1:  # two channel dimensions in one: nothing rectangular could be removed
        for d in labelled:
            book.bind(x.labels[d])
        return None
    if not labelled:
        return None
    shape = [x.shape[d] for d in dims]
    labels = x.labels[labelled[0]].reshape([-1 if d == labelled[0] else 1 for d in dims])
    return np.broadcast_to(labels, shape).ravel()


def split(flat: np.ndarray, sizes: list[int], book: LabelBook) -> tuple[int, np.ndarray]:
    """Which of the new dimensions carries the channels, and their labels. The order of the cases keeps a view that undoes
    a flatten exact, and makes the last dimension carry them where channels are split in groups."""
    table = flat.reshape(sizes)
    axes = [axis for axis, n in enumerate(sizes) if n > 1]
    if len(axes) <= 1:
        return (axes[0] if axes else 0), flat
    for axis in axes:
        rows = np.moveaxis(table, axis, -1).reshape(-1, sizes[axis])
        if (rows == rows[0]).all():
            return axis, rows[0]
    return axes[-1], book.tie_rows(np.moveaxis(table, axes[-1], -1).reshape(-1, sizes[axes[-1]]))


# ---------------------------------------------------------------------------------------------- taking and joining


@rule("slice")
def slice_(call: Call, book: LabelBook) -> Sequence[list[Labels]]:
    x, dim = call["self"], normal_dim(call["dim"], len(call["self"].shape))
    result = list(x.labels)
    labels, count = x.labels[dim], x.shape[dim]
    if labels is None:
        return [result]
    start, end, step = slice(call["start"], call["end"], call["step"]).indices(count)
    if step != 1:
        book.bind(labels)
        result[dim] = None
        return [result]
    result[dim] = labels[start:end]
    if (start, end) != (0, count):
        book.cut(labels[start:end])
        call["start"], call["end"] = Size(labels[:start]), Size(labels[:end])
    return [result]


@rule("select")
def select(call: Call, book: LabelBook) -> Sequence[list[Labels]]:
    labels = list(call["self"].labels)
    book.bind(labels.pop(normal_dim(call["dim"], len(labels))))
    return [labels]


@rule("unbind")
def unbind(call: Call, book: LabelBook) -> Sequence[list[Labels]]:
    return select(call, book) * len(call.shapes)  # type: ignore[operator]


@rule("index_select", "index")
def index(call: Call, book: LabelBook) -> Sequence[list[Labels]]:
    """Picks channels by a table: they all stay."""
    x = call["self"]
    for labels in x.labels:
        book.bind(labels)
    return [[None] * len(call.shapes[0])]


@rule("split", "split_with_sizes", "chunk")
def split_(call: Call, book: LabelBook) -> Sequence[list[Labels]]:
    x = call["self"]
    dim = normal_dim(call["dim"], len(x.shape))
    counts = [shape[dim] for shape in call.shapes]
    labels = x.labels[dim]
    if labels is None:
        return [x.labels] * len(counts)
    pieces = np.split(labels, np.cumsum(counts)[:-1])
    for piece in pieces:
        book.cut(piece)
    call.becomes("aten.split_with_sizes.default", x, [Size(piece) for piece in pieces], dim)
    return [[*x.labels[:dim], piece, *x.labels[dim + 1 :]] for piece in pieces]


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


# ---------------------------------------------------------------------------------------------------- factories


@rule("zeros", "ones", "full", "empty", "new_zeros", "new_ones", "new_full", "new_empty")
def constant(call: Call, book: LabelBook) -> Sequence[list[Labels]]:
    """One value everywhere: it can be made in any size, so its channels are those of whatever it meets."""
    shape = call.shapes[0]
    result = [None if n % BATCH == 0 else book.fresh(n) for n in shape]
    call["size"] = [BatchSize(n // BATCH) if labels is None else Size(labels) for labels, n in zip(result, shape, strict=True)]
    return [result]


RULES |= dict.fromkeys(["zeros_like", "ones_like", "full_like", "empty_like"], pointwise)


@rule("arange", "linspace", "scalar_tensor", "eye")
def table(call: Call, book: LabelBook) -> Sequence[list[Labels]]:
    return [[None] * len(shape) for shape in call.shapes]
