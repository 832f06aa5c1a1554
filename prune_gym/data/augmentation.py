"""Random changes of training images that do not change what they show, for whole batches on their device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from prune_gym.arguments import AtLeast, Within, check_settings


@dataclass(frozen=True)
class Augmentation:
    """A random crop, a horizontal flip and a rotation, in this order; by default those of the RL-Pruner paper.

    Attributes:
        padding: pixels of black around the image, from which a part of the image's size is cut.
        flip: whether every second image, at random, is mirrored.
        degrees: images turn about their centre by an angle drawn from [-degrees, degrees], in [0, 180]. Every pixel is that
            of the nearest pixel before; corners become black.

    Raises ValueError or TypeError for a value out of range.
    """

    padding: Annotated[int, AtLeast(0)] = 4
    flip: bool = True
    degrees: Annotated[float, Within("[0, 180]")] = 15.0

    def __post_init__(self) -> None:
        check_settings(self)

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Change images (N, C, H, W) of any dtype, each in its own way; a new tensor like ``images``. Black is 0.

        All randomness comes from ``generator``, which may be on another device: the same one, on the CPU, changes images on
        any device in the same way.
        """
        shifts, flips, angles = self.draw(len(images), generator)
        return move(images, shifts.to(images.device), flips.to(images.device), angles.to(images.device))

    def draw(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """What happens to n images, on the generator's device: shifts (n, 2) int64, down and to the right, of the part that is
        cut out, in [-padding, padding]; flips (n,) bool; angles (n,) float32 in degrees, counter-clockwise."""
        device = generator.device
        shifts = torch.randint(-self.padding, self.padding + 1, (n, 2), generator=generator, device=device)
        flips = torch.rand(n, generator=generator, device=device) < (0.5 if self.flip else 0.0)
        angles = (2 * torch.rand(n, generator=generator, device=device) - 1) * self.degrees
        return shifts, flips, angles


def move(images: Tensor, shifts: Tensor, flips: Tensor, angles: Tensor) -> Tensor:
    """Crop, flip and rotate images (N, C, H, W) by the numbers that :meth:`Augmentation.draw` gives.

    The three are maps from positions to positions, so they are composed, from the last to the first, and the pixels are
    fetched once: whatever their dtype, they are copied and never blended.
    """
    height, width = images.shape[-2:]
    y, x = _rotated(angles, height, width)
    inside = _in_frame(y, x, height, width)
    x = torch.where(flips.view(-1, 1, 1), width - 1 - x, x)
    y, x = y + shifts[:, 0].view(-1, 1, 1), x + shifts[:, 1].view(-1, 1, 1)
    inside &= _in_frame(y, x, height, width)
    source = torch.where(inside, y * width + x, 0).flatten(1).unsqueeze(1).expand(-1, images.shape[1], -1)
    pixels = images.flatten(2).gather(2, source).view(images.shape)
    return pixels.masked_fill_(~inside.unsqueeze(1), 0)


def _rotated(angles: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Where the pixels of a rotated image come from: rows and columns (N, H, W), int64, some of them outside of the image."""
    # in double precision, so that hardly any position comes so near to half-way between two pixels that devices could differ
    cos, sin = torch.cos(angles.double().deg2rad()).view(-1, 1, 1), torch.sin(angles.double().deg2rad()).view(-1, 1, 1)
    down = (torch.arange(height, device=angles.device) - (height - 1) / 2).double().view(1, -1, 1)
    right = (torch.arange(width, device=angles.device) - (width - 1) / 2).double().view(1, 1, -1)
    y = (right * sin + down * cos + (height - 1) / 2).round().long()
    x = (right * cos - down * sin + (width - 1) / 2).round().long()
    return y, x


def _in_frame(y: Tensor, x: Tensor, height: int, width: int) -> Tensor:
    return (y >= 0) & (y < height) & (x >= 0) & (x < width)
