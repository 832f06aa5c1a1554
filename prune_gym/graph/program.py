"""A network as a program: a list of ATen calls over named tensors.

Tracing turns any module into a :class:`Program`. The arguments that depend on how many channels are kept (the sizes of a
view, the amounts of a padding, the groups of a depthwise convolution) are :class:`Count` placeholders, so that the same
program runs at every width: ``program.at(kept)`` fills them in. This is what makes surgery independent of how the
network was written: a forward with a hard-coded ``x.view(-1, 400)`` shrinks like any other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Value:
    """The result of an earlier call, or an input of the program."""

    index: int


@dataclass(frozen=True, slots=True)
class Named:
    """A parameter, buffer or constant of the network, by its name."""

    name: str


@dataclass(frozen=True, slots=True)
class BatchSize:
    """A multiple of the batch size of the first input."""

    multiple: int = 1


@dataclass(frozen=True, slots=True, eq=False)
class Count:
    """How many of some channels are kept: ``units[i]`` is the unit of channel i, -1 where the channel always stays."""

    units: np.ndarray
    per_image: bool = False  # as many for every image of the batch

    def at(self, kept: np.ndarray) -> int | BatchSize:
        count = int(np.count_nonzero(is_kept(self.units, kept)))
        return BatchSize(count) if self.per_image else count


@dataclass(frozen=True, slots=True)
class Training:
    """The ``training`` flag of the network that runs the program."""


def is_kept(units: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """Which channels stay: those of kept units, and those that belong to no unit (``-1``)."""
    return np.append(kept, True)[units]


NESTS = (list, tuple, dict)  # asked for in hot paths, where a tuple of types is much faster than a union of them


def map_argument(change: Callable[[Any], Any], argument: Any) -> Any:
    """Apply ``change`` to the leaves of an argument, which may be a nest of lists, tuples and dicts."""
    if not isinstance(argument, NESTS):
        return change(argument)
    if isinstance(argument, dict):
        return {key: map_argument(change, item) for key, item in argument.items()}
    items = [map_argument(change, item) if isinstance(item, NESTS) else change(item) for item in argument]
    return type(argument)(*items) if hasattr(argument, "_fields") else type(argument)(items)


def leaves(argument: Any) -> Iterator[Any]:
    if not isinstance(argument, NESTS):
        yield argument
        return
    for item in argument.values() if isinstance(argument, dict) else argument:
        if isinstance(item, NESTS):
            yield from leaves(item)
        else:
            yield item


@dataclass(frozen=True, slots=True)
class Node:
    """One call: ``outputs = op(*args, **kwargs)``; ``outputs`` is one value index, or one per returned tensor. ``module`` is
    the path of the innermost module that made the call, which only error messages and surgery ask for."""

    op: str
    args: list
    kwargs: dict
    outputs: int | tuple[int, ...]
    module: str = field(default="", compare=False)

    def arguments(self) -> Iterator[Any]:
        return leaves([self.args, self.kwargs])


@cache
def operator(name: str) -> torch._ops.OpOverload:
    """``"aten.relu.default"`` -> the callable. Raises AttributeError if PyTorch has no such operator."""
    _, packet, overload = name.split(".")
    return getattr(getattr(torch.ops.aten, packet), overload)


@cache  # PyTorch makes the schema's Python objects anew at every access
def signature(call: torch._ops.OpOverload) -> tuple[tuple[str, bool, Any], ...]:
    """Name, whether it is given by keyword, and default of every argument."""
    return tuple((argument.name, argument.kwarg_only, argument.default_value) for argument in call._schema.arguments)


@cache
def takes_device(call: torch._ops.OpOverload) -> bool:
    return any(name == "device" for name, _, _ in signature(call))


@dataclass(frozen=True)
class Program:
    """``inputs`` values come first (indices 0 ..), then come those that the nodes make; ``output`` is a nest of values."""

    inputs: int
    nodes: tuple[Node, ...]
    output: Any
    steps: list[tuple] = field(init=False, repr=False, compare=False)  # what to call, resolved from the nodes

    def __post_init__(self) -> None:
        """At once, since ``torch.compile`` cannot follow what is computed when it is first asked for."""
        steps = [_step(node, dies) for node, dies in zip(self.nodes, _last_uses(self), strict=True)]
        object.__setattr__(self, "steps", steps)

    def __reduce__(self) -> tuple:
        return Program, (self.inputs, self.nodes, self.output)  # without the resolved callables

    @cached_property
    def _open(self) -> list[int]:
        return [i for i, node in enumerate(self.nodes) if any(isinstance(leaf, Count) for leaf in node.arguments())]

    def at(self, kept: np.ndarray) -> Program:
        """This program for the architecture that keeps the units ``kept`` (bool, one per unit)."""

        def fill(argument: Any) -> Any:
            return argument.at(kept) if isinstance(argument, Count) else argument

        nodes, steps = list(self.nodes), list(self.steps)
        for i in self._open:
            node = self.nodes[i]
            args, kwargs = map_argument(fill, node.args), map_argument(fill, node.kwargs)
            nodes[i] = Node(node.op, args, kwargs, node.outputs, node.module)
            steps[i] = _step(nodes[i], steps[i][-1])
        program = object.__new__(Program)  # most steps are those of this program, so most of the work is done
        program.__dict__.update(self.__dict__, nodes=tuple(nodes), steps=steps)
        del program.__dict__["_open"]  # nothing is
        return program

    def run(self, tensors: Mapping[str, Tensor], inputs: Sequence[Tensor], training: bool = False) -> Any:
        """Evaluate the program. ``tensors`` holds what :class:`Named` refers to; batch norm and dropout read ``training``."""
        first = inputs[0]
        values: dict[int, Any] = dict(enumerate(inputs))

        def look_up(argument: Any) -> Any:
            kind = type(argument)
            if kind is Value:
                return values[argument.index]
            if kind is Named:
                return tensors[argument.name]
            if kind is BatchSize:
                return argument.multiple * first.shape[0]
            if kind is Training:
                return training
            if kind is list:
                return [look_up(item) for item in argument]
            return argument

        for call, template, to_fill, kwargs, fresh, outputs, dead in self.steps:
            arguments = template.copy()
            for position in to_fill:
                arguments[position] = look_up(template[position])
            if fresh:  # a factory such as zeros: it must land where the images are
                filled = {key: look_up(item) for key, item in kwargs.items()}
                result = call(*arguments, **filled, device=first.device)
            else:
                result = call(*arguments, **kwargs)
            if type(outputs) is int:
                values[outputs] = result
            else:
                for index, item in zip(outputs, result, strict=True):
                    values[index] = item
            for index in dead:
                del values[index]
        return map_argument(look_up, self.output)


def _last_uses(program: Program) -> list[list[int]]:
    """For every node the values that no later one reads."""
    last_use: dict[int, int] = {}
    for position, node in enumerate(program.nodes):
        for index in node.outputs if isinstance(node.outputs, tuple) else (node.outputs,):
            last_use[index] = position
        for leaf in node.arguments():
            if isinstance(leaf, Value):
                last_use[leaf.index] = position
    for leaf in leaves(program.output):
        if isinstance(leaf, Value):
            last_use.pop(leaf.index, None)
    dead: list[list[int]] = [[] for _ in program.nodes]
    for index, position in last_use.items():
        dead[position].append(index)
    return dead


SYMBOLS = (Value, Named, BatchSize, Training)


def _step(node: Node, dead: list[int]) -> tuple:
    """What :meth:`Program.run` does for a node: the callable, its arguments, which of them to fill, the values that die."""
    call = operator(node.op)
    to_fill = [i for i, argument in enumerate(node.args) if any(isinstance(leaf, SYMBOLS) for leaf in leaves(argument))]
    fresh = takes_device(call) and not any(isinstance(leaf, Value | Named) for leaf in node.arguments())
    return call, list(node.args), to_fill, node.kwargs, fresh, node.outputs, dead
