"""Widths that hardware likes: numbers of channels that are multiples of 8, or of whatever its vectors hold."""

from __future__ import annotations

from math import gcd, lcm

import numpy as np
from torch import Tensor

from prune_gym.arguments import check_integer
from prune_gym.graph.channel_graph import ChannelGraph
from prune_gym.graph.trace import trace
from prune_gym.scoring.importance import importance
from prune_gym.surgery.compact import compact
from prune_gym.surgery.pruned_network import PrunedNetwork


def round_widths(network: PrunedNetwork, images: Tensor, labels: Tensor, multiple: int) -> PrunedNetwork:
    """A network whose groups are cut down until what each holds of a layer is a multiple of ``multiple`` channels.

    The units that go are those that matter least by first-order Taylor importance on ``images`` (N, C, H, W) and ``labels``
    (N,), which lie on the device of the network. A group that is narrower than that keeps its channels. So a layer has
    another number of channels only if it holds such a group, or channels that cannot be removed. ``network`` is left as it
    is; with ``multiple`` 1 the result is a copy of it.

    Raises TypeError or ValueError unless ``multiple`` is an integer >= 1.
    """
    check_integer("multiple", multiple, 1)
    graph = trace(network, images[:1])
    scores = importance("taylor")(network, graph, images, labels)
    kept = []
    for width, step, values in zip(graph.widths.tolist(), _steps(graph, multiple), scores, strict=True):
        n_kept = width - width % step if width >= step else width
        rank = np.argsort(np.argsort(-values, kind="stable"), kind="stable")
        kept.append(rank < n_kept)
    return compact(network, graph, graph.architecture(kept), form="program")


def _steps(graph: ChannelGraph, multiple: int) -> list[int]:
    """For every group, of how many units its width must be a multiple. A unit may hold several channels of a layer: of a
    grouped convolution with two groups one each, so that four units are eight channels."""
    steps = [1] * len(graph.groups)
    for filters in graph.prunable_layers:
        per_unit = np.bincount(filters.units[filters.units >= 0], minlength=graph.n_units) * filters.filters_per_index
        for i, channels in enumerate(per_unit[graph.starts[:-1]].tolist()):
            if channels:
                steps[i] = lcm(steps[i], multiple // gcd(multiple, channels))
    return steps
