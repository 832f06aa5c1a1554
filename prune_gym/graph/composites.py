"""Functions that the tracer records in one piece, before they fall apart into ATen operators."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from prune_gym.graph.operators import REPLACEMENTS
from prune_gym.graph.program import operator


def _dropout(name: str) -> tuple[Any, Callable[..., dict[str, Any]]]:
    def given(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> dict[str, Any]:
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
        running_mean: Tensor | None = None,
        running_var: Tensor | None = None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        use_input_stats: bool = True,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> dict[str, Any]:
        return {
            "input": input, "weight": weight, "bias": bias, "running_mean": running_mean, "running_var": running_var,
            "use_input_stats": use_input_stats, "momentum": momentum, "eps": eps, "cudnn_enabled": True,
        }  # fmt: skip

    return torch.ops.aten.instance_norm.default, given


def _cdist() -> tuple[Any, Callable[..., dict[str, Any]]]:
    def given(
        x1: Tensor, x2: Tensor, p: float = 2.0, compute_mode: str = "use_mm_for_euclid_dist_if_necessary"
    ) -> dict[str, Any]:
        modes = ("use_mm_for_euclid_dist_if_necessary", "use_mm_for_euclid_dist", "donot_use_mm_for_euclid_dist")
        return {"x1": x1, "x2": x2, "p": p, "compute_mode": modes.index(compute_mode)}

    return torch.ops.aten.cdist.default, given


def _by_schema(func: torch._ops.OpOverload) -> Callable[..., dict[str, Any]]:
    return lambda *args, **kwargs: dict(zip((a.name for a in func._schema.arguments), args, strict=False)) | kwargs


def _upsampling() -> dict[Any, tuple[Any, Callable[..., dict[str, Any]]]]:
    kinds = ["nearest1d", "nearest2d", "nearest3d", "linear1d", "bilinear2d", "bicubic2d", "trilinear3d"]
    names = [f"upsample_{kind}" for kind in kinds] + [f"_upsample_nearest_exact{n}d" for n in (1, 2, 3)]
    names += ["_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa"]
    operators = {getattr(torch._C._nn, name): getattr(torch.ops.aten, name).vec for name in names}
    return {function: (op, _by_schema(op)) for function, op in operators.items()}


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
    """Sees some functions before they fall apart into operators: those whose parts forget the training mode (dropout,
    instance norm), a size that is given as a factor (upsampling), which pooling it was (the paper's FLOPs count an adaptive
    pooling, not a mean), or that there was a cast, and those that fall apart differently for different sizes (cdist)."""

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
        **_upsampling(),
    }

    OPERATORS = frozenset(op for op, _ in FUNCTIONS.values()) | frozenset(map(operator, REPLACEMENTS))  # of PrunedNetworks

    def __init__(self, record: Callable[[torch._ops.OpOverload, dict[str, Any], Any], None]):
        super().__init__()
        self.record = record
        self.inside = False  # what such a function consists of is not recorded

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if func in (torch.tensor, torch.as_tensor, torch.asarray):  # what is not on a device keeps its values
            kwargs.pop("device", None)
        if func is Tensor.new_tensor:
            return torch.tensor(*args[1:], **{"dtype": args[0].dtype, **kwargs, "device": None})
        known = (func, _by_schema(func)) if func in self.OPERATORS else self.FUNCTIONS.get(func)
        casts = _casts(func, args, kwargs)
        if self.inside or (known is None and not casts):
            return func(*args, **kwargs)
        self.inside = True
        try:
            result = func(*args, **kwargs)
            if any(result is argument for argument in (*args, *kwargs.values())):
                result = result.view_as(result)  # dropout in evaluation mode hands back its input
        finally:
            self.inside = False
        if known is not None:
            op, to_given = known
            self.record(op, to_given(*args, **kwargs), result)
        elif isinstance(result, Tensor):  # x.type() is a string
            self.record(torch.ops.aten.to.dtype, {"self": args[0], "dtype": result.dtype}, result)
        return result
