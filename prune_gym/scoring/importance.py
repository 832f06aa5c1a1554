"""How important every unit is: scores that decide which channels of a group are removed first.

A criterion scores the filters of every prunable layer, and a unit's score is the mean over the filters it holds. Scores are
computed on the compact form of an architecture, so they take less time the smaller it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prune_gym.arguments import check_choice, check_integer
from prune_gym.data.splits import Split, check_labels
from prune_gym.graph.channel_graph import Architecture, ChannelGraph, PrunableLayer
from prune_gym.graph.program import Named, Node, is_kept
from prune_gym.scoring.calibration import check_images
from prune_gym.scoring.compensation import Compensation
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
        """Score every unit. The model is read as in evaluation mode, and is not modified.

        Args:
            model: the network that ``graph`` was traced from.
            images: calibration images (N, C, H, W), floating point, as the model takes them, on its device. They should
                show all classes, as those of :attr:`prune_gym.tasks.Task.calibration` do. Only ``taylor`` reads images
                and labels; the other criteria ignore both.
            labels: their classes (N,), int64.
            architecture: the pruned network whose units are scored; by default the original one.

        Returns one float64 array per group with a score per unit; NaN for units that ``architecture`` has removed.

        Raises:
            TypeError: an argument of another type, images or labels of a dtype that is not taken, or a model whose output
                is not one tensor of logits (N, classes).
            ValueError: another network than that of the graph, an architecture of another graph, no images, another number
                of labels than of images, pixels that are not finite, labels that are not classes of the model, or images
                that the model cannot take.
        """
        ...


def importance(name: str, seed: int = 0) -> Importance:
    """A criterion by name; a larger score means that a unit is kept for longer.

    - ``taylor``: the first-order Taylor criterion, equation 24 of RL-Pruner: the sum of ``|gradient * weight|`` over a
      filter, with the gradient of the cross-entropy summed over the images.
    - ``l1``, ``l2``: the norm of a filter's weights.
    - ``fpgm``: the sum of a filter's Euclidean distances to all other filters of its layer, so that those near the geometric
      median, which others can stand in for, go first (He et al., *Filter pruning via geometric median for deep convolutional
      neural networks acceleration*, 2019).
    - ``obs``: optimal brain surgeon, the error that is left in the layers that read a unit when it goes and their other inputs
      make up for it; see :meth:`prune_gym.scoring.compensation.Compensation.removal_errors`. Needs no labels. Raises ValueError
      if no convolution or linear layer reads a group.
    - ``group_norm``: DepGraph's, the sum of the squared weights that go with a unit: its filters, the columns of the layers that
      read it, and the scales of batch norms (Fang et al., *DepGraph: towards any structural pruning*, 2023, section 3.3).
    - ``lamp``: the score of ``group_norm`` over the sum of all scores of its group that are not lower, so that the largest has
      1 (Lee et al., *Layer-adaptive sparsity for the magnitude-based pruning*, 2021, with units in place of weights). Within one
      group it ranks as ``group_norm`` does. Its scores are comparable between groups, so it matters where all units are ranked
      together, which the agent ``lamp`` does.
    - ``bn_scale``: the mean ``|scale|`` of the batch norms behind a unit. Raises ValueError if a group has none.
    - ``random``: uniform in [0, 1). The scores follow from ``seed``, an integer >= 0, which the other criteria ignore, and are
      the same for every architecture of a graph.

    Raises ValueError for an unknown name, TypeError or ValueError for a seed that is no integer >= 0.
    """
    check_choice("importance", name, CRITERIA)
    check_integer("seed", seed, 0)

    def criterion(
        model: nn.Module,
        graph: ChannelGraph,
        images: Tensor,
        labels: Tensor,
        architecture: Architecture | None = None,
    ) -> Scores:
        tensors = named_tensors(model, graph)
        architecture = graph.full() if architecture is None else architecture
        check_architecture(architecture, graph)
        if name == "taylor":
            data = Split(images, labels)  # which checks them
            check_labels(data.labels, check_images(tensors, graph, data.images))
        compensation = None
        if name == "obs":
            check_images(tensors, graph, images)
            compensation = Compensation(graph, tensors, images, architecture)
        small = slice_tensors(tensors, graph.units, architecture)
        scores = unit_scores(name, small, graph, images, labels, architecture, seed, compensation)
        return tuple(np.split(scores, graph.starts[1:])[:-1])

    return criterion


@torch.inference_mode(False)  # gradients are needed, whatever the caller's mode is
def unit_scores(
    name: str,
    tensors: Mapping[str, Tensor],
    graph: ChannelGraph,
    images: Tensor,
    labels: Tensor,
    architecture: Architecture,
    seed: int = 0,
    compensation: Compensation | None = None,
) -> np.ndarray:
    """The scores of :func:`importance` as one float64 array (units,), from the tensors of the pruned network by name; NaN for
    removed units.

    The arguments are not checked. The result depends on them alone, so it may be cached; ``seed`` matters for ``random`` only,
    ``compensation`` for ``obs``, which needs it.
    """
    if name == "random":
        scores = np.random.default_rng(seed).random(graph.n_units)
    elif name == "bn_scale":
        scores = _bn_scale(tensors, graph, architecture)
    elif name == "group_norm":
        scores = _group_norm(tensors, graph, architecture)
    elif name == "lamp":
        scores = _lamp(_group_norm(tensors, graph, architecture), graph)
    elif name == "obs":
        assert compensation is not None  # the caller's duty
        scores = compensation.removal_errors(architecture, tensors)
        _check_read(compensation.is_read, graph)
    else:
        detached = {key: tensor.detach() for key, tensor in tensors.items()}
        values = FILTER_CRITERIA[name](detached, graph, images, labels, architecture)
        total = np.zeros(graph.n_units)
        for layer, per_index in zip(graph.prunable_layers, values, strict=True):
            units = layer.units[is_kept(layer.units, architecture.mask)]
            prunable = units >= 0
            total += np.bincount(units[prunable], per_index[prunable], minlength=graph.n_units)
        scores = total / np.repeat(graph.filters_per_unit, graph.widths)
    return np.where(architecture.mask, scores, np.nan)


def _per_filter(values: Tensor, layer: PrunableLayer) -> np.ndarray:
    """Sums over the filters of a layer, (indices, filters per index): all dimensions but that of the filters are summed up."""
    per_index = values.movedim(layer.dim, 0).flatten(1)
    return per_index.unflatten(1, (layer.filters_per_index, -1)).sum(2, dtype=torch.float64).cpu().numpy()


def _taylor(
    tensors: dict[str, Tensor], graph: ChannelGraph, images: Tensor, labels: Tensor, architecture: Architecture
) -> list[np.ndarray]:
    own = {name: tensor.clone() for name, tensor in tensors.items()}  # as a forward pass may write to its buffers
    weights = {layer.tensor: own[layer.tensor].requires_grad_() for layer in graph.prunable_layers}
    images, labels = (tensor.clone() if tensor.is_inference() else tensor for tensor in (images, labels))  # as autograd wants
    with torch.enable_grad():
        logits = graph.program.at(architecture.mask).run(own, [images])
        loss = F.cross_entropy(logits, labels, reduction="sum")
    gradients = dict(zip(weights, torch.autograd.grad(loss, list(weights.values())), strict=True))
    products = {name: (gradients[name] * weight.detach()).abs() for name, weight in weights.items()}
    return [_per_filter(products[layer.tensor], layer).sum(1) for layer in graph.prunable_layers]


def _l1(tensors: dict[str, Tensor], graph: ChannelGraph, *_: object) -> list[np.ndarray]:
    return [_per_filter(tensors[layer.tensor].abs(), layer).sum(1) for layer in graph.prunable_layers]


def _l2(tensors: dict[str, Tensor], graph: ChannelGraph, *_: object) -> list[np.ndarray]:
    return [np.sqrt(_per_filter(tensors[layer.tensor].square(), layer)).sum(1) for layer in graph.prunable_layers]


def _fpgm(tensors: dict[str, Tensor], graph: ChannelGraph, *_: object) -> list[np.ndarray]:
    return [_distances(tensors[layer.tensor], layer) for layer in graph.prunable_layers]


def _distances(weight: Tensor, layer: PrunableLayer) -> np.ndarray:
    """The Euclidean distances of every filter of a layer to all of them, summed up; summed over the filters of an index, too,
    (indices,)."""
    filters = weight.movedim(layer.dim, 0).reshape(weight.shape[layer.dim] * layer.filters_per_index, -1).double()
    filters = filters - filters.mean(0)  # wide layers go by scalar products, of which distances are small differences
    return torch.cdist(filters, filters).sum(1).reshape(-1, layer.filters_per_index).sum(1).cpu().numpy()


def _group_norm(tensors: Mapping[str, Tensor], graph: ChannelGraph, architecture: Architecture) -> np.ndarray:
    scales = {node.args[1].name for node in graph.program.nodes if _has_scale(node)}
    total = np.zeros(graph.n_units)
    for name, per_dim in graph.units.items():
        if len(per_dim) < 2 and name not in scales:  # a bias, or a statistic
            continue
        squares = tensors[name].detach().square()
        for dim, owners in enumerate(per_dim):
            if owners is not None:
                units = owners[is_kept(owners, architecture.mask)]
                sums = squares.movedim(dim, 0).reshape(len(units), -1).sum(1, dtype=torch.float64).cpu().numpy()
                total += np.bincount(units[units >= 0], sums[units >= 0], minlength=graph.n_units)
    return total


def _lamp(squares: np.ndarray, graph: ChannelGraph) -> np.ndarray:
    """Every square over the sum of those of its group that are not smaller, float64 (units,). Removed units have 0, so they add
    nothing."""
    scores = np.zeros(graph.n_units)
    for start, end in pairwise(graph.starts):
        mine = squares[start:end]
        rising = np.sort(mine)
        sums = rising[::-1].cumsum()[::-1]  # of each and those behind it
        scores[start:end] = mine / np.maximum(sums[np.searchsorted(rising, mine)], np.finfo(np.float64).tiny)  # all may be 0
    return scores


def _has_scale(node: Node) -> bool:
    return node.op == "aten.batch_norm.default" and isinstance(node.args[1], Named)


def _bn_scale(tensors: Mapping[str, Tensor], graph: ChannelGraph, architecture: Architecture) -> np.ndarray:
    total, count = np.zeros(graph.n_units), np.zeros(graph.n_units)
    for node in graph.program.nodes:
        if _has_scale(node) and (scale := node.args[1]).name in graph.units:
            units = graph.units[scale.name][0]
            assert units is not None  # a scale has one dimension, so that one is prunable
            units = units[is_kept(units, architecture.mask)]
            prunable = units >= 0
            values = tensors[scale.name].detach().abs().double().cpu().numpy()
            total += np.bincount(units[prunable], values[prunable], minlength=graph.n_units)
            count += np.bincount(units[prunable], minlength=graph.n_units)
    if len(without := np.flatnonzero((count == 0) & architecture.mask)):
        group = _group_of(without[0], graph)
        raise ValueError(f"importance: 'bn_scale' needs a batch norm with a scale behind every group; {group!r} has none.")
    return total / np.maximum(count, 1)


def _check_read(is_read: np.ndarray, graph: ChannelGraph) -> None:
    if not is_read.all():
        group = _group_of(int(np.argmin(is_read)), graph)
        raise ValueError(f"importance: 'obs' needs a convolution or linear layer that reads every group; none reads {group!r}.")


def _group_of(unit: int, graph: ChannelGraph) -> str:
    return graph.groups[int(np.searchsorted(graph.starts, unit, side="right")) - 1].name


FILTER_CRITERIA: dict[str, Callable[..., list[np.ndarray]]] = {"taylor": _taylor, "l1": _l1, "l2": _l2, "fpgm": _fpgm}
CRITERIA = (*FILTER_CRITERIA, "group_norm", "lamp", "obs", "bn_scale", "random")
