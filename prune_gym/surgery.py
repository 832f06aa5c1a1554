"""Two ways to make a pruned network real: physically smaller, or of the same shapes with the removed units zeroed."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from prune_gym.copying import detached, rebind
from prune_gym.graph import Architecture, ChannelGraph
from prune_gym.program import PrunedNetwork, is_kept


def compact(
    model: nn.Module, graph: ChannelGraph, architecture: Architecture, weights: Mapping[str, Tensor] | None = None
) -> PrunedNetwork:
    """A new, physically smaller network that computes the pruned function.

    Parameters and buffers keep their names, dtype, device and ``requires_grad``. ``model`` is not modified and shares no
    memory with the result. ``weights`` are other tensors than the model's, of the same names and shapes. Raises ValueError if
    ``model`` is not the network that ``graph`` was traced from.
    """
    tensors = state(model, graph)
    check(architecture, graph)
    values = tensors if weights is None else weights
    sliced = slice_tensors(values, graph.units, architecture)
    transient = {name for name in tensors if name in graph.constants}
    for path, module in model.named_modules():
        transient |= {f"{path}.{name}" if path else name for name in module._non_persistent_buffers_set}
    parameters, buffers = {}, {}
    for name, tensor in tensors.items():
        small = sliced[name].detach()
        small = small.clone(memory_format=torch.contiguous_format) if small.data_ptr() == values[name].data_ptr() else small
        if isinstance(tensor, nn.Parameter):
            parameters[name] = nn.Parameter(small, requires_grad=tensor.requires_grad)
        else:
            buffers[name] = small
    return PrunedNetwork(graph.program.at(architecture.mask), parameters, buffers, transient).train(model.training)


def mask(model: nn.Module, graph: ChannelGraph, architecture: Architecture) -> nn.Module:
    """A copy of ``model`` with every slice of the removed units set to zero: outputs, norms and the consumers' inputs.

    It computes the same function as :func:`compact`, except where an operator works across channels (a layer norm, a
    group norm, a mean over channels): a zero counts there, an absent channel does not.

    Raises:
        ValueError: a group with removed units is ``mixed`` in this sense; use :func:`compact` instead.
        ValueError: ``model`` is not the network that ``graph`` was traced from.
    """
    state(model, graph)
    check(architecture, graph)
    for group, kept in zip(graph.groups, architecture.kept, strict=True):
        if group.mixed and not kept.all():
            raise ValueError(
                f"architecture: group {group.name!r} is normalised or reduced across its channels, where zeros are not the "
                "same as removed channels; use compact(model, graph, architecture)."
            )
    memo = detached(model)
    masked = copy.deepcopy(model, memo)
    for module in masked.modules():
        rebind(module, memo)
    tensors = dict([*masked.named_parameters(), *masked.named_buffers()])
    with torch.no_grad():
        for name, per_dim in graph.units.items():
            for dim, units in enumerate(per_dim):
                if units is not None and name in tensors:
                    removed = np.flatnonzero(~is_kept(units, architecture.mask))
                    tensors[name].index_fill_(dim, torch.as_tensor(removed, device=tensors[name].device), 0)
    return masked


def state(model: nn.Module, graph: ChannelGraph) -> dict[str, Tensor]:
    """Parameters, buffers and captured constants by name, checked against the graph."""
    if not isinstance(graph, ChannelGraph):
        raise TypeError(f"graph: expected the ChannelGraph of the model, from prune_gym.trace, got {type(graph).__name__}.")
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: expected a torch.nn.Module, got {type(model).__name__}.")
    tensors = dict([*model.named_parameters(), *model.named_buffers()])
    device = next((tensor.device for tensor in tensors.values()), None)
    tensors |= {name: constant.to(device) for name, constant in graph.constants.items() if name not in tensors}
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if shapes != dict(graph.shapes):
        wrong = sorted(name for name in shapes.keys() | graph.shapes.keys() if shapes.get(name) != graph.shapes.get(name))
        name = wrong[0]
        raise ValueError(
            f"model: expected the network that the graph was traced from, but {name!r} has shape {shapes.get(name)} "
            f"instead of {graph.shapes.get(name)}; trace this model anew."
        )
    return tensors


def check(architecture: Architecture, graph: ChannelGraph) -> None:
    """Raise ValueError if the architecture is one of another network."""
    if not isinstance(architecture, Architecture):
        raise TypeError(f"architecture: expected an Architecture, got {type(architecture).__name__}.")
    own = architecture.graph
    if own is not graph and [(g.name, g.width) for g in own.groups] != [(g.name, g.width) for g in graph.groups]:
        raise ValueError("architecture: expected one of this graph, got one of another; see graph.architecture.")


def slice_tensors(
    tensors: Mapping[str, Tensor], units: Mapping[str, tuple[np.ndarray | None, ...]], architecture: Architecture
) -> dict[str, Tensor]:
    """The tensors of the smaller network, given the ``units`` of their indices; what loses nothing is passed on as it is."""
    sliced = dict(tensors)
    padded = np.append(architecture.mask, True)  # the last entry is for -1, what always stays
    for name, per_dim in units.items():
        for dim, numbers in enumerate(per_dim):
            if numbers is None:
                continue
            kept = padded[numbers]
            if not kept.all():
                index = torch.from_numpy(np.flatnonzero(kept)).to(sliced[name].device)
                sliced[name] = sliced[name].index_select(dim, index)
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
