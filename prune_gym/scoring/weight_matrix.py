"""The weight of a consumer as a matrix, and the inputs that it is multiplied with: patches of an image, pixels, or rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from prune_gym.graph.channel_graph import Architecture
from prune_gym.graph.program import is_kept
from prune_gym.scoring.consumers import Call, Consumer

MAX_COLUMNS = 2400  # of a matrix of patches; 256 channels in a 3x3 kernel have 2,304
ROWS_PER_COLUMN = 50  # as many places of the images are enough for a Gram matrix


class WeightMatrix:
    """The weight of a consumer as a matrix, and the inputs that it is multiplied with.

    Attributes:
        values: (groups, rows, columns). A row is an output; with ``by_channel`` a pair of an output and a place of the kernel.
            A column is a pair of an input and a place of the kernel; with ``by_channel`` an input.
        columns: the unit of every column, -1 for what always stays, and a last one of the constant, if a bias or the like can
            take it.
        by_channel: whether the channels of a pixel are the columns.
    """

    def __init__(self, consumer: Consumer, weight: Tensor, units: Mapping[str, tuple[np.ndarray | None, ...]]):
        self.consumer = consumer
        owners = units[consumer.weight][1]
        assert owners is not None  # that is what makes it a consumer
        self._weight, self._row_owners = weight, units[consumer.weight][0]
        self.kernel = prod(weight.shape[2:])
        self.by_channel = len(owners) * self.kernel > MAX_COLUMNS
        if self.by_channel and weight.ndim == 2 and (area := _area(owners)) > 1:  # a linear layer behind a flattened image
            owners, self.kernel = owners[::area], area
        self.constant = bool(consumer.constants)
        self.values = self.of(weight)
        columns = owners if self.by_channel else np.repeat(owners, self.kernel)
        self.columns = np.append(columns, -1) if self.constant else columns

    def of(self, weight: Tensor) -> Tensor:
        """A weight of this consumer, of whatever widths, as a matrix; at least in single precision."""
        weight = _at_least_single(weight)
        by_place = weight.reshape(self.consumer.groups, weight.shape[0] // self.consumer.groups, -1, self.kernel)
        return by_place.mT.flatten(1, 2) if self.by_channel else by_place.flatten(2)

    def kept_columns(self, architecture: Architecture) -> np.ndarray:
        return is_kept(self.columns, architecture.mask)

    def rows_of(self, architecture: Architecture) -> Tensor:
        """The values of the outputs that an architecture keeps, (groups, rows, columns)."""
        if self._row_owners is None:
            return self.values
        kept = np.flatnonzero(is_kept(self._row_owners, architecture.mask))
        return self.of(self._weight[torch.from_numpy(kept).to(self._weight.device)])

    def row_count(self, architecture: Architecture) -> int:
        """How many rows a group has in an architecture."""
        if self._row_owners is None:
            return self.values.shape[1]
        kept = int(np.count_nonzero(is_kept(self._row_owners, architecture.mask)))
        return kept // self.consumer.groups * (self.kernel if self.by_channel else 1)

    def add(self, tensors: dict[str, Tensor], correction: Tensor) -> None:
        """Add a correction (groups, rows, columns) of the smaller matrix to the tensors of the smaller network."""
        weight = tensors[self.consumer.weight]
        if self.constant:
            offset = correction[:, :, -1]
            offset = (offset.unflatten(1, (-1, self.kernel)).sum(2) if self.by_channel else offset).flatten()
            correction = correction[:, :, :-1]
            for name, sign in self.consumer.constants.items():
                tensors[name] = tensors[name] + sign * offset.to(tensors[name].dtype)
        if self.by_channel:
            correction = correction.unflatten(1, (-1, self.kernel)).mT
        tensors[self.consumer.weight] = weight + correction.reshape(weight.shape).to(weight.dtype)

    def places(self, call: Call, arguments: Sequence) -> tuple[int, ...]:
        """The sizes of the input along which a call repeats the same product."""
        shape = tuple(arguments[call.input].shape)
        return (shape[0], *shape[2:]) if self._weight.ndim > 2 else shape[:-1]

    def inputs(self, call: Call, arguments: Sequence, kept: np.ndarray | None = None) -> Tensor:
        """What a call multiplies with, at places drawn from the images, (groups, places, columns), without the constant.
        ``kept``: which columns are there, if not all are."""
        x = arguments[call.input]
        columns = len(self.columns) - self.constant if kept is None else int(kept.sum()) - self.constant
        wanted = ROWS_PER_COLUMN * len(self.columns)
        if self._weight.ndim > 2:
            weight, stride, padding, dilation = arguments[1], *arguments[3:6]
            rows = _pixels(x, wanted) if self.by_channel else _patches(x, weight.shape[2:], stride, padding, dilation, wanted)
        else:
            rows = x.flatten(0, -2)
            rows = rows[_places(len(rows), wanted, rows.device)]
            if self.by_channel:
                rows = rows.unflatten(1, (-1, self.kernel)).mT.flatten(0, 1)
        return _at_least_single(rows).unflatten(1, (self.consumer.groups, columns)).transpose(0, 1)


def _at_least_single(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _area(owners: np.ndarray) -> int:
    """How many neighbouring columns each unit has, if all have as many; else 1."""
    changes = np.flatnonzero(np.diff(owners, prepend=owners[0] - 1))
    lengths = np.diff(changes, append=len(owners))
    return int(lengths[0]) if (lengths == lengths[0]).all() and (owners >= 0).all() else 1


def _places(available: int, wanted: int, device: torch.device) -> Tensor:
    """So many places, in ascending order, the same ones for the same numbers: all, or a random draw."""
    if available <= wanted:
        return torch.arange(available, device=device)
    drawn = np.random.default_rng(0).choice(available, wanted, replace=False, shuffle=False)
    return torch.from_numpy(np.sort(drawn)).to(device)


def _pixels(x: Tensor, wanted: int) -> Tensor:
    """Pixels of images (N, C, *space), (places, C)."""
    flat = x.flatten(2)
    places = _places(flat.shape[0] * flat.shape[2], wanted, x.device)
    return flat[places // flat.shape[2], :, places % flat.shape[2]]


def _patches(
    x: Tensor, kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int], wanted: int
) -> Tensor:
    """Patches of images (N, C, *space), as a convolution multiplies them, (places, C * kernel)."""
    padded = F.pad(x, [n for each in reversed(padding) for n in (each, each)])
    sizes = zip(padded.shape[2:], kernel, stride, dilation, strict=True)
    space = [(size - d * (k - 1) - 1) // s + 1 for size, k, s, d in sizes]
    images, channels, *along = padded.stride()
    strides = [step * n for by in (stride, dilation) for step, n in zip(along, by, strict=True)]
    windows = padded.as_strided((*x.shape[:2], *space, *kernel), (images, channels, *strides))
    image, *position = torch.unravel_index(_places(len(x) * prod(space), wanted, x.device), (len(x), *space))
    index: tuple[Tensor | slice, ...] = (image, slice(None), *position)
    return windows[index].flatten(1)
