"""Widths that hardware likes: numbers of channels that are multiples of 8, or of whatever its vectors hold."""

from __future__ import annotations

from collections.abc import Sequence
from math import gcd, lcm

import numpy as np

from prune_gym.arguments import check_integer
from prune_gym.graph.channel_graph import Architecture, ChannelGraph
from prune_gym.surgery.compact import compact
from prune_gym.surgery.pruned_network import PrunedNetwork


def round_widths(network: PrunedNetwork, graph: ChannelGraph, scores: Sequence[np.ndarray], multiple: int) -> PrunedNetwork:
    """A network whose groups are cut down until what each holds of a layer is a multiple of ``multiple`` channels.

    ``graph`` is the traced ``network``, and ``scores`` has an array (width,) of importances for every group, as
    :func:`prune_gym.importance` gives them: the units with the lowest scores go. A group that is narrower than that keeps its
    channels. So a layer has another number of channels only if it holds such a group, or channels that cannot be removed.
    ``network`` is left as it is; with ``multiple`` 1 the result is a copy of it.

    Raises TypeError or ValueError unless ``multiple`` is an integer >= 1, ValueError for scores of another form.
    """
    return compact(network, graph, rounded(graph, scores, multiple), form="program")


def rounded(graph: ChannelGraph, scores: Sequence[np.ndarray], multiple: int) -> Architecture:
    """What :func:`round_widths` keeps; raises like it."""
    check_integer("multiple", multiple, 1)
    widths = graph.widths.tolist()
    if [np.shape(values) for values in scores] != [(width,) for width in widths]:
        shapes = [np.shape(values) for values in scores]
        raise ValueError(f"scores: expected one array per group, with a score per unit, {widths}, got the shapes {shapes}.")
    kept = []
    for width, step, values in zip(widths, unit_steps(graph, multiple), scores, strict=True):
        n_kept = width - width % step if width >= step else width
        rank = np.argsort(np.argsort(-np.asarray(values), kind="stable"), kind="stable")
        kept.append(rank < n_kept)
    return graph.architecture(kept)


def unit_steps(graph: ChannelGraph, multiple: int) -> list[int]:
    """For every group, of how many units its width must be a multiple. A unit may hold several channels of a layer: of a
    grouped convolution with two groups one each, so that four units are eight channels."""
    steps = [1] * len(graph.groups)
    for filters in graph.prunable_layers:
        per_unit = np.bincount(filters.units[filters.units >= 0], minlength=graph.n_units) * filters.filters_per_index
        for i, channels in enumerate(per_unit[graph.starts[:-1]].tolist()):
            if channels:
                steps[i] = lcm(steps[i], multiple // gcd(multiple, channels))
    return steps
