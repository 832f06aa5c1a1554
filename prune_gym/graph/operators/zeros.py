"""Where zeroed channels stay zero, so that a masked network computes what the smaller one does."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from prune_gym.graph.labels import Labels
from prune_gym.graph.operators.call import Call

# Where their operands (all of them, one, or the first) are zero, these give zero.
_ZERO_IF_ALL = frozenset(
    ["neg", "abs", "sign", "sqrt", "sin", "tan", "tanh", "erf", "expm1", "log1p", "round", "floor", "ceil", "trunc", "relu",
     "relu6", "leaky_relu", "_prelu_kernel", "elu", "celu", "gelu", "silu", "mish", "hardswish", "hardshrink", "softshrink",
     "clone", "detach", "alias", "_to_copy", "to", "dropout", "feature_dropout", "native_dropout", "reshape", "flatten",
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


def labels_that_cannot_be_zeroed(call: Call, labels: Sequence[Labels]) -> list[Labels]:
    """The labels of channels that cannot be zeroed, as a division by them would give infinity, or nothing at all."""
    name = call.op.split(".")[1].removesuffix("_")
    exponent = call["exponent"] if name == "pow" else 0
    negative = isinstance(exponent, int | float) and exponent < 0
    if not (name in ("div", "reciprocal", "rsqrt", "log", "log2", "log10") or negative):
        return []
    divisor, shape = call.tensors[0] if negative else call.tensors[-1], call.shapes[0]
    if not divisor.zeroed or (name == "div" and len(call.tensors) == 1):
        return []
    return [k for i, k in _from_the_end(labels) if len(divisor.shape) >= i and divisor.shape[-i] == shape[-i]]


def _from_the_end(labels: Sequence[Labels]) -> Iterator[tuple[int, Labels]]:
    return enumerate(reversed(labels), start=1)
