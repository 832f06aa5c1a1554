"""Results on the meta device without PyTorch's kernels: what they are PyTorch's, or left to it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from prune_gym.graph.shortcuts import shortcut

aten = torch.ops.aten


def meta(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def convolution(x: Tensor, weight: Tensor, bias: Tensor | None, groups: int = 1) -> tuple[Any, ...]:
    n = x.ndim - 2
    return x, weight, bias, [2] * n, [1] * n, [1] * n, False, [0] * n, groups


X, DOUBLE, INTEGERS = meta(2, 6, 8, 8), meta(2, 6, 8, 8, dtype=torch.float64), meta(2, 6, 8, 8, dtype=torch.int64)
SHORT = {
    "relu": (aten.relu.default, (X,)),
    "a sum": (aten.add.Tensor, (X, X)),
    "a product with a number": (aten.mul.Tensor, (X, 2)),
    "a gate": (aten.mul.Tensor, (X, meta(2, 6, 1, 1))),
    "the other way round": (aten.mul.Tensor, (meta(2, 6, 1, 1), X)),
    "along other dimensions": (aten.add.Tensor, (X, meta(8))),
    "along others, the other way round": (aten.mul.Tensor, (meta(6, 1, 8), X)),
    "in place": (aten.add_.Tensor, (X, meta(1, 6, 1, 1))),
    "along the last dimension": (aten.add.Tensor, (X, meta(8))),
    "a mean over the image": (aten.mean.dim, (X, [-1, -2])),
    "a mean that keeps dimensions": (aten.mean.dim, (X, [2, 3], True)),
    "tensors one behind the other": (aten.cat.default, ([X, meta(3, 6, 8, 8)],)),
    "channels joined": (aten.cat.default, ([X, meta(2, 0, 8, 8), X], -3)),
    "a convolution": (aten.convolution.default, convolution(X, meta(4, 6, 3, 3), meta(4))),
    "a grouped one": (aten.convolution.default, convolution(X, meta(4, 3, 3, 5), None, 2)),
    "of signals": (aten.convolution.default, convolution(meta(2, 6, 9), meta(4, 6, 3), None)),
    "a linear layer": (aten.addmm.default, (meta(4), meta(5, 6), meta(6, 4))),
    "a layer norm": (aten.native_layer_norm.default, (X, [8], meta(8), meta(8), 1e-5)),
    "over several dimensions": (
        aten.native_layer_norm.default,
        (DOUBLE, [6, 8, 8], meta(6, 8, 8, dtype=torch.float64), None, 1e-5),
    ),
    "over all of them": (aten.native_layer_norm.default, (X, [2, 6, 8, 8], None, None, 1e-5)),
}
LEFT_TO_PYTORCH = {
    "sine": (aten.sin.default, (X,)),
    "of integers": (aten.relu.default, (INTEGERS,)),
    "a sum of two types": (aten.add.Tensor, (X, DOUBLE)),
    "times integers": (aten.mul.Tensor, (X, INTEGERS)),
    "a complex number": (aten.mul.Tensor, (X, 2j)),
    "larger in both": (aten.add.Tensor, (meta(2, 1, 8, 8), meta(2, 6, 1, 1))),
    "a mean over channels": (aten.mean.dim, (X, [1])),
    "a mean over everything": (aten.mean.dim, (X, None)),
    "a mean over a dimension twice": (aten.mean.dim, (X, [-1, 3])),
    "a mean over a dimension that is not there": (aten.mean.dim, (X, [4, 7])),
    "a mean of a number": (aten.mean.dim, (meta(), [0])),
    "a mean in another memory format": (aten.mean.dim, (X.mT, [2, 3])),
    "two types joined": (aten.cat.default, ([X, DOUBLE], 1)),
    "other sizes joined": (aten.cat.default, ([X, meta(2, 6, 8, 9)], 1)),
    "nothing joined": (aten.cat.default, ([],)),
    "an empty tensor joined": (aten.cat.default, ([X, meta(0)], 1)),
    "along a dimension that is not there": (aten.cat.default, ([X, X], 4)),
    "another memory format joined": (aten.cat.default, ([X, X.mT], 1)),
    "channels that do not fit": (aten.convolution.default, convolution(X, meta(4, 5, 3, 3), None)),
    "a weight of another type": (aten.convolution.default, convolution(DOUBLE, meta(4, 6, 3, 3), None)),
    "a bias that does not fit": (aten.convolution.default, convolution(X, meta(4, 6, 3, 3), meta(5))),
    "a bias of another type": (aten.convolution.default, convolution(X, meta(4, 6, 3, 3), meta(4, dtype=torch.float64))),
    "a kernel larger than the image": (aten.convolution.default, convolution(X, meta(4, 6, 11, 3), None)),
    "columns that do not fit": (aten.addmm.default, (meta(4), meta(5, 7), meta(6, 4))),
    "a row of biases for each image": (aten.addmm.default, (meta(5, 4), meta(5, 6), meta(6, 4))),
    "a linear layer of another type": (aten.addmm.default, (meta(4), meta(5, 6), meta(6, 4, dtype=torch.float64))),
    "a layer norm of another memory format": (aten.native_layer_norm.default, (X.mT, [8], None, None, 1e-5)),
    "in half precision": (aten.native_layer_norm.default, (meta(2, 8, dtype=torch.bfloat16), [8], None, None, 1e-5)),
    "over other dimensions": (aten.native_layer_norm.default, (X, [6, 8], None, None, 1e-5)),
    "a scale that does not fit": (aten.native_layer_norm.default, (X, [8], meta(6), None, 1e-5)),
    "a shift of another type": (aten.native_layer_norm.default, (X, [8], None, meta(8, dtype=torch.float64), 1e-5)),
    "another memory format": (aten.convolution.default, convolution(X.mT, meta(4, 6, 3, 3), None)),
}  # fmt: skip


@pytest.mark.parametrize("name", SHORT)
def test_results_of_frequent_operators(name: str) -> None:
    func, args = SHORT[name]
    result, expected = shortcut(func, args, {}), func(*args)
    assert result is not None
    results, wanted = (each if isinstance(each, tuple) else (each,) for each in (result, expected))
    for found, other in zip(results, wanted, strict=True):
        assert (found.shape, found.dtype, found.stride(), found.device) == (
            other.shape, other.dtype, other.stride(), other.device
        )  # fmt: skip


def test_a_mean_of_another_type_is_left_to_pytorch() -> None:
    assert shortcut(aten.mean.dim, (X, [2, 3]), {"dtype": torch.float64}) is None


@pytest.mark.parametrize("name", LEFT_TO_PYTORCH)
def test_what_is_left_to_pytorch(name: str) -> None:
    assert shortcut(*LEFT_TO_PYTORCH[name], {}) is None
