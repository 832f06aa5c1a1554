"""How important every unit is: scores that decide which channels of a group go first.

A criterion scores the filters of every prunable layer; the score of a unit is the mean over the filters it holds. Scores
are computed on the compact form of an architecture, so they cost less the smaller it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prune_gym.arguments import check_choice
from prune_gym.graph.channel_graph import Architecture, ChannelGraph, PrunableLayer
from prune_gym.graph.program import Named, is_kept
from prune_gym.surgery.slicing import check_architecture, named_tensors, slice_tensors

Scores = tuple[np.ndarray, ...]


class Importance(Protocol):
    def __call__(
        self,
        model: nn.Module,
        graph: ChannelGraph,
        images: Tensor,
        labels: Tensor,
        architecture: Architecture | None = None,
    ) -> Scores:
        """Scores of all units, one float64 array per group; NaN for units that ``architecture`` has removed.

        ``images`` (N, C, H, W) and ``labels`` (N,), int64, are the calibration set; only ``taylor`` reads them.
        """
        ...


def importance(name: str, seed: int = 0) -> Importance:
    """A criterion by name.

    ``taylor``: first-order Taylor (eq 24), sum of \\|gradient x weight\\| over a filter, gradients of the cross-entropy in
    evaluation mode. ``l1``, ``l2``: norms of a filter. ``bn_scale``: \\|scale\\| of the batch norms behind it; raises
    ValueError if a group has none. ``random``: uniform, from ``seed``.
    """
    check_choice("importance", name, CRITERIA)

    def criterion(
        model: nn.Module,
        graph: ChannelGraph,
        images: Tensor,
        labels: Tensor,
        architecture: Architecture | None = None,
    ) -> Scores:
        if name == "taylor":
            _check_labels(images, labels)
        architecture = graph.full() if architecture is None else architecture
        check_architecture(architecture, graph)
        scores = unit_scores(name, named_tensors(model, graph), graph, images, labels, architecture, seed)
        return tuple(np.split(scores, graph.starts[1:])[:-1])

    return criterion


def _check_labels(images: Tensor, labels: Tensor) -> None:
    if not isinstance(labels, Tensor) or labels.dtype != torch.int64 or labels.shape != images.shape[:1]:
        got = f"{labels.dtype} {tuple(labels.shape)}" if isinstance(labels, Tensor) else type(labels).__name__
        raise ValueError(f"labels: expected an int64 tensor ({len(images)},), a class for each image, got {got}.")


@torch.inference_mode(False)  # gradients are needed, whatever the caller's mode is
def unit_scores(
    name: str,
    tensors: Mapping[str, Tensor],
    graph: ChannelGraph,
    images: Tensor,
    labels: Tensor,
    architecture: Architecture,
    seed: int = 0,
) -> np.ndarray:
    """Scores of all units as one array (units,), from the network's tensors by name; NaN for removed units."""
    if name == "random":
        scores = np.random.default_rng(seed).random(graph.n_units)
    elif name == "bn_scale":
        scores = _bn_scale(tensors, graph)
    else:
        sliced = {key: tensor.detach() for key, tensor in slice_tensors(tensors, graph.units, architecture).items()}
        values = FILTER_CRITERIA[name](sliced, graph, images, labels, architecture)
        total = np.zeros(graph.n_units)
        for filters, per_index in zip(graph.prunable_layers, values, strict=True):
            units = filters.units[is_kept(filters.units, architecture.mask)]
            prunable = units >= 0
            total += np.bincount(units[prunable], per_index[prunable], minlength=graph.n_units)
        scores = total / np.repeat(graph.filters_per_unit, graph.widths)
    return np.where(architecture.mask, scores, np.nan)


def _per_filter(values: Tensor, filters: PrunableLayer) -> np.ndarray:
    """Sums over filters, (indices, filters per index): everything but the filter dimension is summed up."""
    per_index = values.movedim(filters.dim, 0).flatten(1)
    return per_index.unflatten(1, (filters.filters_per_index, -1)).sum(2, dtype=torch.float64).cpu().numpy()


def _taylor(
    tensors: dict[str, Tensor], graph: ChannelGraph, images: Tensor, labels: Tensor, architecture: Architecture
) -> list[np.ndarray]:
    weights = {filters.tensor: tensors[filters.tensor].clone().requires_grad_() for filters in graph.prunable_layers}
    with torch.enable_grad():
        logits = graph.program.at(architecture.mask).run(tensors | weights, [images])
        loss = F.cross_entropy(logits, labels, reduction="sum")
    gradients = dict(zip(weights, torch.autograd.grad(loss, list(weights.values())), strict=True))
    products = {name: (gradients[name] * weight.detach()).abs() for name, weight in weights.items()}
    return [_per_filter(products[filters.tensor], filters).sum(1) for filters in graph.prunable_layers]


def _l1(tensors: dict[str, Tensor], graph: ChannelGraph, *_: object) -> list[np.ndarray]:
    return [_per_filter(tensors[filters.tensor].abs(), filters).sum(1) for filters in graph.prunable_layers]


def _l2(tensors: dict[str, Tensor], graph: ChannelGraph, *_: object) -> list[np.ndarray]:
    return [np.sqrt(_per_filter(tensors[filters.tensor].square(), filters)).sum(1) for filters in graph.prunable_layers]


def _bn_scale(tensors: Mapping[str, Tensor], graph: ChannelGraph) -> np.ndarray:
    total, count = np.zeros(graph.n_units), np.zeros(graph.n_units)
    for node in graph.program.nodes:
        scale = node.args[1] if node.op == "aten.batch_norm.default" else None
        if isinstance(scale, Named) and scale.name in graph.units:
            units = graph.units[scale.name][0]
            assert units is not None  # a scale has one dimension, so that one is prunable
            prunable = units >= 0
            values = tensors[scale.name].detach().abs().double().cpu().numpy()
            total += np.bincount(units[prunable], values[prunable], minlength=graph.n_units)
            count += np.bincount(units[prunable], minlength=graph.n_units)
    if (count == 0).any():
        group = graph.groups[int(np.searchsorted(graph.starts, np.argmin(count), side="right")) - 1]
        raise ValueError(f"importance: 'bn_scale' needs a batch norm with a scale behind every group; {group.name!r} has none.")
    return total / count


FILTER_CRITERIA: dict[str, Callable[..., list[np.ndarray]]] = {"taylor": _taylor, "l1": _l1, "l2": _l2}
CRITERIA = (*FILTER_CRITERIA, "bn_scale", "random")
