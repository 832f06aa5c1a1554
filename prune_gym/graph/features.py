"""What is known of a group's layers before any pruning: the numbers that agents which go layer by layer see."""

from __future__ import annotations

import numpy as np

from prune_gym.graph.channel_graph import ChannelGraph
from prune_gym.graph.program import Named

FEATURES = ("is_linear", "inputs", "outputs", "stride", "kernel", "weights")


def group_features(graph: ChannelGraph) -> np.ndarray:
    """For every group, of its first layer: whether it is a linear layer, its input and output channels as its weight has them,
    its stride (0 for a linear layer) and the side of its kernel (1 for a linear layer); and the weights of all its layers. int64
    (groups, 6), in the order of :data:`FEATURES`, which is that of AMC's state."""
    strides = {
        node.args[1].name: node.args[3][0]
        for node in graph.program.nodes
        if node.op.startswith("aten.conv") and isinstance(node.args[1], Named)  # all have the stride at the same place
    }
    tensors = {layer.layer: layer for layer in graph.prunable_layers}
    rows = []
    for group in graph.groups:
        first = tensors[group.layers[0]]
        shape = graph.shapes[first.tensor]
        kernel = shape[2] if len(shape) > 2 else 1
        weights = sum(int(np.prod(graph.shapes[tensors[name].tensor])) for name in group.layers)
        rows.append([len(shape) == 2, shape[1 - first.dim], shape[first.dim], strides.get(first.tensor, 0), kernel, weights])
    return np.array(rows, np.int64).reshape(-1, len(FEATURES))


def min_max(features: np.ndarray) -> np.ndarray:
    """Every column from 0 to 1, float64; one that is the same everywhere is 0."""
    span = np.ptp(features, axis=0)
    return (features - features.min(0)) / np.where(span == 0, 1, span)
