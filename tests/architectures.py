"""Networks of the zoo with their graphs, and architectures of them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import zoo
from torch import Tensor, nn
from zoo import random_architecture

from prune_gym import Architecture, ChannelGraph, PrunedNetwork, compact, trace

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


class Residual(nn.Module):
    """A stem, two blocks, one of them grouped, and a head, with what a user hangs on a model."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(8)
        self.expand = nn.Conv2d(8, 12, 1)
        self.depthwise = nn.Conv2d(12, 12, 3, padding=1, groups=12)
        self.act = nn.PReLU(12)
        self.project = nn.Conv2d(12, 8, 1)
        self.norm = nn.GroupNorm(8, 8)
        self.drop = nn.Dropout(0.2)
        self.fc = nn.Linear(8, 4)
        self.classes = ["a", "b", "c", "d"]

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn(self.stem(x)))
        x = x + F.relu(self.norm(self.project(self.act(self.depthwise(self.expand(x))))))
        return self.fc(self.drop(x.mean((2, 3))))


def small_residual(dtype: torch.dtype = torch.float64) -> tuple[nn.Module, nn.Module, Tensor, PrunedNetwork]:
    """A network, its model form, images, and its program form."""
    model = zoo.prepare(Residual()).to(dtype)
    images = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0)).to(dtype)
    graph = trace(model, images)
    architecture = random_architecture(graph, 0)
    small = compact(model, graph, architecture, form="model")
    return model, small, images, compact(model, graph, architecture, form="program")
