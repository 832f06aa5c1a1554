"""What agents see of a group's layers, against what the layers themselves say."""

from __future__ import annotations

import torch
from torch import nn

from prune_gym import trace
from prune_gym.graph.features import FEATURES, group_features
from prune_gym.tasks import Task


def test_a_network_of_many_kinds(tiny_task: Task) -> None:
    model, graph = tiny_task.model, tiny_task.graph
    rows = group_features(graph)
    assert rows.shape == (len(graph.groups), len(FEATURES))
    for group, row in zip(graph.groups, rows.tolist(), strict=True):
        layers = [model.get_submodule(name) for name in group.layers]
        first = layers[0]
        expected = (
            [0, first.in_channels // first.groups, first.out_channels, first.stride[0], first.kernel_size[0]]
            if isinstance(first, nn.Conv2d)
            else [1, first.in_features, first.out_features, 0, 1]  # type: ignore[union-attr]
        )
        assert row == [*expected, sum(layer.weight.numel() for layer in layers)]


def test_strides_and_transposed_convolutions() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 5, stride=2), nn.ConvTranspose2d(8, 6, 4, stride=3), nn.Conv2d(6, 5, 1))
    rows = group_features(trace(model.eval(), torch.zeros(1, 3, 16, 16)))
    assert rows.tolist() == [[0, 3, 8, 2, 5, 600], [0, 8, 6, 3, 4, 768]]
