"""A pruned network at the original shapes, with the removed units zeroed."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from prune_gym.graph.channel_graph import Architecture, ChannelGraph
from prune_gym.graph.copying import copy_model
from prune_gym.graph.program import is_kept
from prune_gym.surgery.slicing import check_architecture, like, named_tensors


def mask(model: nn.Module, graph: ChannelGraph, architecture: Architecture) -> nn.Module:
    """A copy of ``model`` with every slice of the removed units set to zero: outputs, norms and the consumers' inputs.

    It computes the same function as :func:`compact`, except where an operator works across channels (a layer norm, a
    group norm, a mean over channels): a zero counts there, an absent channel does not.

    Raises:
        TypeError: ``model``, ``graph`` or ``architecture`` is something else.
        ValueError: a group with removed units is ``mixed`` in this sense; use :func:`compact` instead.
        ValueError: ``model`` is not the network that ``graph`` was traced from, or ``architecture`` not one of ``graph``.
    """
    named_tensors(model, graph)
    check_architecture(architecture, graph)
    for group, kept in zip(graph.groups, architecture.kept, strict=True):
        if group.mixed and not kept.all():
            raise ValueError(
                f"architecture: group {group.name!r} is normalised or reduced across its channels, where zeros are not the "
                "same as removed channels; use compact(model, graph, architecture)."
            )
    registered = dict([*model.named_parameters(), *model.named_buffers()])
    zeroed = {name: like(tensor, tensor.detach().clone()) for name, tensor in registered.items()}
    with torch.no_grad():
        for name, per_dim in graph.units.items():
            for dim, units in enumerate(per_dim):
                if units is not None and name in zeroed:
                    removed = np.flatnonzero(~is_kept(units, architecture.mask))
                    zeroed[name].index_fill_(dim, torch.as_tensor(removed, device=zeroed[name].device), 0)
    return copy_model(model, {id(tensor): zeroed[name] for name, tensor in registered.items()})
