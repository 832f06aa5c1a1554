"""Functions that the tracer records in one piece, before they fall apart into ATen operators.

PyTorch hands over every argument of a function, also one that the caller did not give.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from prune_gym.graph.operators import REPLACEMENTS
from prune_gym.graph.program import NESTS, leaves, operator


def _dropout(name: str) -> tuple[Any, Callable[..., dict[str, Any]]]:
    def given(input: Tensor, p: float, training: bool, inplace: bool) -> dict[str, Any]:
        return {"input": input, "p": p, "train": training}

    return getattr(torch.ops.aten, name).default, given


def _adaptive_avg_pool(n: int) -> tuple[Any, Callable[..., dict[str, Any]]]:
    def given(input: Tensor, output_size: Any) -> dict[str, Any]:
        sizes = [output_size] * n if isinstance(output_size, int) else list(output_size)
        sizes = [have if want is None else want for want, have in zip(sizes, input.shape[-n:], strict=True)]
        return {"self": input, "output_size": sizes}

    return getattr(torch.ops.aten, f"adaptive_avg_pool{n}d").default, given


def _instance_norm() -> tuple[Any, Callable[..., dict[str, Any]]]:
    def given(
        input: Tensor,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        weight: Tensor | None,
        bias: Tensor | None,
        use_input_stats: bool,
        momentum: float,
        eps: float,
    ) -> dict[str, Any]:
        return {
            "input": input, "weight": weight, "bias": bias, "running_mean": running_mean, "running_var": running_var,
            "use_input_stats": use_input_stats, "momentum": momentum, "eps": eps, "cudnn_enabled": True,
        }  # fmt: skip

    return torch.ops.aten.instance_norm.default, given


def _cdist() -> tuple[Any, Callable[..., dict[str, Any]]]:
    def given(x1: Tensor, x2: Tensor, p: float, compute_mode: str) -> dict[str, Any]:
        modes = ("use_mm_for_euclid_dist_if_necessary", "use_mm_for_euclid_dist", "donot_use_mm_for_euclid_dist")
        return {"x1": x1, "x2": x2, "p": p, "compute_mode": modes.index(compute_mode)}

    return torch.ops.aten.cdist.default, given


def _by_schema(func: torch._ops.OpOverload) -> Callable[..., dict[str, Any]]:
    return lambda *args, **kwargs: dict(zip((a.name for a in func._schema.arguments), args, strict=False)) | kwargs


def _upsample(
    input: Tensor,
    size: Any,
    scale_factor: Any,
    mode: str,
    align_corners: bool | None,
    recompute_scale_factor: bool | None,
    antialias: bool,
) -> tuple[torch._ops.OpOverload, dict[str, Any]] | None:
    """The operator of ``F.interpolate`` with a factor, None where the size is given or computed."""
    n = input.ndim - 2
    linear = {"linear": "linear1d", "bilinear": "bilinear2d", "bicubic": "bicubic2d", "trilinear": "trilinear3d"}
    if scale_factor is None or recompute_scale_factor or mode == "area":
        return None
    factors = list(scale_factor) if isinstance(scale_factor, list | tuple) else [scale_factor] * n
    given: dict[str, Any] = {"input": input, "output_size": None, "scale_factors": [float(factor) for factor in factors]}
    if mode in linear:
        name = f"_upsample_{linear[mode]}_aa" if antialias else f"upsample_{linear[mode]}"
        given["align_corners"] = bool(align_corners)
    else:
        name = f"upsample_nearest{n}d" if mode == "nearest" else f"_upsample_nearest_exact{n}d"
    return getattr(torch.ops.aten, name).vec, given


def _index(index: Any) -> Any:
    """An index with its lists as tensors, which PyTorch makes where nobody sees it, and with its masks as numbers."""
    if isinstance(index, tuple):
        return tuple(map(_index_of_one, index))
    return index if isinstance(index, list) and any(isinstance(item, NESTS) for item in index) else _index_of_one(index)


def _index_of_one(index: Any) -> Any:
    if isinstance(index, list | tuple | range) and all(isinstance(item, int) for item in leaves(list(index))):
        index = torch.tensor(list(index), dtype=None if len(index) else torch.int64)
    if isinstance(index, Tensor) and index.dtype is torch.bool and index.ndim == 1 and not index.is_meta:
        return index.nonzero().flatten()
    return index


INDEXING = (Tensor.__getitem__, Tensor.__setitem__)
CASTS = frozenset([
    Tensor.to, Tensor.type, Tensor.type_as, Tensor.float, Tensor.double, Tensor.half, Tensor.bfloat16,
])  # fmt: skip


def _casts(func: Any, args: tuple, kwargs: dict) -> bool:
    """Whether a call converts a tensor of the network to a type. Where it has that type already no operator is dispatched, but
    the network may run in another type later."""
    if func not in CASTS or not isinstance(args[0], Tensor) or not args[0].is_meta:
        return False
    return func is not Tensor.to or any(isinstance(given, torch.dtype | Tensor) for given in (*args[1:], *kwargs.values()))


class Composites(TorchFunctionMode):
    """Sees some functions before they fall apart into operators: those whose parts forget the training mode (dropout, instance
    norm), a scale that was given instead of a size (upsampling), which pooling it was (the paper's FLOPs count an adaptive
    pooling, not a mean), that there was a cast, or
    an index that is a list; and those whose parts depend on sizes (cdist)."""

    FUNCTIONS: ClassVar = {
        F.dropout: _dropout("dropout"),
        F.dropout1d: _dropout("feature_dropout"),
        F.dropout2d: _dropout("feature_dropout"),
        F.dropout3d: _dropout("feature_dropout"),
        F.alpha_dropout: _dropout("alpha_dropout"),
        F.feature_alpha_dropout: _dropout("feature_alpha_dropout"),
        F.adaptive_avg_pool1d: _adaptive_avg_pool(1),
        F.adaptive_avg_pool2d: _adaptive_avg_pool(2),
        F.adaptive_avg_pool3d: _adaptive_avg_pool(3),
        F.instance_norm: _instance_norm(),
        torch.cdist: _cdist(),
    }

    OPERATORS = frozenset(op for op, _ in FUNCTIONS.values()) | frozenset(map(operator, REPLACEMENTS))  # of PrunedNetworks

    HANDLED = (
        OPERATORS
        | FUNCTIONS.keys()
        | CASTS
        | {F.interpolate, torch.tensor, torch.as_tensor, torch.asarray, Tensor.new_tensor, *INDEXING}
    )

    def __init__(self, record: Callable[[torch._ops.OpOverload, dict[str, Any], Any], None]):
        super().__init__()
        self.record = record
        self.inside = False  # what such a function consists of is not recorded

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if func not in self.HANDLED:
            return func(*args, **kwargs)
        if func in (torch.tensor, torch.as_tensor, torch.asarray):  # what is not on a device keeps its values
            kwargs.pop("device", None)
        if func is Tensor.new_tensor:
            return torch.tensor(*args[1:], **{"dtype": args[0].dtype, **kwargs, "device": None})
        if func in INDEXING:
            return func(args[0], _index(args[1]), *args[2:])
        if self.inside:
            return func(*args, **kwargs)
        call = self._in_one_piece(func, args, kwargs)
        casts = _casts(func, args, kwargs)
        if call is None and not casts:
            return func(*args, **kwargs)
        self.inside = True
        try:
            result = func(*args, **kwargs)
            if any(result is argument for argument in (*args, *kwargs.values())):
                result = result.view_as(result)  # dropout in evaluation mode hands back its input
        finally:
            self.inside = False
        if call is not None:
            self.record(*call, result)
        elif isinstance(result, Tensor):  # x.type() is a string
            self.record(torch.ops.aten.to.dtype, {"self": args[0], "dtype": result.dtype}, result)
        return result

    def _in_one_piece(self, func: Any, args: tuple, kwargs: dict) -> tuple[torch._ops.OpOverload, dict[str, Any]] | None:
        """The operator to record for a function, and its arguments by name; None if its parts are to be recorded."""
        if func is F.interpolate:
            return _upsample(*args, **kwargs)
        known = (func, _by_schema(func)) if func in self.OPERATORS else self.FUNCTIONS.get(func)
        if known is None:
            return None
        op, to_given = known
        return op, to_given(*args, **kwargs)
