"""Images and labels: what is kept, and what the network gets to see of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from prune_gym.arguments import check_number
from prune_gym.data.augmentation import Augmentation


@dataclass(frozen=True)
class Normalization:
    """How pixels in 0 .. 255 become a network's input: (pixel / 255 - mean) / std, one mean and std for every channel.

    Raises TypeError or ValueError unless there are as many means as standard deviations, and those are positive.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        for name, values, interval in (("mean", self.mean, "(-inf, inf)"), ("std", self.std, "(0, inf)")):
            if not isinstance(values, tuple):
                raise TypeError(f"{name}: expected a tuple of numbers, one for each channel, got {values!r}.")
            for value in values:
                check_number(name, value, interval)
        if not 0 < len(self.mean) == len(self.std):
            raise ValueError(f"std: expected a number for each mean of {self.mean}, got {self.std}.")

    def __call__(self, pixels: Tensor) -> Tensor:
        """(N, C, H, W) uint8 -> the same as float32, on the same device."""
        mean, std = _constants(self, pixels.device)
        return pixels.float().div_(255).sub_(mean).div_(std)


@cache
def _constants(normalization: Normalization, device: torch.device) -> tuple[Tensor, Tensor]:
    """Mean and std (C, 1, 1) on a device, copied there once: a copy would make every batch wait for the GPU."""
    mean, std = (torch.tensor(values, device=device).view(-1, 1, 1) for values in (normalization.mean, normalization.std))
    return mean, std


@dataclass(frozen=True)
class Split:
    """Images and their labels, on one device.

    Attributes:
        images: (N, C, H, W), floating point as the network takes them, or uint8 with a ``normalization``, which takes a
            quarter of the memory. Use :meth:`inputs`, which gives the network's input for both.
        labels: (N,), int64.
        normalization: for uint8 images, and for those alone.

    Raises TypeError or ValueError for anything else.
    """

    images: Tensor
    labels: Tensor
    normalization: Normalization | None = None

    def __post_init__(self) -> None:
        if self.normalization is None and not (isinstance(self.images, Tensor) and self.images.is_floating_point()):
            raise TypeError(
                "images: expected a floating-point tensor (N, C, H, W) as the network takes it, or uint8 with a "
                f"normalization, got {_kind(self.images)}."
            )
        if self.normalization is not None and not (isinstance(self.images, Tensor) and self.images.dtype == torch.uint8):
            raise TypeError(f"images: expected a uint8 tensor (N, C, H, W) beside a normalization, got {_kind(self.images)}.")
        if not isinstance(self.labels, Tensor) or self.labels.dtype != torch.int64:
            raise TypeError(f"labels: expected an int64 tensor (N,), got {_kind(self.labels)}; convert it with labels.long().")
        if self.images.shape[:1] != self.labels.shape or len(self.labels) == 0:
            raise ValueError(
                f"labels: expected one for each of {len(self.images)} images and at least one, "
                f"got shape {tuple(self.labels.shape)}."
            )
        channels = None if self.normalization is None else len(self.normalization.mean)
        if channels is not None and (self.images.ndim != 4 or self.images.shape[1] != channels):
            raise ValueError(
                f"images: expected shape (N, {channels}, H, W), a channel for each mean of the normalization, "
                f"got {tuple(self.images.shape)}."
            )

    def __len__(self) -> int:
        return len(self.labels)

    def inputs(self, rows: slice | Tensor = slice(None), augment: Callable[[Tensor], Tensor] = lambda images: images) -> Tensor:
        """What the network takes, (n, C, H, W) floating point, for some rows: a slice or a tensor of indices, by default all.

        ``augment`` changes the images as they are kept, before they are normalised.
        """
        images = augment(self.images[rows])
        return images if self.normalization is None else self.normalization(images)

    def batches(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """What the network takes, with its labels, in order, ``size`` images at a time."""
        for start in range(0, len(self), size):
            rows = slice(start, start + size)
            yield self.inputs(rows), self.labels[rows]

    def subset(self, rows: slice | Tensor) -> Split:
        """The split of some rows: a slice (nothing is copied) or a tensor of indices."""
        return Split(self.images[rows], self.labels[rows], self.normalization)

    def to(self, device: torch.device) -> Split:
        return Split(self.images.to(device), self.labels.to(device), self.normalization)


def _kind(value: object) -> str:
    return str(value.dtype) if isinstance(value, Tensor) else type(value).__name__


@dataclass(frozen=True)
class Splits:
    """A data set. Rewards read validation; test is only reported.

    Attributes:
        classes: labels are 0 .. ``classes`` - 1.
        augmentation: changes that leave the labels of these images true, for training; None if there are none.
    """

    train: Split
    val: Split
    test: Split
    classes: int
    augmentation: Augmentation | None = None
