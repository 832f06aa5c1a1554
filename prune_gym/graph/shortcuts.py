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
    """The result of a frequent operator that keeps the shape and the type of its input, None for any other operator."""
    name = func._opname
    if name in _BATCH_NORMS:
        unused = torch.empty_strided((0,), (1,), dtype=args[0].dtype, device="meta")
        return empty_like(args[0]), unused, unused
    if func is torch.ops.aten.convolution.default and len(args) == 9:
        return _convolution(*args)
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
    return shape == to or (len(shape) == len(to) and all(n in (1, m) for n, m in zip(shape, to, strict=True)))


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
    return None if min(space) < 1 else torch.empty((shape[0], kernel[0], *space), dtype=x.dtype, device="meta")
