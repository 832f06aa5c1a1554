"""Networks of the zoo with their graphs, and architectures of them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import zoo
from torch import Tensor, nn

from prune_gym import Architecture, ChannelGraph, trace

MIXED = [name for name, entry in zoo.NETWORKS.items() if any(group[-1] for group in entry.groups)]
UNMIXED = [name for name in zoo.NETWORKS if name not in MIXED]


def traced(name: str) -> tuple[nn.Module, list[Tensor], ChannelGraph]:
    model, images = zoo.built(name), zoo.inputs(zoo.NETWORKS[name].shapes)
    return model, images, trace(model, images)


def only(graph: ChannelGraph, architecture: Architecture, wanted: Callable[[Any], bool]) -> Architecture:
    """The same, but with all units of the groups that are not wanted."""
    kept = [k if wanted(group) else np.ones_like(k) for group, k in zip(graph.groups, architecture.kept, strict=True)]
    return graph.architecture(kept)


def zeroed_by_hand(model: nn.Module, graph: ChannelGraph, architecture: Architecture) -> nn.Module:
    """A copy with zeros in everything that a removed unit owns, entry by entry."""
    zeroed = copy.deepcopy(model)
    tensors = {name: tensor.data for name, tensor in [*zeroed.named_parameters(), *zeroed.named_buffers()]}
    for group, kept in zip(graph.groups, architecture.kept, strict=True):
        for piece in group.slices:
            for unit in np.flatnonzero(~kept):
                for index in piece.indices[unit]:
                    if piece.tensor in tensors:
                        tensors[piece.tensor].select(piece.dim, int(index)).zero_()
    return zeroed
