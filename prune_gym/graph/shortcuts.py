"""Results of frequent operators on the meta device, without PyTorch's own kernels for them.

Those are written in Python and would take most of the time of a trace.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from prune_gym.graph.copying import empty_like

_ELEMENTWISE = frozenset(
    f"{name}{inplace}" for inplace in ("", "_") for name in
    ("relu", "relu6", "hardtanh", "hardswish", "hardsigmoid", "silu", "gelu", "sigmoid", "add", "mul")
)  # fmt: skip
_BATCH_NORMS = frozenset(["native_batch_norm", "_native_batch_norm_legit", "_native_batch_norm_legit_no_training"])


def shortcut(func: torch._ops.OpOverload, args: Sequence[Any]) -> Any:
    """The result of a frequent operator, None for any other, and for arguments that are out of the ordinary."""
    name = func._opname
    if name in _BATCH_NORMS:
        unused = _empty((0,), args[0].dtype)
        return empty_like(args[0]), unused, unused
    if func is torch.ops.aten.convolution.default and len(args) == 9:
        return _convolution(*args)
    if func is torch.ops.aten.addmm.default:
        return _addmm(*args)
    if func is torch.ops.aten.native_layer_norm.default:
        return _layer_norm(*args)
    if name not in _ELEMENTWISE:
        return None
    first = args[0]
    if not isinstance(first, Tensor) or not first.is_floating_point():  # an integer times a float is none
        return None
    largest = first
    for other in args[1:]:
        if isinstance(other, complex):
            return None
        if isinstance(other, Tensor):
            if other.dtype != first.dtype:
                return None
            if not _broadcasts(other.shape, largest.shape):
                if not _broadcasts(largest.shape, other.shape):
                    return None
                largest = other
    if not name.endswith("_"):
        return empty_like(largest)
    return first if largest is first else None


def _broadcasts(shape: torch.Size, to: torch.Size) -> bool:
    if shape == to:
        return True
    return len(shape) <= len(to) and all(n in (1, m) for n, m in zip(reversed(shape), reversed(to), strict=False))


def _addmm(bias: Tensor, x: Tensor, weight: Tensor) -> Tensor | None:
    """The result of a linear layer on rows, None for anything else."""
    if x.ndim != 2 or weight.ndim != 2 or x.shape[1] != weight.shape[0] or not x.dtype == weight.dtype == bias.dtype:
        return None
    return _empty((x.shape[0], weight.shape[1]), x.dtype) if bias.shape == weight.shape[1:] else None


def _layer_norm(x: Tensor, shape: list, weight: Tensor | None, bias: Tensor | None, _: float) -> tuple[Tensor, ...] | None:
    """The results of a layer norm of a contiguous tensor in single or double precision, None for any other."""
    parameters = [tensor for tensor in (weight, bias) if tensor is not None]
    fits = list(x.shape[x.ndim - len(shape) :]) == list(shape) and all(list(tensor.shape) == list(shape) for tensor in parameters)
    if not fits or not x.is_contiguous() or x.dtype.itemsize < 4 or any(tensor.dtype != x.dtype for tensor in parameters):
        return None
    statistics = (*x.shape[: x.ndim - len(shape)], *[1] * len(shape))
    return empty_like(x), _empty(statistics, x.dtype), _empty(statistics, x.dtype)


def _convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: list,
    padding: list,
    dilation: list,
    transposed: bool,
    _: Any,
    groups: int,
) -> Tensor | None:
    """The result of an ordinary convolution, None for any other."""
    shape, kernel, n = x.shape, weight.shape, x.ndim - 2
    fits = weight.ndim == x.ndim and shape[1] == kernel[1] * groups and kernel[0] % groups == 0 and x.dtype == weight.dtype
    if transposed or not fits or not x.is_contiguous() or not len(stride) == len(padding) == len(dilation) == n:
        return None
    if bias is not None and (bias.shape != kernel[:1] or bias.dtype != x.dtype):
        return None
    space = [(shape[i + 2] + 2 * padding[i] - dilation[i] * (kernel[i + 2] - 1) - 1) // stride[i] + 1 for i in range(n)]
    return None if min(space) < 1 else _empty((shape[0], kernel[0], *space), x.dtype)


def _empty(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")
