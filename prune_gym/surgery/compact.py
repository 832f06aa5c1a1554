"""A pruned network made real: physically smaller."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Literal, overload

import torch
from torch import Tensor, nn

from prune_gym.arguments import check_choice
from prune_gym.graph.channel_graph import Architecture, ChannelGraph
from prune_gym.graph.program import map_argument
from prune_gym.graph.trace import trace
from prune_gym.surgery.narrowing import FormError, narrow
from prune_gym.surgery.pruned_network import PrunedNetwork
from prune_gym.surgery.slicing import check_architecture, like, named_tensors, slice_tensors

FORMS = ("auto", "model", "program")
EXAMPLE = "_prune_gym_example"  # an attribute of the model form: the arguments that it was traced with, without data


@overload
def compact(
    model: nn.Module,
    graph: ChannelGraph,
    architecture: Architecture,
    form: Literal["program"],
    weights: Mapping[str, Tensor] | None = None,
) -> PrunedNetwork: ...


@overload
def compact(
    model: nn.Module,
    graph: ChannelGraph,
    architecture: Architecture,
    form: str = "auto",
    weights: Mapping[str, Tensor] | None = None,
) -> nn.Module: ...


def compact(
    model: nn.Module,
    graph: ChannelGraph,
    architecture: Architecture,
    form: str = "auto",
    weights: Mapping[str, Tensor] | None = None,
) -> nn.Module:
    """A new, physically smaller network that computes the pruned function.

    Parameters and buffers keep their names, dtype, device and ``requires_grad``. ``model`` is not modified and shares no
    memory with the result, which starts in its mode, training or evaluation.

    Args:
        model: the network that ``graph`` was traced from.
        architecture: which units to keep.
        form: ``"model"``: a copy of ``model``, of the same class, with its hooks and attributes, whose layers are narrower, and
            whose sizes, such as ``in_channels``, are corrected. It is compared with the program on random images (see
            ``docs/surgery.md``). ``"program"``: a :class:`PrunedNetwork`, which runs the traced program at these widths.
            ``"auto"``: the model where its forward pass allows it, else the program, with a warning that says why.
        weights: other tensors than the model's, of the same names and shapes.

    Raises:
        TypeError: an argument is of another type.
        ValueError: an unknown form, ``model`` is not the network of ``graph``, or ``architecture`` is not one of ``graph``.
        FormError: with ``form="model"``, where the model's own forward pass does not work at these widths. It is a ValueError.
    """
    check_choice("form", form, FORMS)
    tensors = named_tensors(model, graph)
    check_architecture(architecture, graph)
    small = _cut(tensors, graph, architecture, weights)
    if form != "program" and not isinstance(model, PrunedNetwork):  # whose own class is the program form
        try:
            narrowed = narrow(model, graph, architecture, small)
            setattr(narrowed, EXAMPLE, graph.example)
            return narrowed
        except FormError as error:
            if form == "model":
                raise
            warnings.warn(f"compact returns the program form, since {error}", UserWarning, stacklevel=2)
    transient = {name for name in tensors if name in graph.constants}
    for path, module in model.named_modules():
        transient |= {f"{path}.{name}" if path else name for name in module._non_persistent_buffers_set}
    parameters = {name: tensor for name, tensor in small.items() if isinstance(tensor, nn.Parameter)}
    buffers = {name: tensor for name, tensor in small.items() if name not in parameters}
    return PrunedNetwork(graph.program.at(architecture.mask), parameters, buffers, transient).train(model.training)


def program_form(network: nn.Module) -> PrunedNetwork:
    """The program form of a network from :func:`compact`, in whatever state it is now. A program is given back as it is; the
    model form is traced anew, so that a new head or another dtype is part of it. Raises TypeError for any other model."""
    if isinstance(network, PrunedNetwork):
        return network
    example = getattr(network, EXAMPLE, None)
    if not isinstance(network, nn.Module) or example is None:
        raise TypeError(
            f"network: expected a network from prune_gym.compact, got {type(network).__name__}; for a model of another origin "
            "give compact(model, graph, graph.full(), form='program'), with graph = trace(model, images)."
        )
    own = next((parameter.dtype for parameter in network.parameters() if parameter.is_floating_point()), None)
    args, kwargs = map_argument(lambda x: x.to(own) if own is not None and x.is_floating_point() else x, example)
    single = isinstance(args[0], dict) if args else False  # a forward pass that takes one dict
    graph = trace(network, args[0] if single else kwargs or args)
    return compact(network, graph, graph.full(), form="program")


def _cut(
    tensors: Mapping[str, Tensor], graph: ChannelGraph, architecture: Architecture, weights: Mapping[str, Tensor] | None
) -> dict[str, Tensor]:
    """New tensors of the kind of ``tensors``, with the values of ``weights``, or else their own, of the units that are kept."""
    if not isinstance(weights, Mapping | None):
        raise TypeError(f"weights: expected tensors by name, as state_dict() gives them, got {type(weights).__name__}.")
    values = tensors if weights is None else weights
    for name, tensor in tensors.items():
        value = values.get(name)
        if not isinstance(value, Tensor) or value.shape != tensor.shape:
            got = "none" if value is None else tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(f"weights: expected a tensor of shape {tuple(tensor.shape)} for {name!r}, got {got}.")
    small = {}
    for name, cut in slice_tensors({name: values[name] for name in tensors}, graph.units, architecture).items():
        new = cut.detach().clone() if cut is values[name] else cut.detach()
        is_channels_last = new.ndim == 4 and not tensors[name].is_contiguous()
        if is_channels_last and tensors[name].is_contiguous(memory_format=torch.channels_last):
            new = new.contiguous(memory_format=torch.channels_last)
        small[name] = like(tensors[name], new)
    return small
