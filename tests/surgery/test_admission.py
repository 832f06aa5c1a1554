"""What kernels assume of an interpolation by sizes or by factors, and a file may not break."""

from __future__ import annotations

import pytest
import torch

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
