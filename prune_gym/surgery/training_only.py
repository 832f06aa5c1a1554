"""Layers that run in training mode only, such as an auxiliary head: the trace of the evaluation mode does not know them."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import numpy as np
from torch import Tensor, nn

from prune_gym.graph.channel_graph import Architecture, ChannelGraph
from prune_gym.graph.program import Named, leaves
from prune_gym.graph.trace import UnknownOperatorError, trace_training
from prune_gym.surgery.slicing import like, slice_tensors


def cut_training_only(
    model: nn.Module, graph: ChannelGraph, architecture: Architecture, tensors: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The tensors of such layers, cut to the channels of ``architecture`` that they read; they keep all of their own.

    The training mode is traced, and its units are matched with those of ``graph`` through the tensors that both use. Where it
    cannot be traced, or joins channels of which some are removed and some kept, the layers stay as they are, with a warning.
    """
    used = {leaf.name for node in graph.program.nodes for leaf in node.arguments() if isinstance(leaf, Named)}
    used |= {leaf.name for leaf in leaves(graph.program.output) if isinstance(leaf, Named)}
    unused = [name for name, _ in model.named_parameters() if name not in used]
    if not unused or architecture.mask.all():
        return {}
    try:
        training = trace_training(model, *graph.example)
        kept = _matched(training, graph, architecture)
    except (UnknownOperatorError, TypeError, ValueError) as error:
        warnings.warn(
            f"compact: {unused[0]!r} and what else only the training mode of {type(model).__name__} uses was not cut, as that "
            f"mode cannot be followed ({error}); remove these layers before training, or use form='program'.",
            UserWarning,
            stacklevel=4,
        )
        return {}
    only = {name: units for name, units in training.units.items() if name not in graph.units and name in tensors}
    cut = slice_tensors({name: tensors[name].detach() for name in only}, only, Architecture(training, kept))
    return {name: like(tensors[name], tensor.clone()) for name, tensor in cut.items()}


def _matched(training: ChannelGraph, graph: ChannelGraph, architecture: Architecture) -> np.ndarray:
    """Which units of the training mode are kept: those that are in ``architecture``, and those that only training has."""
    padded = np.append(architecture.mask, True)
    has_kept, has_removed = np.zeros(training.n_units + 1, bool), np.zeros(training.n_units + 1, bool)
    for name, per_dim in training.units.items():
        for dim, units in enumerate(per_dim):
            own = graph.units.get(name, (None,) * len(per_dim))[dim]
            if units is not None and own is not None:
                has_kept[units[padded[own]]] = True  # the last entry is for -1, what stays in training mode
                has_removed[units[~padded[own]]] = True
    if (has_kept & has_removed)[:-1].any() or has_removed[-1]:
        raise ValueError("it keeps channels together of which the architecture removes some")
    return ~has_removed[:-1]
