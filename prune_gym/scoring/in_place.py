"""Activations that take the place of their input, where nothing else reads it: the same numbers, and less memory to fill."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from prune_gym.graph.program import Node, Program, Value, leaves

IN_PLACE = {  # activations, and the operators that do the same in place
    f"aten.{name}.default": f"aten.{name}_.default"
    for name in ("relu", "leaky_relu", "elu", "hardtanh", "hardswish", "hardsigmoid", "silu", "mish", "gelu")
}
MAKERS = frozenset(  # what they return is nobody else's memory
    f"aten.{name}" for name in ("convolution.default", "conv2d.default", "batch_norm.default", "addmm.default", "add.Tensor")
)


def in_place(program: Program) -> Program:
    """The program with activations in place, at the same positions, for passes without gradients. A value that is written over
    was just made by another node, and is read by nothing but the activation, nor is it an output."""
    reads = Counter(leaf.index for node in program.nodes for leaf in node.arguments() if isinstance(leaf, Value))
    reads.update(leaf.index for leaf in leaves(program.output) if isinstance(leaf, Value))
    made = {node.outputs for node in program.nodes if node.op in MAKERS}

    def changed(node: Node) -> Node:
        source = node.args[0] if node.op in IN_PLACE else None
        own = isinstance(source, Value) and source.index in made and reads[source.index] == 1
        return replace(node, op=IN_PLACE[node.op]) if own else node

    return replace(program, nodes=tuple(map(changed, program.nodes)))
