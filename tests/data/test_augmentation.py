"""Augmentation of a whole batch against torchvision's functions, image by image."""

from __future__ import annotations

from dataclasses import FrozenInstanceError

import pytest
import torch
import torchvision.transforms.v2.functional as slow
from torch import Tensor

from prune_gym.data.augmentation import Augmentation, move


def images(n: int, size: tuple[int, int] = (32, 32), channels: int = 3) -> Tensor:
    """Without black pixels, so that those that are filled in stand out."""
    return torch.randint(1, 256, (n, channels, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def one_by_one(batch: Tensor, padding: int, shifts: Tensor, flips: Tensor, angles: Tensor) -> Tensor:
    height, width = batch.shape[-2:]
    done = []
    for image, (down, right), flip, angle in zip(batch, shifts.tolist(), flips.tolist(), angles.tolist(), strict=True):
        cut = slow.crop(slow.pad(image, [padding]), padding + down, padding + right, height, width)
        done.append(slow.rotate(slow.horizontal_flip(cut) if flip else cut, angle))
    return torch.stack(done)


@pytest.mark.parametrize("size", [(32, 32), (9, 9), (12, 20)])
@pytest.mark.parametrize(
    "augmentation", [Augmentation(), Augmentation(degrees=180.0), Augmentation(0, False, 0.0), Augmentation(7, True, 0.0)]
)
def test_a_batch_is_what_torchvision_makes_image_by_image(augmentation: Augmentation, size: tuple[int, int]) -> None:
    batch, generator = images(100, size), torch.Generator().manual_seed(1)
    draws = augmentation.draw(100, generator)
    found, expected = move(batch, *draws), one_by_one(batch, augmentation.padding, *draws)
    differing = (found != expected).any(1).float().mean()  # positions half-way between two pixels go either way
    assert differing <= (1e-3 if augmentation.degrees else 0)
    assert torch.equal(augmentation(batch, torch.Generator().manual_seed(1)), found)


@pytest.mark.parametrize("angle", [90.0, -90.0, 180.0])
def test_right_angles_lose_nothing(angle: float) -> None:
    batch = images(3, (8, 8))
    still = torch.zeros(3, 2, dtype=torch.int64), torch.zeros(3, dtype=torch.bool)
    turned = move(batch, *still, torch.full((3,), angle))
    assert torch.equal(turned, batch.rot90(round(angle / 90), (2, 3)))  # counter-clockwise


def test_every_change_alone() -> None:
    batch = images(1, (3, 3), 1)
    none, still = torch.tensor([False]), torch.zeros(1, 2, dtype=torch.int64)
    zero = torch.zeros(1)
    assert torch.equal(move(batch, still, none, zero), batch)
    assert torch.equal(move(batch, still, ~none, zero), batch.flip(3))
    shifted = move(batch, torch.tensor([[1, -2]]), none, zero)
    expected = torch.zeros_like(batch)
    expected[..., :2, 2] = batch[..., 1:, 0]
    assert torch.equal(shifted, expected)


def test_the_changes_of_the_paper() -> None:
    assert Augmentation() == Augmentation(padding=4, flip=True, degrees=15.0)
    with pytest.raises(FrozenInstanceError):
        Augmentation().flip = False  # type: ignore[misc]


def test_nothing_to_do() -> None:
    batch = images(4)
    assert torch.equal(Augmentation(0, False, 0.0)(batch, torch.Generator()), batch)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float64, torch.bfloat16])
def test_any_dtype_is_moved_and_never_blended(dtype: torch.dtype) -> None:
    batch = images(10)
    found = Augmentation()(batch.to(dtype), torch.Generator().manual_seed(3))
    assert found.dtype == dtype
    assert torch.equal(found, Augmentation()(batch, torch.Generator().manual_seed(3)).to(dtype))
    assert torch.equal(batch, images(10))


def test_draws_have_the_promised_ranges() -> None:
    shifts, flips, angles = Augmentation(4, True, 15.0).draw(10_000, torch.Generator().manual_seed(0))
    assert shifts.unique().tolist() == list(range(-4, 5))
    assert abs(flips.float().mean() - 0.5) < 0.02
    assert -15 <= angles.min() < -14.9
    assert 14.9 < angles.max() <= 15
    assert abs(angles.mean()) < 0.3
    counts = torch.bincount(9 * (shifts[:, 0] + 4) + shifts[:, 1] + 4, minlength=81)
    assert counts.min() > 70  # 123 of each are expected
    assert not Augmentation(4, False).draw(100, torch.Generator())[1].any()


def test_only_the_generator_counts() -> None:
    batch = images(20)
    torch.manual_seed(1)
    state = torch.random.get_rng_state()
    first = Augmentation()(batch, torch.Generator().manual_seed(5))
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(2)
    assert torch.equal(Augmentation()(batch, torch.Generator().manual_seed(5)), first)
    assert not torch.equal(Augmentation()(batch, torch.Generator().manual_seed(6)), first)
    generator = torch.Generator().manual_seed(5)
    Augmentation()(batch, generator)
    assert not torch.equal(Augmentation()(batch, generator), first)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"padding": -1}, ValueError, r"padding: expected an integer >= 0, got -1"),
        ({"padding": 1.5}, ValueError, r"padding: .* got 1.5"),
        ({"flip": 1}, TypeError, r"flip: expected True or False, got 1"),
        ({"degrees": -1.0}, ValueError, r"degrees: expected a number in \[0, 180\], got -1.0"),
        ({"degrees": float("nan")}, ValueError, r"degrees: .* got nan"),
    ],
)
def test_bad_values(arguments: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Augmentation(**arguments)
