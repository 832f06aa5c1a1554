"""A pruned network made real: physically smaller."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from prune_gym.graph.channel_graph import Architecture, ChannelGraph
from prune_gym.surgery.pruned_network import PrunedNetwork
from prune_gym.surgery.slicing import check_architecture, named_tensors, slice_tensors


def compact(
    model: nn.Module, graph: ChannelGraph, architecture: Architecture, weights: Mapping[str, Tensor] | None = None
) -> PrunedNetwork:
    """A new, physically smaller network that computes the pruned function.

    Parameters and buffers keep their names, dtype, device and ``requires_grad``. ``model`` is not modified and shares no
    memory with the result. ``weights`` are other tensors than the model's, of the same names and shapes. Raises ValueError if
    ``model`` is not the network that ``graph`` was traced from.
    """
    tensors = named_tensors(model, graph)
    check_architecture(architecture, graph)
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
