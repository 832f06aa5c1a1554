"""The layers that read prunable channels through a weight matrix: what is left of their outputs when channels go can be made up
for, see :mod:`prune_gym.scoring.compensation`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from prune_gym.graph.channel_graph import ChannelGraph
from prune_gym.graph.program import Named, Node, Program, Value, leaves

CONVOLUTIONS = frozenset(["aten.conv1d.default", "aten.conv2d.default", "aten.conv3d.default"])
CONVOLUTION = "aten.convolution.default"  # the general one, whose arguments differ from those of the others
PRODUCTS = {"aten.addmm.default": 2, "aten.mm.default": 1, "aten.bmm.default": 1}  # where a linear layer's weight stands
RESHAPES = frozenset(["aten.reshape.default", "aten.view.default", "aten._unsafe_view.default"])
TRANSPOSED_VIEWS = frozenset(["aten.t.default", "aten.expand.default", "aten.flatten.using_ints"])  # on the way to a product


@dataclass(frozen=True)
class Call:
    """One call of a consumer.

    Attributes:
        position: of its node in the program.
        input, weight: where these stand among its arguments.
        norm: the position of the batch norm that alone reads what it gives, or None.
        takes_constant: the tensor to which a constant can be added to have it added to the call's output, and with which sign: a
            bias, or the running mean of that norm, which is subtracted. None where there is neither.
    """

    position: int
    input: int
    weight: int
    norm: int | None
    takes_constant: tuple[str, int] | None


@dataclass(frozen=True, eq=False)
class Consumer:
    """A convolution or linear layer with prunable input channels.

    Attributes:
        weight: the name of its weight (outputs, inputs per group, *kernel).
        columns: the unit of every input of a group, -1 where it always stays, (inputs per group,).
        groups: of a grouped convolution, all of which lose the same inputs; 1 for others.
        calls: in the order of the program; several where a layer is used more than once.
    """

    weight: str
    columns: np.ndarray
    groups: int
    calls: tuple[Call, ...]

    @property
    def constants(self) -> dict[str, int]:
        """The tensors that take a constant, with the sign, if all calls have one; else none."""
        homes = [call.takes_constant for call in self.calls]
        return {} if None in homes else dict(home for home in homes if home is not None)


def find_consumers(graph: ChannelGraph) -> list[Consumer]:
    """All consumers of a graph, in the order of their first calls."""
    program = graph.program
    readers = _readers(program)
    maker = {node.outputs: node for node in program.nodes if isinstance(node.outputs, int)}
    calls: defaultdict[str, list[Call]] = defaultdict(list)
    groups: defaultdict[str, set[int]] = defaultdict(set)
    uses: defaultdict[str, int] = defaultdict(int)  # by how many calls a bias or running mean is read
    for position, node in enumerate(program.nodes):
        for leaf in node.arguments():
            if isinstance(leaf, Named):
                uses[leaf.name] += 1
        product = _product(node, maker)
        if product is None or len(units := graph.units.get(product.weight, ())) < 2 or units[1] is None:
            continue
        norm, takes_constant = _behind(node, program, readers)
        calls[product.weight].append(Call(position, product.input, product.place, norm, takes_constant))
        groups[product.weight].add(product.groups)
    return [
        Consumer(name, columns, next(iter(groups[name])), tuple(_unshared(its_calls, uses)))
        for name, its_calls in calls.items()
        if (columns := graph.units[name][1]) is not None
        and len(groups[name]) == 1
        and uses[name] <= len(its_calls)  # a weight that serves another purpose, too, stays as it is
    ]


def _unshared(calls: list[Call], uses: Mapping[str, int]) -> Iterator[Call]:
    """The calls, without the tensors that others read as well, as a constant for one would change the others."""
    for call in calls:
        home = call.takes_constant
        mine = home is not None and uses[home[0]] == sum(other.takes_constant == home for other in calls)
        yield call if mine else replace(call, takes_constant=None)


@dataclass(frozen=True)
class _Product:
    """A product with a parameter: its name, the places of input and weight among the arguments, and the groups."""

    weight: str
    input: int
    place: int
    groups: int


def _product(node: Node, maker: Mapping[Any, Node]) -> _Product | None:
    """The product that a node computes, if it is one with a parameter as its weight, outputs first. Transposed convolutions are
    not among them."""
    if node.op in CONVOLUTIONS or (node.op == CONVOLUTION and not node.args[6]):
        groups = node.args[8] if node.op == CONVOLUTION else (*node.args[6:], 1)[0]
        weight = node.args[1]
        return _Product(weight.name, 0, 1, groups) if isinstance(weight, Named) and isinstance(groups, int) else None
    if node.op not in PRODUCTS:
        return None
    place = PRODUCTS[node.op]
    source, transposed = node.args[place], 0
    while isinstance(source, Value) and source.index in maker and maker[source.index].op in TRANSPOSED_VIEWS:
        transposed += maker[source.index].op == "aten.t.default"
        source = maker[source.index].args[0]
    return _Product(source.name, place - 1, place, 1) if isinstance(source, Named) and transposed == 1 else None


def _readers(program: Program) -> dict[int, list[int]]:
    """For every value the positions of the nodes that read it; the output of the program counts as one more, -1."""
    readers: dict[int, list[int]] = defaultdict(list)
    for position, node in enumerate(program.nodes):
        for leaf in node.arguments():
            if isinstance(leaf, Value):
                readers[leaf.index].append(position)
    for leaf in leaves(program.output):
        if isinstance(leaf, Value):
            readers[leaf.index].append(-1)
    return readers


def _behind(node: Node, program: Program, readers: Mapping[int, list[int]]) -> tuple[int | None, tuple[str, int] | None]:
    """The batch norm that alone reads what a call gives, and the tensor that takes a constant; see :class:`Call`."""
    own = node.args[0] if node.op == "aten.addmm.default" else node.args[2] if "conv" in node.op and len(node.args) > 2 else None
    bias = (own.name, 1) if isinstance(own, Named) else None
    if own is not None and bias is None:
        return None, None
    while isinstance(node.outputs, int) and len(after := readers.get(node.outputs, [])) == 1 and after[0] >= 0:
        value, node = Value(node.outputs), program.nodes[after[0]]
        if node.op == "aten.batch_norm.default" and node.args[0] == value:
            mean = node.args[3]
            return after[0], bias or ((mean.name, -1) if isinstance(mean, Named) else None)
        if bias is None and node.op == "aten.add.Tensor" and node.args[0] == value and isinstance(node.args[1], Named):
            bias = (node.args[1].name, 1)
        elif node.op not in RESHAPES:
            break
    return None, bias
