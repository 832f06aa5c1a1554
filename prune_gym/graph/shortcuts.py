"""Results of frequent operators on the meta device, without PyTorch's own kernels for them.

Those are written in Python and would take most of the time of a trace.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from prune_gym.graph.copying import empty_like

_ELEMENTWISE = frozenset(
    f"{name}{inplace}" for inplace in ("", "_") for name in
    ("relu", "relu6", "hardtanh", "hardswish", "hardsigmoid", "silu", "gelu", "sigmoid", "add", "mul")
)  # fmt: skip
_BATCH_NORMS = frozenset(["native_batch_norm", "_native_batch_norm_legit", "_native_batch_norm_legit_no_training"])


def shortcut(func: torch._ops.OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """The result of a frequent operator, None for any other, and for arguments that are out of the ordinary."""
    name = func._opname
    if name in _BATCH_NORMS:
        unused = _empty((0,), args[0].dtype)
        return empty_like(args[0]), unused, unused
    if name not in _ELEMENTWISE:
        special = _SPECIAL.get(func)
        return None if special is None or kwargs else special(*args)
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


def _mean(x: Tensor, dims: Sequence[int] | None, keepdim: bool = False) -> Tensor | None:
    """The result of a mean over the last dimensions of a contiguous tensor, None for any other."""
    n = len(dims or ())
    is_last = n > 0 and sorted(dim + x.ndim if dim < 0 else dim for dim in dims or ()) == list(range(x.ndim - n, x.ndim))
    if not is_last or not x.is_contiguous() or not x.is_floating_point():
        return None
    return _empty((*x.shape[:-n], *[1] * n) if keepdim else x.shape[:-n], x.dtype)


def _cat(tensors: Sequence[Tensor], dim: int = 0) -> Tensor | None:
    """The result of joining contiguous tensors of one type, None for any others."""
    if not tensors or not -tensors[0].ndim <= dim < tensors[0].ndim:
        return None
    first, d = tensors[0], dim % tensors[0].ndim
    for x in tensors:
        same = x.ndim == first.ndim and x.shape[:d] == first.shape[:d] and x.shape[d + 1 :] == first.shape[d + 1 :]
        if not same or x.dtype != first.dtype or not x.is_contiguous():
            return None
    return _empty((*first.shape[:d], sum(x.shape[d] for x in tensors), *first.shape[d + 1 :]), first.dtype)


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


_SPECIAL: dict[torch._ops.OpOverload, Callable[..., Any]] = {
    torch.ops.aten.convolution.default: _convolution,
    torch.ops.aten.addmm.default: _addmm,
    torch.ops.aten.native_layer_norm.default: _layer_norm,
    torch.ops.aten.mean.dim: _mean,
    torch.ops.aten.cat.default: _cat,
}
