"""Which tensors a program writes to while it runs, told from the schemas of its operators."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from typing import Any

from torch import Tensor

from prune_gym.graph.program import Named, Node, Program, Value, leaves, operator

MAY_COPY = frozenset(["aten.reshape.default", "aten.flatten.using_ints", "aten.unflatten.int"])
# in evaluation mode they return the tensor that they were given, of which their schemas say nothing
DROPOUTS = frozenset(
    f"aten.{name}.default" for name in ("dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout", "native_dropout")
)
STATISTICS = ("running_mean", "running_var")  # norms update them without their schemas saying so
FLAGS = ("training", "use_input_stats", "train")


def written_tensors(program: Program) -> frozenset[str]:
    """The names of the tensors that a forward pass in evaluation mode changes in place, directly or through a view: a counter
    of calls, a running mean, a buffer that holds the last images."""
    memory: dict[int, frozenset[str]] = {}  # for every value the named tensors whose memory it may share
    written: set[str] = set()
    for node in program.nodes:
        shared: set[str] = set()
        updates_statistics = _updates_statistics(node)
        for name, shares, writes, argument in _arguments(node):
            names = frozenset().union(*(_owners(leaf, memory) for leaf in leaves(argument)))
            if writes or (updates_statistics and name in STATISTICS):
                written |= names
            if shares:
                shared |= names
        for index in _outputs(node):
            memory[index] = frozenset(shared)
    return frozenset(written)


def renew(tensors: Mapping[str, Tensor], written: Iterable[str]) -> dict[str, Tensor]:
    """The tensors for one forward pass: those that it writes to are copies, so that every pass starts from the same values."""
    return {**tensors, **{name: tensors[name].clone() for name in written if name in tensors}}


def writes_through_views(program: Program) -> bool:
    """Whether an in-place operator changes a tensor after it was reshaped. A reshape is a view of a contiguous tensor, as in
    the network's own forward pass, but may be a copy of one whose channels come last; then the change would be missed."""
    memory: dict[int, int] = {}  # for every value the first one that it shares memory with
    reshaped: set[int] = set()
    for node in program.nodes:
        first = node.args[0] if node.args else None
        if not isinstance(first, Value):
            continue
        source = memory.setdefault(first.index, first.index)
        shares, writes = next((shares, writes) for _, shares, writes, _ in _arguments(node))
        if not shares:
            continue
        if writes and source in reshaped:
            return True
        if node.op in MAY_COPY:
            reshaped.add(source)
        for index in _outputs(node):
            memory[index] = source
    return False


@cache  # PyTorch makes the schema's Python objects anew at every access
def _aliases(op: str) -> tuple[tuple[str, bool, bool], ...]:
    """For every argument its name, whether the results may share its memory, and whether it is written to."""
    return tuple(
        (
            argument.name,
            argument.alias_info is not None or (op in DROPOUTS and argument.name == "input"),
            argument.alias_info is not None and argument.alias_info.is_write,
        )
        for argument in operator(op)._schema.arguments
    )


def _arguments(node: Node) -> Iterator[tuple[str, bool, bool, Any]]:
    """The arguments that a call gives, each with what :func:`_aliases` says of it."""
    aliases = _aliases(node.op)
    for alias, argument in zip(aliases, node.args, strict=False):
        yield *alias, argument
    for alias in aliases:
        if alias[0] in node.kwargs:
            yield *alias, node.kwargs[alias[0]]


def _updates_statistics(node: Node) -> bool:
    """Whether a norm computes statistics in evaluation mode too."""
    return any(name in FLAGS and argument is True for name, _, _, argument in _arguments(node))


def _owners(leaf: Any, memory: Mapping[int, frozenset[str]]) -> frozenset[str]:
    if isinstance(leaf, Named):
        return frozenset([leaf.name])
    return memory.get(leaf.index, frozenset()) if isinstance(leaf, Value) else frozenset()


def _outputs(node: Node) -> tuple[int, ...]:
    return node.outputs if isinstance(node.outputs, tuple) else (node.outputs,)
