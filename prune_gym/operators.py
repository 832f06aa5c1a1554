"""How channel labels flow through ATen operators: one rule per operator, checked by its name and never guessed.

A rule reads a :class:`Call`, says what goes together in a :class:`~prune_gym.labels.LabelBook`, and returns the labels
of every dimension of every output. Where an argument depends on how many channels are kept, the rule replaces it by a
:class:`Size` of labels, so that the recorded call runs at every width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from math import prod
from typing import Any

import numpy as np
import torch

from prune_gym.labels import Key, LabelBook, Labels
from prune_gym.program import Named, Training, Value, operator

# The batch size of the trace: a prime that no layer is wide, so that a size is a multiple of it only if it counts images.
BATCH = 1009


@dataclass(frozen=True, slots=True, eq=False)
class Size:
    """The number of kept channels among ``labels``; becomes a :class:`~prune_gym.program.Count` when labels are resolved."""

    labels: np.ndarray


@dataclass(slots=True, eq=False)
class Traced:
    """What the tracer knows of a tensor: where it comes from, its labels, whether only parameters went into it, and whether
    it holds zeros at removed channels when those of the network's own tensors are zeroed, as a masked network's are."""

    source: Value | Named
    shape: tuple[int, ...]
    labels: list[Labels]
    static: bool
    zeroed: bool = False


@dataclass(slots=True)
class Layer:
    """A product with a weight, or of two activations: what it costs per image is ``macs`` times the numbers of channels in
    ``factors``. ``filters`` are the weight's output channels, every one of which stands for ``times`` of the layer's."""

    macs: int
    factors: tuple[np.ndarray, ...]
    filters: Labels = None
    times: int = 1


@dataclass(slots=True)
class Call:
    """One dispatched operator with its arguments by name (tensors as :class:`Traced`) and its output shapes."""

    op: str
    names: list[str]
    args: list[Any]
    kwargs: dict[str, Any]
    tensors: list[Traced]
    shapes: list[tuple[int, ...]]
    index: int = 0  # how many were dispatched before it
    layer: Layer | None = None
    extra: tuple[str, int, np.ndarray] | None = None  # what the paper's FLOPs add: kind, elements per channel, channels
    drop: int | None = None  # keep only this many outputs
    zeroed: bool | None = None  # what a rule knows of its result; None: as the operator's name says
    then: list[tuple[str, list[Any]]] = field(default_factory=list)  # calls to record behind it: what follows the result

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
    "aten.adaptive_avg_pool3d.default", "aten.split_with_sizes.default", "aten.flatten.using_ints", "aten.unflatten.int",
    "aten.conv1d.default", "aten.conv2d.default", "aten.conv3d.default",
    "aten.conv_transpose1d.default", "aten.conv_transpose2d.input", "aten.conv_transpose3d.input",
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


def count_images(argument: Any) -> bool:
    """Whether a size is a multiple of the batch size."""
    count = len(argument.labels) if isinstance(argument, Size) else argument
    return type(count) is int and count > 0 and count % BATCH == 0


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
            elif book.owner(first) is None:  # rather the labels of a weight than those of its mask
                first = other
        result.append(first)
    return result


RULES |= dict.fromkeys(
    ["where", "masked_fill", "clone", "detach", "alias", "lift_fresh", "lift", "_to_copy", "contiguous", "lerp",
     "rrelu_with_noise", "native_dropout", "fill", "zero", "bernoulli", "hardswish", "log_sigmoid_forward"],
    pointwise,
)  # fmt: skip

# Where their operands (all of them, one, or the first) are zero, these give zero.
_ZERO_IF_ALL = frozenset(
    ["neg", "abs", "sign", "sqrt", "sin", "tan", "tanh", "erf", "expm1", "log1p", "round", "floor", "ceil", "trunc", "relu",
     "relu6", "leaky_relu", "_prelu_kernel", "elu", "celu", "gelu", "silu", "mish", "hardswish", "hardshrink", "softshrink",
     "clone", "detach", "alias", "_to_copy", "dropout", "feature_dropout", "native_dropout", "reshape", "flatten",
     "unflatten", "permute", "t", "transpose", "unsqueeze", "squeeze", "slice", "select", "unbind", "split_with_sizes",
     "flip", "cat", "stack", "pixel_shuffle", "pixel_unshuffle", "native_channel_shuffle", "channel_shuffle", "im2col",
     "avg_pool1d", "avg_pool2d", "avg_pool3d", "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d",
     "_adaptive_avg_pool2d", "_adaptive_avg_pool3d", "max_pool2d_with_indices", "max_pool3d_with_indices",
     "upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d", "upsample_bilinear2d", "upsample_bicubic2d", "mean",
     "sum", "amax", "amin", "linalg_vector_norm"]
)  # fmt: skip


def zeros_stay(call: Call, labels: Sequence[Labels]) -> bool:
    """Whether the result is zero wherever a channel with one of these labels was removed and its weights are zero."""
    if call.zeroed is not None:
        return call.zeroed
    name = call.op.split(".")[1].removesuffix("_")
    tensors, shape = call.tensors, call.shapes[0]
    if name in ("zero", "zeros", "zeros_like", "new_zeros"):
        return True
    if name in ("add", "sub", "mul", "maximum", "minimum", "copy"):
        carriers = [  # an operand that is broadcast along the channels has no zeros of theirs
            t.zeroed and all(k is None or (len(t.shape) >= i and t.shape[-i] == shape[-i]) for i, k in _from_the_end(labels))
            for t in tensors
        ]
        return any(carriers) if name == "mul" else all(carriers[-1:] if name == "copy" else carriers) and len(tensors) == 2
    if name == "div":
        return tensors[0].zeroed and tensors[0].shape == shape
    if name == "constant_pad_nd":
        return tensors[0].zeroed and not call["value"]
    if name == "clamp":
        low, high = call["min"], call["max"]
        return len(tensors) == 1 and tensors[0].zeroed and (low is None or low <= 0) and (high is None or high >= 0)
    if name == "pow":
        return tensors[0].zeroed and isinstance(call["exponent"], int | float) and call["exponent"] > 0
    return name in _ZERO_IF_ALL and all(t.zeroed for t in tensors)


def _from_the_end(labels: Sequence[Labels]) -> Iterator[tuple[int, Labels]]:
    return enumerate(reversed(labels), start=1)


@rule("_prelu_kernel")
def prelu(call: Call, book: LabelBook) -> Sequence[list[Labels]]:
    return [broadcast(call.tensors, call.shapes[0], book)]


@rule("copy")
def copy_(call: Call, book: LabelBook) -> Sequence[list[Labels]]:
    return [broadcast([call["self"], call["src"]], call.shapes[0], book)]


# ------------------------------------------------------------------------------------- convolutions and products


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

    area, kernel = prod((x.shape if transposed else call.shapes[0])[2:]), weight.shape[2:]
    factors = [one_image(sized(weight, 0)), one_image(sized(weight, 1))]
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
    call.layer = Layer(area * prod(kernel), tuple(factors), filters, times)
    return [[None, outputs, *space]]


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


def sized(tensor: Traced, dim: int) -> np.ndarray:
    """The labels of a dimension for counting; channels that stay count as bound labels."""
    labels = tensor.labels[dim]
    return np.zeros(tensor.shape[dim], np.int64) if labels is None else labels


def one_image(labels: np.ndarray) -> np.ndarray:
    """The labels of one image where a view has laid the channels of all images of a batch one behind the other."""
    if len(labels) == 0 or len(labels) % BATCH:
        return labels
    images = labels.reshape(BATCH, -1)
    return images[0] if (images == images[0]).all() else labels.reshape(-1, BATCH)[:, 0]


def per_image(count: int) -> int:
    return count // BATCH if count % BATCH == 0 else count


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
        result = broadcast([bias, Traced(bias.source, call.shapes[0], result, False)], call.shapes[0], book)
        call.zeroed = call.zeroed and bias.zeroed and rows is None
    sizes = [sized(right, -1), sized(left, -1), sized(left, -2), *(sized(left, d) for d in range(len(lead)))]
    factors = tuple(one_image(labels) for labels in sizes)
    filters = None if left.static == right.static else columns if right.static else rows
    call.layer = Layer(per_image(prod(map(len, sizes))) // prod(map(len, factors)), factors, filters)
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


@rule("_euclidean_dist", "_cdist_forward")
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
    training = mean is None or call["training"] is True or Training()  # True: it is not the network's mode that decides
    centred = x.zeroed and (mean is None or mean.zeroed)
    call.zeroed = (centred if weight is None else weight.zeroed) and (bias is None or bias.zeroed)
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
    if call["use_input_stats"] is False:  # it keeps statistics, and updates them in training mode
        call["use_input_stats"] = Training()
    call.zeroed = x.zeroed and (call["bias"] is None or call["bias"].zeroed)
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
    call.zeroed = False
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
    call.drop = 1
    if groups == x.shape[1] and groups > 1 and call.op.startswith("aten.native") and len(x.shape) > 2:
        call.becomes("aten.instance_norm.default", x, weight, bias, None, None, True, 0.0, call["eps"], False)
        call.zeroed = x.zeroed and (bias is None or bias.zeroed)
        return [x.labels]
    if channels is not None:
        book.tie_rows(channels.reshape(groups, -1))
        book.mix(channels)
    call.becomes("aten.group_norm.default", x, groups, weight, bias, call["eps"])
    return [x.labels]


@rule("_weight_norm_interface")
def weight_norm(call: Call, book: LabelBook) -> Sequence[list[Labels]]:
    """Divides every filter by its norm; it cannot be zeroed, as zero by zero is not a number."""
    v, g = call["v"], call["g"]
    labels = broadcast([v, g], v.shape, book)
    book.mix(labels[call["dim"]])
    call.zeroed = v.zeroed
    return [labels, g.labels]


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
        if not (x.zeroed and call.op.startswith(("aten.sum.", "aten.norm.", "aten.linalg_vector_norm."))):
            book.mix(x.labels[dim])
    if len(call.shapes[0]) == len(x.shape):
        result = [None if d in reduced else x.labels[d] for d in everything]
    else:
        result = [x.labels[d] for d in everything if d not in reduced]
    return [result] * len(call.shapes)


RULES |= dict.fromkeys(
    ["mean", "sum", "amax", "amin", "max", "min", "var", "std", "var_mean", "std_mean", "argmax", "argmin", "prod",
     "linalg_vector_norm", "norm", "logsumexp", "median", "nansum", "count_nonzero", "any", "all"],
    reduction,
)  # fmt: skip


@rule("_softmax", "_log_softmax", "_safe_softmax", "softmax", "log_softmax", "cumsum")
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
        result.append(None if count % BATCH == 0 else book.fresh(count))
        sizes.append(size(result[-1], count))
        call.zeroed = call.zeroed and result[-1] is None
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
        if repeats[dim] == 1:
            result.append(inside)
        elif width == 1 or repeats[dim] % BATCH == 0:
            book.bind(inside)
            result.append(None if repeats[dim] % BATCH == 0 else book.fresh(count))
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
    rest = ("aten.reshape.default", [[-1 if count_images(n) else n for n in between]])
    (first, arguments), *call.then = [*merges, *([rest] if regrouped or not (merges or splits) else []), *splits]
    call.becomes(first, x, *arguments)
    return [result]


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
    labelled = [(d, labels) for d in dims if (labels := x.labels[d]) is not None]
    if len(labelled) > 1:
        labelled = [(d, labels) for d, labels in labelled if x.shape[d] > 1]
    if not labelled:
        return None
    # Two channel dimensions in one: nothing rectangular could be removed. One of them stays as it is: rather the copies
    # that an expand made than the channels of a parameter, and rather the size of a kernel than its channels.
    kept, channels = next((pair for pair in labelled if book.owner(pair[1]) is not None), labelled[0])
    for d, labels in labelled:
        if d != kept:
            book.bind(labels)
    shape = [x.shape[d] for d in dims]
    return np.broadcast_to(channels.reshape([-1 if d == kept else 1 for d in dims]), shape).ravel()


def split(flat: np.ndarray, sizes: list[int], key: Key, book: LabelBook) -> tuple[int, np.ndarray]:
    """Which of the new dimensions carries the channels, and their labels. A view that undoes a flatten is exact. Else it is
    the last one, as where channels fall into groups, or the first, as in a pixel shuffle; see ``trace``."""
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
    """One channel, which stays, whatever becomes of those before it."""
    x = call["self"]
    result = list(x.labels)
    labels = result.pop(normal_dim(call["dim"], len(x.shape)))
    if labels is not None:
        place = normal_dim(call["index"], len(labels))
        book.bind(labels[place : place + 1])
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
     "diag_embed", "col2im", "max_unpool2d", "affine_grid_generator", "linalg_inv_ex", "bucketize", "searchsorted"],
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


@rule("grid_sampler_2d", "grid_sampler_3d")
def grid_sampler(call: Call, book: LabelBook) -> Sequence[list[Labels]]:
    """Takes all channels from the same places."""
    x, grid = call["input"], call["grid"]
    for labels in (*x.labels[2:], *grid.labels):
        book.bind(labels)
    call.zeroed = x.zeroed
    return [[*x.labels[:2], *[None] * (len(x.shape) - 2)]]


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
    call["size"] = [size(labels, n) for labels, n in zip(result, shape, strict=True)]
    return [result]


RULES |= dict.fromkeys(["zeros_like", "ones_like", "full_like", "empty_like"], pointwise)


@rule("arange", "linspace", "scalar_tensor", "eye")
def table(call: Call, book: LabelBook) -> Sequence[list[Labels]]:
    return [[None] * len(shape) for shape in call.shapes]
