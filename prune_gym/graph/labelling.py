"""From a recording to labels: every recorded call goes through the rule of its operator and becomes a node of the program."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from prune_gym.graph.labels import Key, LabelBook
from prune_gym.graph.operators import (
    OUT_OF_PLACE,
    BatchCount,
    Call,
    CostTerm,
    Size,
    Traced,
    find_rule,
    labels_that_cannot_be_zeroed,
    zeros_stay,
)
from prune_gym.graph.program import NESTS, BatchSize, Named, Node, Program, Value, map_argument, signature
from prune_gym.graph.recorder import RecordedCall, Recording

FILLED = (Value, Named, *NESTS)  # the arguments in which there may be tensors
OUTPUT = "reaches the model's output"


def describe(reason: Any) -> str:
    """Why labels are bound or mixed, in words: a text, or the operator and the module whose rule says so."""
    if not isinstance(reason, tuple):
        return str(reason)
    func, module = reason
    return f"{str(func).removesuffix('.default')} in {module or 'the model itself'}"


@dataclass(frozen=True)
class Labelled:
    """Everything that is known of a forward pass before labels are resolved into groups."""

    book: LabelBook
    program: Program
    sized: frozenset[int]  # the nodes with an argument that depends on what is kept
    layers: Sequence[CostTerm]
    paper_flops: Sequence[CostTerm]
    named: Mapping[str, Traced]
    shapes: Mapping[str, tuple[int, ...]]
    parameters: frozenset[str]
    constants: Mapping[str, Tensor]
    module_outputs: tuple[tuple[str, int, tuple[Value | Named | None, ...]], ...]  # a module, a number of nodes, its tensors


def label(recording: Recording, prefers_first: Callable[[Key], bool]) -> Labelled:
    """Let labels flow through a recorded forward pass. ``prefers_first`` says which part of a view is the one to prune."""
    return _Labelling(recording, prefers_first).run()


class _Labelling:
    def __init__(self, recording: Recording, prefers_first: Callable[[Key], bool]):
        self.recording = recording
        self.book = LabelBook(recording.batch, prefers_first)
        self.nodes: list[Node] = []
        self.sized: set[int] = set()
        self.layers: list[CostTerm] = []
        self.paper_flops: list[CostTerm] = []
        self.named: dict[str, Traced] = {}
        self.values: dict[Value, Traced] = {}  # by the recording's numbers, which are not the program's
        self.by_memory: dict[int, list[Traced]] = {}
        self.unread: list[tuple[Traced, int]] = []  # results that bind labels if they are read, and the nodes that make them
        self.n_values = 0

    def run(self) -> Labelled:
        recording = self.recording
        inputs = [Value(i) for i in range(recording.n_inputs)]
        for value in inputs:
            self._add(value, self._new_value(), [None] * len(recording.shapes[value.index]), static=False, zeroed=True)
        sources = set(recording.memory[: recording.n_inputs])
        if any(self._writes_to(call) in sources for call in recording.calls):
            for value in inputs:  # in-place operators never change a caller's images
                copied = self._new_value()
                self.nodes.append(Node("aten.clone.default", [self.values[value].source], {}, copied.index))
                self.values[value].source = copied
        ends = [len(self.nodes)]  # how many nodes there are before the first call, and after every one
        for position, call in enumerate(recording.calls):
            self._apply(position, call)
            ends.append(len(self.nodes))
        self.book.begin_rule(OUTPUT)
        output = map_argument(self._output, recording.output)
        program = Program(recording.n_inputs, tuple(self.nodes), output)
        module_outputs = tuple(
            (path, ends[n_calls], tuple(map(self._known_source, sources))) for path, n_calls, sources in recording.module_outputs
        )
        unused = {position for traced, position in self.unread if traced.bind_if_used is not None}
        if unused:
            program, module_outputs = self._without(unused, program, module_outputs)
        return Labelled(
            self.book, program, frozenset(self.sized), self.layers, self.paper_flops, self.named, recording.named_shapes,
            recording.parameters, recording.constants, module_outputs,
        )  # fmt: skip

    # ------------------------------------------------------------------------------------------------ tensors

    def _new_value(self) -> Value:
        self.n_values += 1
        return Value(self.n_values - 1)

    def _add(self, value: Value, source: Value, labels: list, static: bool, zeroed: bool) -> Traced:
        traced = Traced(source, self.recording.shapes[value.index], labels, static, zeroed)
        self.values[value] = traced
        self.by_memory.setdefault(self.recording.memory[value.index], []).append(traced)
        return traced

    def _look_up(self, source: Value | Named) -> Traced:
        if isinstance(source, Value):
            traced = self.values[source]
            if traced.bind_if_used is not None:
                self.book.bind(traced.bind_if_used)
                traced.bind_if_used = None
            return traced
        name = source.name
        if name not in self.named:
            recording = self.recording
            shape = recording.named_shapes[name]
            owner = name if name in recording.parameters else None
            labels = [self.book.fresh(n, owner, dim) for dim, n in enumerate(shape)]
            traced = Traced(source, shape, list(labels), True, zeroed=name not in recording.constants)
            self.named[name] = traced
            self.by_memory.setdefault(recording.named_memory[name], []).append(traced)
        return self.named[name]

    def _known_source(self, source: Value | Named | None) -> Value | Named | None:
        return self.values[source].source if isinstance(source, Value) else source

    def _output(self, leaf: Any) -> Any:
        if isinstance(leaf, BatchCount):
            return BatchSize(leaf.multiple, leaf.offset)
        if not isinstance(leaf, Value | Named):
            return leaf
        traced = self._look_up(leaf)
        for labels in traced.labels:
            self.book.bind(labels)
        return traced.source

    # ------------------------------------------------------------------------------------------------ calls

    def _writes_to(self, call: RecordedCall) -> int | None:
        """The memory that an in-place operator writes to."""
        return self.recording.memory[call.outputs[0].index] if call.func._schema.is_mutable and call.outputs else None

    def _apply(self, position: int, recorded: RecordedCall) -> None:
        """Apply the rule of an operator, and note the call for the program."""
        book, shapes = self.book, self.recording.shapes
        book.begin_rule((recorded.func, recorded.module))
        tensors: list[Traced] = []

        def to_traced(argument: Any) -> Any:
            if not isinstance(argument, Value | Named):
                return argument
            tensors.append(self._look_up(argument))
            return tensors[-1]

        names, args, keywords = [], [], {}
        given = recorded.arguments
        for name, by_keyword, default in signature(recorded.func):
            value = given.get(name, default)
            if isinstance(value, FILLED):
                value = map_argument(to_traced, value)
            if not by_keyword:
                names.append(name)
                args.append(list(value) if isinstance(value, tuple) else value)
            elif name not in ("device", "layout", "pin_memory", "memory_format") and value is not None:
                keywords[name] = value
        made = [shapes[value.index] for value in recorded.outputs]
        name = str(recorded.func)
        call = Call(OUT_OF_PLACE.get(name, name), names, args, keywords, tensors, made, position)
        rule = find_rule(recorded.func)
        assert rule is not None
        before = [traced.labels for traced in tensors]
        labels = rule(call, book)
        book.end_rule(before, labels)
        if call.layer is not None:
            self.layers.append(call.layer)
        if call.paper_flops is not None:
            self.paper_flops.append(call.paper_flops)
        zeroed = zeros_stay(call, labels[0])
        for divisors in labels_that_cannot_be_zeroed(call, labels[0]):
            book.mix(divisors)
        memory = self._writes_to(recorded)
        if memory is not None and not zeroed:
            for other in self.by_memory.get(memory, ()):
                other.zeroed = False

        static = bool(tensors) and all(t.static for t in tensors)
        kept = recorded.outputs[: call.n_outputs]
        values = [self._new_value() for _ in kept]
        single = recorded.single or call.n_outputs == 1
        first_node = len(self.nodes)
        self._note(call.op, call.args, call.kwargs, values, single, recorded.module)
        for op, arguments in call.followed_by:
            result = [self._new_value()]
            self._note(op, [values[0], *arguments], {}, result, True, recorded.module)
            values = result
        for i, (value, source, dims) in enumerate(zip(kept, values, labels, strict=False)):
            if sum(isinstance(n, BatchCount) for n in shapes[value.index]) > 1:
                raise ValueError(
                    f"trace: in module {recorded.module or '(the model itself)'!r}, {recorded.func} makes a tensor of shape "
                    f"{_readable(shapes[value.index])} for a batch of n images. Two dimensions that follow the batch mean that "
                    "images are compared with each other, which is not supported."
                )
            traced = self._add(value, source, list(dims), static, zeroed)
            if i in call.bind_if_used:
                traced.bind_if_used = call.bind_if_used[i]
                if len(kept) == 1:
                    self.unread.append((traced, first_node))

    def _note(self, op: str, args: list[Any], kwargs: dict[str, Any], values: list[Value], single: bool, module: str) -> None:
        def to_source(argument: Any) -> Any:
            if isinstance(argument, Traced):
                return argument.source
            if isinstance(argument, Size):
                self.sized.add(len(self.nodes))
            elif isinstance(argument, BatchCount):
                return BatchSize(argument.multiple, argument.offset)
            return argument

        def changed(argument: Any) -> Any:
            return map_argument(to_source, argument) if isinstance(argument, NESTS) else to_source(argument)

        outputs = values[0].index if single else tuple(value.index for value in values)
        node = Node(op, [changed(a) for a in args], {key: changed(a) for key, a in kwargs.items()}, outputs, module)
        self.nodes.append(node)

    # ------------------------------------------------------------------------------------------------ the end

    def _without(self, unused: set[int], program: Program, module_outputs: tuple) -> tuple[Program, tuple]:
        """The program without the nodes ``unused``, whose results nothing reads; values stay numbered in the order in which
        they are made."""
        renamed: dict[Any, Any] = {Value(i): Value(i) for i in range(program.inputs)}
        position_of = [0]
        nodes: list[Node] = []
        sized = set()

        def rename(leaf: Any) -> Any:
            return renamed[leaf] if isinstance(leaf, Value) else leaf

        for position, node in enumerate(program.nodes):
            if position not in unused:
                made = node.outputs if isinstance(node.outputs, tuple) else (node.outputs,)
                new = [len(renamed) + i for i in range(len(made))]
                renamed |= {Value(index): Value(i) for index, i in zip(made, new, strict=True)}
                outputs = tuple(new) if isinstance(node.outputs, tuple) else new[0]
                if position in self.sized:
                    sized.add(len(nodes))
                args, kwargs = map_argument(rename, node.args), map_argument(rename, node.kwargs)
                nodes.append(Node(node.op, args, kwargs, outputs, node.module))
            position_of.append(len(nodes))
        self.sized = sized
        kept = tuple((path, position_of[n], tuple(renamed.get(s, s if isinstance(s, Named) else None) for s in sources))
                     for path, n, sources in module_outputs)  # fmt: skip
        return Program(program.inputs, tuple(nodes), map_argument(rename, program.output)), kept


def _readable(shape: Sequence[int]) -> str:
    def size(n: int) -> str:
        if not isinstance(n, BatchCount):
            return str(n)
        return f"{'' if n.multiple == 1 else f'{n.multiple} '}n{f' {n.offset:+d}' if n.offset else ''}"

    return f"({', '.join(map(size, shape))})"
