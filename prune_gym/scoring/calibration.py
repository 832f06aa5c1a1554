"""Calibration images: how many there are of them, and whether a network can take them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from prune_gym.data.splits import Split, check_finite
from prune_gym.graph.channel_graph import ChannelGraph

RECALIBRATION_IMAGES = 256
COMPENSATION_IMAGES = 1024
MAX_PIXELS = 2**23  # of all calibration images together, as a layer's outputs for all of them are in memory at once


def how_many(wanted: int, data: Split) -> int:
    """How many calibration images are drawn from ``data``: as many as wanted, fewer if they are large or not there."""
    return min(wanted, len(data), max(1, MAX_PIXELS // data.images[0, 0].numel()))


@torch.no_grad()
def check_images(tensors: Mapping[str, Tensor], graph: ChannelGraph, images: Tensor) -> object:
    """Raise TypeError or ValueError for images that the network cannot take; gives its output for the first one."""
    if not isinstance(images, Tensor) or images.ndim < 2 or not len(images):
        raise TypeError("images: expected a tensor (N, C, H, W) with at least one image.")
    own = {name: tensor.clone() for name, tensor in tensors.items()}  # as a forward pass may write to its buffers
    try:
        output = graph.program.at(graph.full().mask).run(own, [images[:1]])
    except (RuntimeError, ValueError) as error:
        got = f"{images.dtype} {tuple(images.shape)} on {images.device}"
        raise ValueError(f"images: expected what the model takes, got {got}, which it cannot take ({error}).") from error
    check_finite("images", images)
    return output
