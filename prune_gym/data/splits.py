"""Images and their labels, how they are stored, and how they become a network's input."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from prune_gym.arguments import check_integer, check_number
from prune_gym.data.augmentation import Augmentation
from prune_gym.data.sampling import shuffled, stratified


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
    """Images and their labels, on one device; an immutable view of your tensors, which are not copied.

    There are two kinds. Floating-point images are what the network takes. Images of type uint8 have a ``normalization`` that
    turns them into what the network takes, batch by batch; they need a quarter of the memory. :meth:`inputs` and
    :meth:`batches` give the network's input for both kinds.

    Attributes:
        images: (N, C, H, W) with N >= 1, either floating point, or uint8 in 0 .. 255 with a ``normalization``.
        labels: (N,), int64; the class of each image, from 0.
        normalization: for uint8 images, and for those alone, with one mean and standard deviation per channel.

    Raises:
        TypeError: an argument that is no tensor, or of another dtype.
        ValueError: no images, another number of labels than of images, tensors on two devices, or another number of
            channels than the normalization has.

    Example:
        >>> images = torch.rand(20, 3, 32, 32)
        >>> split = Split(images, torch.arange(20) % 10)
        >>> pixels = Split((images * 255).to(torch.uint8), split.labels, Normalization((0.5,) * 3, (0.25,) * 3))
    """

    images: Tensor
    labels: Tensor
    normalization: Normalization | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.normalization, Normalization | None):
            raise TypeError(f"normalization: expected a Normalization or None, got {_kind(self.normalization)}.")
        if self.normalization is None and not (isinstance(self.images, Tensor) and self.images.is_floating_point()):
            raise TypeError(
                "images: expected a floating-point tensor (N, C, H, W) as the network takes it, or uint8 with a "
                f"normalization, got {_kind(self.images)}."
            )
        if self.normalization is not None and not (isinstance(self.images, Tensor) and self.images.dtype == torch.uint8):
            raise TypeError(f"images: expected a uint8 tensor (N, C, H, W) beside a normalization, got {_kind(self.images)}.")
        if not isinstance(self.labels, Tensor) or self.labels.dtype != torch.int64:
            raise TypeError(
                f"labels: expected an int64 tensor (N,), the class of each image, got {_kind(self.labels)}; convert integers "
                "with labels.long()."
            )
        shape = tuple(self.images.shape)
        if 0 in shape or not shape:
            raise ValueError(f"images: expected at least one image of at least one pixel, got shape {shape}.")
        if shape[:1] != self.labels.shape:
            raise ValueError(f"labels: expected one for each of {shape[0]} images, got shape {tuple(self.labels.shape)}.")
        if self.images.device != self.labels.device:
            raise ValueError(
                f"labels: expected them on the device of the images, {self.images.device}, got {self.labels.device}."
            )
        channels = None if self.normalization is None else len(self.normalization.mean)
        if channels is not None and (len(shape) != 4 or shape[1] != channels):
            raise ValueError(
                f"images: expected shape (N, {channels}, H, W), a channel for each mean of the normalization, got {shape}."
            )

    def __len__(self) -> int:
        return len(self.labels)

    def inputs(self, rows: slice | Tensor = slice(None), augment: Callable[[Tensor], Tensor] = lambda images: images) -> Tensor:
        """What the network takes, (n, C, H, W) floating point, for some rows: a slice or a tensor of indices, by default all.

        ``augment`` changes the stored images, before they are normalised.
        """
        images = augment(self.images[rows])
        return images if self.normalization is None else self.normalization(images)

    def batches(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """What the network takes (n, C, H, W) and its labels (n,), in order; n is ``size``, and may be less in the last batch.

        Raises TypeError or ValueError unless ``size`` is an integer >= 1.
        """
        check_integer("size", size, 1)
        parts = (slice(start, start + size) for start in range(0, len(self), size))
        return ((self.inputs(rows), self.labels[rows]) for rows in parts)

    def subset(self, rows: slice | Tensor) -> Split:
        """The split of some rows: a slice (nothing is copied) or a tensor of indices."""
        return Split(self.images[rows], self.labels[rows], self.normalization)

    def sample(self, n: int, seed: int = 0) -> Split:
        """A random draw of ``n`` images, as many of each class as the counts allow, in the order of this split; all images if
        there are no more. The draw depends on the labels and on ``seed`` alone; see
        :func:`prune_gym.data.sampling.stratified`.

        Raises TypeError or ValueError unless ``n`` is an integer >= 1 and ``seed`` one >= 0.
        """
        check_integer("n", n, 1)
        check_integer("seed", seed, 0)
        return self.subset(torch.from_numpy(stratified(self.labels.cpu().numpy(), n, seed)).to(self.labels.device))

    def shuffled(self, seed: int = 0) -> Split:
        """The same images in a random order that depends on their number and on ``seed`` alone."""
        return self.subset(torch.from_numpy(shuffled(len(self), seed)).to(self.labels.device))

    def to(self, device: torch.device | str) -> Split:
        """The split on a device; tensors that are there already are not copied."""
        return Split(self.images.to(device), self.labels.to(device), self.normalization)


def _kind(value: object) -> str:
    return str(value.dtype) if isinstance(value, Tensor) else type(value).__name__


def check_finite(argument: str, images: Tensor) -> None:
    """Raise ValueError, with the number of the first such image, if a pixel is NaN or infinite."""
    if images.is_floating_point() and not all(bool(extreme.isfinite()) for extreme in images.aminmax()):  # NaN spreads to both
        row = int((~images.isfinite()).reshape(len(images), -1).any(1).nonzero()[0])
        raise ValueError(f"{argument}: expected finite numbers as pixels, got nan or inf in image {row}.")


def check_labels(labels: Tensor, logits: object, where: str = "") -> None:
    """Raise TypeError unless ``logits``, a network's output, is one tensor (N, classes), and ValueError unless ``labels`` are
    among these classes; ``where`` says in the error where they come from."""
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        got = f"a tensor of shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else type(logits).__name__
        raise TypeError(f"model: expected one tensor of logits (N, classes) as its output, got {got}.")
    low, high, classes = int(labels.min()), int(labels.max()), logits.shape[1]
    if not 0 <= low <= high < classes:
        raise ValueError(f"labels: expected classes 0 .. {classes - 1}, as many as the network has, got {low} .. {high}{where}.")


@dataclass(frozen=True)
class Splits:
    """A data set: its training, validation and test images.

    Attributes:
        train: what networks are trained on.
        val: rewards read the accuracy on these images.
        test: only reported.
        classes: how many there are; labels are 0 .. ``classes`` - 1.
        augmentation: random changes of training images that leave their labels true; None if there are none.

    Raises TypeError or ValueError for anything else.
    """

    train: Split
    val: Split
    test: Split
    classes: int
    augmentation: Augmentation | None = None

    def __post_init__(self) -> None:
        check_integer("classes", self.classes, 1)
        for name in ("train", "val", "test"):
            split = getattr(self, name)
            if not isinstance(split, Split):
                raise TypeError(f"{name}: expected a Split, got {type(split).__name__}.")
            low, high = int(split.labels.min()), int(split.labels.max())
            if not 0 <= low <= high < self.classes:
                raise ValueError(f"{name}: expected labels 0 .. {self.classes - 1}, got {low} .. {high}.")
        if not isinstance(self.augmentation, Augmentation | None):
            raise TypeError(f"augmentation: expected an Augmentation or None, got {type(self.augmentation).__name__}.")
