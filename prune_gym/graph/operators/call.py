"""What a rule reads and writes: the dispatched call, its tensors, and the table of rules."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np

from prune_gym.graph.labels import LabelBook, Labels
from prune_gym.graph.program import Named, Value


class BatchCount(int):
    """An integer of a recorded forward pass that is ``multiple * n + offset`` for a batch of n images."""

    multiple: int
    offset: int

    def __new__(cls, value: int, multiple: int, offset: int) -> BatchCount:
        self = super().__new__(cls, value)
        self.multiple, self.offset = multiple, offset
        return self


@dataclass(frozen=True, slots=True, eq=False)
class Size:
    """The number of kept channels among ``labels``; a :class:`~prune_gym.graph.program.Count` once labels are resolved."""

    labels: np.ndarray


@dataclass(slots=True, eq=False)
class Traced:
    """What the tracer knows of a tensor: where it comes from, its labels, whether only parameters went into it, and whether
    it holds zeros at removed channels when those of the network's own tensors are zeroed, as a masked network's are.
    ``bind_if_used`` are labels to bind if it is read at all: ``weight[0].numel()`` selects a filter, and all it wants is a
    size."""

    source: Value | Named
    shape: tuple[int, ...]
    labels: list[Labels]
    static: bool
    zeroed: bool = False
    bind_if_used: Labels = None


@dataclass(slots=True)
class CostTerm:
    """A product with a weight, or of two activations: what it costs per image is ``macs`` times the numbers of channels in
    ``factors``. ``filters`` are the weight's output channels; each stands for ``filters_per_index`` filters of the layer."""

    macs: int
    factors: tuple[np.ndarray, ...]
    filters: Labels = None
    filters_per_index: int = 1


@dataclass(slots=True)
class Call:
    """One dispatched operator with its arguments by name (tensors as :class:`Traced`) and its output shapes."""

    op: str
    names: list[str]
    args: list[Any]
    kwargs: dict[str, Any]
    tensors: list[Traced]
    shapes: list[tuple[int, ...]]
    index: int = 0  # how many were dispatched before it
    layer: CostTerm | None = None
    paper_flops: CostTerm | None = None  # what the paper's FLOPs count beside products
    n_outputs: int | None = None  # keep only this many outputs; None: all
    bind_if_used: dict[int, Labels] = field(default_factory=dict)  # labels to bind if this output is read
    zeroed: bool | None = None  # what a rule knows of its result; None: as the operator's name says
    followed_by: list[tuple[str, list[Any]]] = field(default_factory=list)  # further calls, each on the result of the last

    def __getitem__(self, name: str) -> Any:
        return self.args[self.names.index(name)] if name in self.names else self.kwargs.get(name)

    def __setitem__(self, name: str, value: Any) -> None:
        if name in self.names:
            self.args[self.names.index(name)] = value
        else:
            self.kwargs[name] = value

    def becomes(self, op: str, *args: Any) -> None:
        """Record ``op`` with positional ``args`` in place of the dispatched operator."""
        self.op, self.names, self.args, self.kwargs = op, [], list(args), {}


Rule = Callable[[Call, LabelBook], Sequence[list[Labels]]]


RULES: dict[str, Rule] = {}


def rule(*names: str) -> Callable[[Rule], Rule]:
    def register(function: Rule) -> Rule:
        for name in names:
            RULES[name] = function
        return function

    return register


def size(labels: Labels, count: int) -> Any:
    """A size argument for a dimension of ``count`` indices with these labels."""
    return count if labels is None else Size(labels)


def normal_dim(dim: int, ndim: int) -> int:
    return dim + ndim if dim < 0 else dim


def sized(tensor: Traced, dim: int) -> np.ndarray:
    """The labels of a dimension for counting; channels that stay count as bound labels."""
    labels = tensor.labels[dim]
    return np.zeros(tensor.shape[dim], np.int64) if labels is None else labels


def elements(shape: Sequence[int], channels: Sequence[np.ndarray], times: int, book: LabelBook) -> CostTerm:
    """A cost of so much per element of a tensor, of which some dimensions are channels."""
    factors = tuple(map(book.one_image, channels))
    return CostTerm(times * book.per_image(prod(shape)) // prod(map(len, factors)), factors)
