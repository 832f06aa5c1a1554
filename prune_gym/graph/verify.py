"""A check of a trace by arithmetic: the program at full width against the model itself, on real inputs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from prune_gym.graph.channel_graph import ChannelGraph
from prune_gym.graph.copying import copy_model
from prune_gym.graph.program import Node, Value, leaves, map_argument
from prune_gym.graph.recorder import plain
from prune_gym.graph.trace import Example, arguments


class VerificationError(ValueError):
    """The traced program computes something else than the model."""


@torch.no_grad()
def verify(model: nn.Module, graph: ChannelGraph, inputs: Example) -> None:
    """Check that the program of ``graph``, at full width, computes what ``model`` does in evaluation mode.

    ``inputs`` are a few real inputs, given like the example of :func:`prune_gym.trace`, on the device of the model. Both run on
    them, and once more with the first image repeated at the end, so that sizes that follow the batch are checked as well.
    Tensors agree if their largest difference is at most ``eps ** 0.6`` of the largest value, eps being the machine epsilon of
    their type: 7e-5 in single precision, 4e-10 in double. The model is not changed: a copy of it runs, and random number
    generators are left as they were.

    Raises:
        VerificationError: they differ; names the first module whose output does.
        TypeError, ValueError: ``model`` is not the network of ``graph``, or ``inputs`` are not such as it was traced with.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: expected a torch.nn.Module, got {type(model).__name__}.")
    if not isinstance(graph, ChannelGraph):
        raise TypeError(f"graph: expected the ChannelGraph of the model, from prune_gym.trace, got {type(graph).__name__}.")
    args, kwargs = arguments(model, inputs)
    graph.check_shapes({name: tuple(tensor.shape) for name, tensor in _registered(model)})
    given = _tensors([args, kwargs])
    if not all(x.numel() for x in given):
        raise ValueError(f"inputs: expected at least one image, got {' and '.join(str(tuple(x.shape)) for x in given)}.")
    if len(given) != graph.program.inputs:
        raise ValueError(f"inputs: expected {graph.program.inputs} tensors, as traced, got {len(given)}.")
    graph.program.check(given)
    batched = {id(x) for x, sizes in zip(given, graph.program.shapes, strict=True) if sizes[0] is None}

    def one_more(x: Tensor) -> Tensor:
        return torch.cat([x, x[:1]]) if id(x) in batched else x

    for change in (lambda x: x, one_more):
        _check(model, graph, map_argument(change, args), map_argument(change, kwargs))


def _check(model: nn.Module, graph: ChannelGraph, args: list[Any], kwargs: dict[str, Any]) -> None:
    given = _tensors([args, kwargs])
    try:
        expected = leaves(_run_model(_copy(model), args, kwargs))
    except (RuntimeError, TypeError, LookupError) as error:
        kinds = " and ".join(f"{x.dtype} of shape {tuple(x.shape)} on {x.device}" for x in given)
        raise ValueError(f"inputs: expected tensors that the model takes, got {kinds}, on which it fails: {error}") from error
    found = leaves(_run_program(model, graph, graph.program.output, [], given))
    if _agree(list(found), list(expected)):
        return
    raise VerificationError(
        f"the traced program does not compute what the model does for a batch of {given[0].shape[0]}: "
        f"{_first_difference(model, graph, args, kwargs)}. The forward pass depends there on something that a trace does not "
        "see, such as a value in a Python variable, or a branch on a size; write it with operators on tensors, or leave that "
        "part out of the traced model, and trace again."
    )


# ------------------------------------------------------------------------------------------------ running both


def _copy(model: nn.Module) -> nn.Module:
    """A copy in evaluation mode, as a forward pass may write to buffers and attributes."""

    def twin(tensor: Tensor) -> Tensor:
        copied = tensor.detach().clone()
        return nn.Parameter(copied, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else copied

    return copy_model(model, {id(tensor): twin(tensor) for _, tensor in _registered(model)}).eval()


def _registered(model: nn.Module) -> list[tuple[str, Tensor]]:
    return [*model.named_parameters(), *model.named_buffers()]


def _run_model(model: nn.Module, args: list[Any], kwargs: dict[str, Any]) -> Any:
    with _same_random_numbers(_tensors([args, kwargs])):
        return plain(model(*map_argument(torch.clone, args), **map_argument(torch.clone, kwargs)))


def _run_program(model: nn.Module, graph: ChannelGraph, output: Any, clones: list[tuple[int, Node]], images: list[Tensor]) -> Any:
    """Run the program at full width, with another output, and with nodes added behind certain numbers of nodes."""
    program = graph.program.at(graph.full().mask)
    nodes = list(program.nodes)
    for position, node in reversed(clones):
        nodes.insert(position, node)
    tensors = {name: tensor.clone() for name, tensor in _registered(model)}
    tensors |= {name: tensor.to(images[0].device, copy=True) for name, tensor in graph.constants.items()}
    with _same_random_numbers(images):
        return replace(program, nodes=tuple(nodes), output=output).run(tensors, [x.clone() for x in images])


@contextmanager
def _same_random_numbers(images: list[Tensor]) -> Iterator[None]:
    """Whoever runs in this context draws the same random numbers as anyone else, and leaves no trace."""
    devices = {x.device for x in images if x.is_cuda}
    with torch.random.fork_rng(devices):
        yield


# ------------------------------------------------------------------------------------------------ comparing them


def _first_difference(model: nn.Module, graph: ChannelGraph, args: list[Any], kwargs: dict[str, Any]) -> str:
    """Which module is the first, in the order in which they return, whose output differs."""
    seen: list[tuple[str, list[Tensor]]] = []
    twin = _copy(model)
    for path, module in twin.named_modules():
        module.register_forward_hook(
            lambda _module, _args, output, path=path: seen.append((path, [t.clone() for t in _tensors(plain(output))]))
        )
    _run_model(twin, args, kwargs)

    first = graph.program.inputs + sum(
        len(node.outputs) if isinstance(node.outputs, tuple) else 1 for node in graph.program.nodes
    )
    clones: list[tuple[int, Node]] = []  # as operators in place may change a module's output later
    output: list[list[Value | None]] = []
    for _, position, sources in graph.module_outputs:
        output.append([])
        for source in sources:
            if source is not None:
                output[-1].append(Value(first + len(clones)))
                clones.append((position, Node("aten.clone.default", [source], {}, first + len(clones))))
            else:
                output[-1].append(None)
    found = _run_program(model, graph, output, clones, _tensors([args, kwargs]))

    for (path, expected), (traced_path, _, _), values in zip(seen, graph.module_outputs, found, strict=False):
        name = repr(path) if path else "the model itself, outside of all its modules"
        if path != traced_path:
            return f"it calls module {name} where {traced_path!r} was called in the trace"
        pairs = [(a, b) for a, b in zip(values, expected, strict=False) if a is not None]
        if len(values) != len(expected) or not _agree([a for a, _ in pairs], [b for _, b in pairs]):
            return f"the first module whose output differs is {name}"
    return f"it calls {len(seen)} modules, in the trace {len(graph.module_outputs)}"


def _tensors(nest: Any) -> list[Tensor]:
    return [leaf for leaf in leaves(nest) if isinstance(leaf, Tensor)]


def _agree(found: list[Any], expected: list[Any]) -> bool:
    return len(found) == len(expected) and all(map(_same, found, expected))


def _same(a: Any, b: Any) -> bool:
    if not isinstance(a, Tensor) or not isinstance(b, Tensor):
        return type(a) is type(b) and a == b
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    if not (b.is_floating_point() or b.is_complex()):
        return torch.equal(a, b)
    size = b.abs()
    scale = float(size[size.isfinite()].max()) if size.isfinite().any() else 0.0
    return bool(torch.isclose(a, b, rtol=0, atol=torch.finfo(b.dtype).eps ** 0.6 * scale, equal_nan=True).all())
