"""What kernels assume of their arguments, and a file may not break."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from prune_gym.surgery.admission import MAX_SCALE, check_tensors

IMAGES = torch.empty(2, 3, 8, 8, device="meta")
NEAREST = "aten.upsample_nearest2d.vec"


@pytest.mark.parametrize(
    "arguments",
    [[IMAGES, None, [2.0, 0.5]], [IMAGES, [4, 16], None], [IMAGES, None, [float(MAX_SCALE), 1 / MAX_SCALE]]],
)
def test_sizes_or_factors(arguments: list) -> None:
    check_tensors(NEAREST, arguments, {})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([IMAGES, None, None], "either output sizes or scales"),
        ([IMAGES, [4, 4], [2.0, 2.0]], "either output sizes or scales"),
        ([IMAGES, None, [2.0]], "one size or scale for each dimension"),
        ([IMAGES, [4, 4, 4], None], "one size or scale for each dimension"),
        ([IMAGES, [4, 0], None], "at least one pixel"),
        ([IMAGES[..., :0], None, [2.0, 2.0]], "at least one pixel"),
        ([IMAGES, None, [2.0, 2.0 * MAX_SCALE]], "scales from"),
        ([IMAGES, None, [0.5 / MAX_SCALE, 2.0]], "scales from"),
        ([IMAGES, None, [float("nan"), 2.0]], "scales from"),
    ],
)
def test_interpolations_that_a_kernel_cannot_take(arguments: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_tensors(NEAREST, arguments, {})


def meta(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


WEIGHT_NORM, FOURIER, MATRICES = "aten._weight_norm_interface.default", "aten._fft_r2c.default", "aten.mm.default"
CONVOLUTION, TABLE = "aten.conv2d.default", "aten.index.Tensor"
KERNEL = meta(4, 3, 3, 3)


@pytest.mark.parametrize(
    ("op", "arguments"),
    [
        (WEIGHT_NORM, [KERNEL, meta(4, 1, 1, 1)]),
        (WEIGHT_NORM, [meta(4, 3), meta(1, 3), 1]),
        (FOURIER, [IMAGES, [3, 2], 0, True]),
        (FOURIER, [IMAGES, [0], 0, True]),
        (MATRICES, [meta(2, 3), meta(3, 4)]),
        (CONVOLUTION, [IMAGES, KERNEL, None, [1, 1], [0, 0], [2, 1], 1]),
        (TABLE, [IMAGES, [None, meta(2, dtype=torch.int64)]]),
    ],
)
def test_what_kernels_can_take(op: str, arguments: list) -> None:
    check_tensors(op, arguments, {})


@pytest.mark.parametrize(
    ("op", "arguments", "message"),
    [
        (WEIGHT_NORM, [KERNEL, meta(4, 3, 1, 1)], "one norm per filter"),
        (WEIGHT_NORM, [KERNEL, meta(1, 3, 1, 1), 1], "the first or the last dimension"),
        (WEIGHT_NORM, [KERNEL, meta(4, 1, 1, 1, dtype=torch.float64)], "of the type of the weight"),
        (FOURIER, [IMAGES, [2, 4], 0, True], "different dimensions from 0 to 3"),
        (FOURIER, [IMAGES, [-1, 2], 0, True], "different dimensions from 0 to 3"),
        (FOURIER, [IMAGES, [2, 2], 0, True], "different dimensions from 0 to 3"),
        (FOURIER, [IMAGES, [], 0, True], "different dimensions from 0 to 3"),
        (MATRICES, [meta(2, 3), meta(3, 4, dtype=torch.float64)], "tensors of one type"),
        (CONVOLUTION, [IMAGES, KERNEL, None, [1, 1], [0, 0], [1, 0], 1], "a dilation of at least 1"),
        (TABLE, [IMAGES, [None, meta(3, dtype=torch.bool)]], "tables of int32 or int64"),
    ],
)
def test_what_kernels_cannot_take(op: str, arguments: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_tensors(op, arguments, {})
