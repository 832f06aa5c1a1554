"""The tensors of a network by name, cut down to what an architecture keeps, and put back."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from prune_gym.graph.channel_graph import Architecture, ChannelGraph
from prune_gym.graph.program import is_kept


def named_tensors(model: nn.Module, graph: ChannelGraph) -> dict[str, Tensor]:
    """Parameters, buffers and captured constants by name, checked against the graph."""
    if not isinstance(graph, ChannelGraph):
        raise TypeError(f"graph: expected the ChannelGraph of the model, from prune_gym.trace, got {type(graph).__name__}.")
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: expected a torch.nn.Module, got {type(model).__name__}.")
    tensors = dict([*model.named_parameters(), *model.named_buffers()])
    device = next((tensor.device for tensor in tensors.values()), None)
    tensors |= {name: constant.to(device) for name, constant in graph.constants.items() if name not in tensors}
    graph.check_shapes({name: tuple(tensor.shape) for name, tensor in tensors.items()})
    return tensors


def like(tensor: Tensor, values: Tensor) -> Tensor:
    """``values`` as what ``tensor`` is: a parameter or a buffer, with its ``requires_grad`` and the attributes set on it."""
    new = type(tensor)(values, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else values
    new.__dict__.update(tensor.__dict__)
    return new


def check_architecture(architecture: Architecture, graph: ChannelGraph) -> None:
    """Raise TypeError if it is no architecture, ValueError if it is one of another network or leaves a group without a unit."""
    if not isinstance(architecture, Architecture):
        raise TypeError(f"architecture: expected an Architecture, got {type(architecture).__name__}.")
    if architecture.graph is not graph and not _same_units(architecture.graph, graph):
        raise ValueError("architecture: expected one of this graph, got one of another; see graph.architecture.")
    for group, width in zip(graph.groups, architecture.widths, strict=True):
        if width == 0:
            raise ValueError(f"architecture: group {group.name!r} would lose all its {group.width} units; keep at least one.")


def _same_units(one: ChannelGraph, other: ChannelGraph) -> bool:
    """Whether a mask means the same in both: the same units, which own the same slices of the same tensors. Two traces of a
    network have the same; networks whose groups have the same names and widths may not."""

    def signature(graph: ChannelGraph) -> tuple:
        groups = [(group.name, group.first_unit, group.width) for group in graph.groups]
        units = {name: [None if u is None else u.tobytes() for u in per_dim] for name, per_dim in graph.units.items()}
        return groups, dict(graph.shapes), units

    return signature(one) == signature(other)


def slice_tensors(
    tensors: Mapping[str, Tensor], units: Mapping[str, tuple[np.ndarray | None, ...]], architecture: Architecture
) -> dict[str, Tensor]:
    """The tensors of the smaller network, given the ``units`` of their indices; what loses nothing is passed on as it is."""
    sliced = dict(tensors)
    padded = np.append(architecture.mask, True)  # the last entry is for -1, what always stays
    indices: dict[int, Tensor | None] = {}  # by the array of the units, which many tensors share
    for name, per_dim in units.items():
        for dim, numbers in enumerate(per_dim):
            if numbers is None:
                continue
            if id(numbers) not in indices:
                kept = padded[numbers]
                index = None if kept.all() else torch.from_numpy(np.flatnonzero(kept)).to(sliced[name].device)
                indices[id(numbers)] = index
            if (chosen := indices[id(numbers)]) is not None:
                sliced[name] = sliced[name].index_select(dim, chosen)
    return sliced


def scatter_tensors(
    tensors: Mapping[str, Tensor],
    small: Mapping[str, Tensor],
    units: Mapping[str, tuple[np.ndarray | None, ...]],
    architecture: Architecture,
) -> dict[str, Tensor]:
    """The inverse of :func:`slice_tensors`: new tensors like ``tensors``, with those of the smaller network in their places."""
    scattered = {}
    for name, tensor in tensors.items():
        kept = [None if numbers is None else is_kept(numbers, architecture.mask) for numbers in units.get(name, ())]
        if all(keep is None or keep.all() for keep in kept):
            scattered[name] = small[name].clone()
            continue
        places = [
            torch.arange(size) if keep is None else torch.from_numpy(np.flatnonzero(keep))
            for keep, size in zip(kept, tensor.shape, strict=True)
        ]
        grid = torch.meshgrid(*(place.to(tensor.device) for place in places), indexing="ij")
        scattered[name] = tensor.clone().index_put_(grid, small[name])
    return scattered
