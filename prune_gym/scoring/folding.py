"""Batch norms folded into the convolutions before them: the same function in evaluation mode, with fewer operators."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prune_gym.graph.channel_graph import ChannelGraph
from prune_gym.graph.program import Named, Node, Program, Training, Value, leaves, map_argument
from prune_gym.scoring.aliasing import written_tensors
from prune_gym.scoring.in_place import in_place

CONVOLUTIONS = frozenset(["aten.conv1d.default", "aten.conv2d.default", "aten.conv3d.default", "aten.convolution.default"])
FLOATS = frozenset(["aten.zeros.default", "aten.ones.default", "aten.linspace.default"])  # they make floats by default
TRANSPOSED = 6  # the position of that argument in aten.convolution


@dataclass(frozen=True)
class Inference:
    """A network as it runs in evaluation mode: a program, the tensors that it reads and the units of their indices."""

    program: Program
    tensors: dict[str, Tensor]
    units: Mapping[str, tuple[np.ndarray | None, ...]]

    @cached_property
    def written(self) -> frozenset[str]:
        """The tensors that a forward pass changes, by name; see :func:`prune_gym.scoring.aliasing.renew`."""
        return written_tensors(self.program)

    def to(self, dtype: torch.dtype) -> Inference:
        """The same network in another floating-point type: its tensors, and the zeros and the like that it makes itself."""
        types = {tensor.dtype for tensor in self.tensors.values() if tensor.is_floating_point()}

        def change(argument: Any) -> Any:
            return dtype if isinstance(argument, torch.dtype) and argument in types else argument

        nodes = []
        for node in self.program.nodes:
            kwargs = {"dtype": torch.get_default_dtype()} | node.kwargs if node.op in FLOATS else node.kwargs
            nodes.append(replace(node, args=map_argument(change, node.args), kwargs=map_argument(change, kwargs)))
        program = replace(self.program, nodes=tuple(nodes), dtype=None)
        tensors = {name: t.to(dtype) if t.is_floating_point() else t for name, t in self.tensors.items()}
        return Inference(program, tensors, self.units)


@dataclass(frozen=True)
class Fold:
    """A convolution and the norm behind it, and the names of the weight and the bias that do what both do."""

    convolution: Node
    norm: Node
    weight: str
    bias: str


class Folding:
    """How the batch norms of a network go into the convolutions before them, whatever its tensors.

    ``norm(W x + b) = s W x + s (b - mean) + bias`` with ``s = weight / sqrt(var + eps)``, wherever nothing but the norm reads
    the convolution and no forward pass writes to a parameter or statistic of either. The result rounds a little differently;
    the norm's parameters are computed in float64.

    Attributes:
        program: the network's, without these norms, and with activations in place.
        units: of the indices of the tensors that it reads.
    """

    def __init__(self, graph: ChannelGraph):
        nodes, written = graph.program.nodes, written_tensors(graph.program)
        reads = Counter(leaf.index for node in nodes for leaf in node.arguments() if isinstance(leaf, Value))
        reads.update(leaf.index for leaf in leaves(graph.program.output) if isinstance(leaf, Value))
        maker = {node.outputs: position for position, node in enumerate(nodes) if isinstance(node.outputs, int)}
        folded: list[Node | None] = list(nodes)
        units = dict(graph.units)
        self._folds: list[Fold] = []
        for position, node in enumerate(nodes):
            if node.op != "aten.batch_norm.default" or not isinstance(node.args[0], Value):
                continue
            source = maker.get(node.args[0].index)
            if source is None or reads[node.args[0].index] > 1 or not _foldable(nodes[source], node):
                continue
            convolution = nodes[source]
            if any(leaf.name in written for each in (convolution, node) for leaf in each.arguments() if isinstance(leaf, Named)):
                continue
            weight = convolution.args[1].name
            scaled = f"{weight}@{position}"  # a convolution that is called twice may have two norms
            fold = Fold(convolution, node, scaled, f"{scaled}.bias")
            self._folds.append(fold)
            if weight in units:
                units[fold.weight], units[fold.bias] = units[weight], units[weight][:1]
            args = [convolution.args[0], Named(fold.weight), Named(fold.bias), *convolution.args[3:]]
            folded[source], folded[position] = replace(convolution, args=args, outputs=node.outputs), None
        self.program = in_place(replace(graph.program, nodes=tuple(node for node in folded if node is not None)))
        self._read = {leaf.name for node in self.program.nodes for leaf in node.arguments() if isinstance(leaf, Named)}
        self._read |= {leaf.name for leaf in leaves(self.program.output) if isinstance(leaf, Named)}
        self.units = {name: per_dim for name, per_dim in units.items() if name in self._read}

    def tensors(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The tensors that the program reads, from those of the network, at whatever widths."""
        made = dict(tensors)
        for fold in self._folds:
            made[fold.weight], made[fold.bias] = _scaled(fold.convolution, fold.norm, tensors)
        return {name: tensor for name, tensor in made.items() if name in self._read}

    def network(self, tensors: Mapping[str, Tensor]) -> Inference:
        """The network with these tensors, at the shapes of the graph."""
        return Inference(self.program, self.tensors(tensors), self.units)


def fold(graph: ChannelGraph, tensors: Mapping[str, Tensor]) -> Inference:
    """The network of ``graph`` with these ``tensors`` for evaluation, its norms folded; see :class:`Folding`."""
    return Folding(graph).network(tensors)


def _foldable(convolution: Node, norm: Node) -> bool:
    return (
        convolution.op in CONVOLUTIONS
        and not (convolution.op == "aten.convolution.default" and convolution.args[TRANSPOSED])
        and isinstance(convolution.args[1], Named)
        and all(bias is None or isinstance(bias, Named) for bias in (*convolution.args[2:3], *norm.args[1:3]))
        and all(isinstance(statistic, Named) for statistic in norm.args[3:5])
        and (isinstance(norm.args[5], Training) or norm.args[5] is False)
    )


@torch.no_grad()
def _scaled(convolution: Node, norm: Node, tensors: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Weight and bias of the convolution that does what both nodes do."""

    def look_up(argument: Named | None) -> Tensor | None:
        return None if argument is None else tensors[argument.name].double()

    weight = tensors[convolution.args[1].name]
    bias = look_up(convolution.args[2]) if len(convolution.args) > 2 else None
    scale, shift, mean, variance = map(look_up, norm.args[1:5])
    assert mean is not None
    assert variance is not None
    factor = (variance + norm.args[7]).rsqrt()
    factor = factor if scale is None else factor * scale
    offset = -mean * factor if bias is None else (bias - mean) * factor
    offset = offset if shift is None else offset + shift
    by_filter = factor.view(-1, *[1] * (weight.ndim - 1))
    return (weight * by_filter).to(weight.dtype), offset.to(weight.dtype)
