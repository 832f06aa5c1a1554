"""A network as a program: a list of ATen calls over named tensors.

Tracing turns any module into a :class:`Program`. The arguments that depend on how many channels are kept (the sizes of a
view, the amounts of a padding, the groups of a depthwise convolution) are :class:`Count` placeholders, so that the same
program runs at every width: ``program.at(kept)`` fills them in. This is what makes surgery independent of how the
network was written: a forward with a hard-coded ``x.view(-1, 400)`` shrinks like any other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import InitVar, dataclass, field, replace
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
    """``multiple * n + offset``, where n is the batch size of the first input."""

    multiple: int = 1
    offset: int = 0


@dataclass(frozen=True, slots=True)
class FloatType:
    """The floating-point type that the network runs in: that of its inputs, else that of its parameters."""


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
    """``inputs`` values come first (indices 0 ..), then come those that the nodes make; ``output`` is a nest of values.

    ``shapes`` holds the size of every dimension of every input, None where the program takes any (the batch, and the image
    size where nothing in the program depends on it). ``dtype`` is the only type of floating-point inputs that the program is
    right for, None if it follows theirs. A program made without them is not checked. ``names`` are those of its inputs; it is
    empty where they have none.
    """

    inputs: int
    nodes: tuple[Node, ...]
    output: Any
    shapes: tuple[tuple[int | None, ...], ...] = ()
    dtype: torch.dtype | None = None
    names: tuple[str, ...] = ()
    known_steps: InitVar[list[tuple] | None] = None
    steps: list[tuple] = field(init=False, repr=False, compare=False)  # what to call, resolved from the nodes

    def __post_init__(self, known_steps: list[tuple] | None) -> None:
        """At once, since ``torch.compile`` cannot follow what is computed when it is first asked for."""
        if known_steps is None:
            known_steps = [_step(node, dies) for node, dies in zip(self.nodes, last_uses(self), strict=True)]
        object.__setattr__(self, "steps", known_steps)

    def __reduce__(self) -> tuple:  # without the resolved callables
        return Program, (self.inputs, self.nodes, self.output, self.shapes, self.dtype, self.names)

    @cached_property
    def _open(self) -> list[int]:
        return [i for i, node in enumerate(self.nodes) if any(isinstance(leaf, Count) for leaf in node.arguments())]

    def at(self, kept: np.ndarray) -> Program:
        """This program for the architecture that keeps the units ``kept`` (bool, one per unit)."""

        def fill(argument: Any) -> Any:
            return argument.at(kept) if isinstance(argument, Count) else argument

        return self.with_arguments(self._open, fill)

    def with_arguments(self, positions: Iterable[int], change: Callable[[Any], Any]) -> Program:
        """This program with other arguments of some nodes: ``change`` gives them, and leaves tensors as they are."""
        nodes, steps = list(self.nodes), list(self.steps)
        for i in positions:
            node = self.nodes[i]
            nodes[i] = replace(node, args=map_argument(change, node.args), kwargs=map_argument(change, node.kwargs))
            steps[i] = _step(nodes[i], steps[i][-1])
        return replace(self, nodes=tuple(nodes), known_steps=steps)  # most of them are those of this program

    def check(self, inputs: Sequence[Tensor]) -> None:
        """Raise ValueError for inputs that the program would compute something else for than the network it was traced from."""
        batch = inputs[0].shape[:1]
        for i, (x, sizes) in enumerate(zip(inputs, self.shapes, strict=False)):
            wanted = [have if size is None else size for size, have in zip(sizes, x.shape, strict=False)]
            if len(sizes) != x.ndim or wanted != list(x.shape):
                traced = ", ".join("any" if size is None else str(size) for size in sizes)
                raise ValueError(
                    f"input {i}: expected a tensor of shape ({traced}), as traced, got {tuple(x.shape)}. Sizes that the forward "
                    "pass computes with are part of the program; trace the network again with an input of this shape."
                )
            if sizes and sizes[0] is None and x.shape[:1] != batch:
                raise ValueError(f"input {i}: expected as many images as in input 0, {batch[0]}, got {x.shape[0]}.")
            if self.dtype is not None and x.is_floating_point() and x.dtype != self.dtype:
                raise ValueError(
                    f"input {i}: expected {self.dtype}, as traced, got {x.dtype}. The forward pass depends on the number type "
                    "in a way that a program cannot follow; convert the network and trace it again."
                )

    def run(
        self,
        tensors: Mapping[str, Tensor],
        inputs: Sequence[Tensor],
        training: bool = False,
        before_call: Callable[[int, list], None] | None = None,
    ) -> Any:
        """Evaluate the program. ``tensors`` holds what :class:`Named` refers to; batch norm and dropout read ``training``.
        ``before_call`` is called with the position of every node and its arguments, which it may change.

        Raises ValueError for inputs of other sizes or types than the program takes.
        """
        self.check(inputs)
        first = inputs[0]
        values: dict[int, Any] = dict(enumerate(inputs))

        def look_up(argument: Any) -> Any:
            kind = type(argument)
            if kind is Value:
                return values[argument.index]
            if kind is Named:
                return tensors[argument.name]
            if kind is BatchSize:
                return argument.multiple * first.shape[0] + argument.offset
            if kind is FloatType:
                return next(x.dtype for x in (*inputs, *tensors.values()) if x.is_floating_point())
            if kind is Training:
                return training
            if kind is list:
                return [look_up(item) for item in argument]
            return argument

        for position, (call, template, to_fill, keywords, keywords_to_fill, fresh, outputs, dead) in enumerate(self.steps):
            arguments = template.copy()
            for place in to_fill:
                arguments[place] = look_up(template[place])
            if before_call is not None:
                before_call(position, arguments)
            if fresh or keywords_to_fill:
                filled = keywords | {key: look_up(keywords[key]) for key in keywords_to_fill}
                if fresh:  # a factory such as zeros: it must land where the images are
                    filled["device"] = first.device
                result = call(*arguments, **filled)
            else:
                result = call(*arguments, **keywords)
            if type(outputs) is int:
                values[outputs] = result
            else:
                for index, item in zip(outputs, result, strict=True):
                    values[index] = item
            for index in dead:
                del values[index]
        return map_argument(look_up, self.output)


def last_uses(program: Program) -> list[list[int]]:
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


SYMBOLS = (Value, Named, BatchSize, FloatType, Training)


def _step(node: Node, dead: list[int]) -> tuple:
    """What :meth:`Program.run` does for a node: the callable, its arguments, which of them to fill, the values that die."""

    def holds_symbols(argument: Any) -> bool:
        return any(isinstance(leaf, SYMBOLS) for leaf in leaves(argument))

    call = operator(node.op)
    to_fill = [i for i, argument in enumerate(node.args) if holds_symbols(argument)]
    keywords_to_fill = [key for key, argument in node.kwargs.items() if holds_symbols(argument)]
    fresh = takes_device(call) and not any(isinstance(leaf, Value | Named) for leaf in node.arguments())
    return call, list(node.args), to_fill, node.kwargs, keywords_to_fill, fresh, node.outputs, dead
