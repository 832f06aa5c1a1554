"""From a model to its channel graph: one run on the meta device, with labels flowing through every operator.

No arithmetic is done and no module is looked at: a :class:`TorchDispatchMode` sees the ATen operators that the forward
pass dispatches, and :mod:`prune_gym.operators` says what each does to the labels. See ``docs/tracing.md``.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from prune_gym.graph.channel_graph import ChannelGraph
from prune_gym.graph.composites import Composites
from prune_gym.graph.copying import MetaCopies, empty_like, meta_tensors
from prune_gym.graph.labels import Key, LabelBook
from prune_gym.graph.operators import BATCH, Call, CostTerm, Size, Traced, count_images, find_rule, poles, zeros_stay
from prune_gym.graph.program import BatchSize, Named, Node, Program, Value, leaves, map_argument, signature, takes_device
from prune_gym.graph.resolve import Recording, resolve


class UnknownOperatorError(NotImplementedError):
    """The forward pass calls an operator for which no rule says what it does to channels."""


def trace(model: nn.Module, example_input: Tensor | Sequence[Tensor]) -> ChannelGraph:
    """Find which channels of ``model`` can be removed, and what goes with each of them.

    The model is run once in evaluation mode on the meta device; it is neither modified nor executed. ``example_input``
    is one tensor or a list or tuple of tensors, images first in every one: (N, C, H, W). Only its shape and dtype matter,
    and N does not.

    Raises:
        UnknownOperatorError: the forward pass uses an operator without a rule; names it and the module it sits in.
        TypeError, ValueError: a bad ``model`` or ``example_input``, or one that does not fit the other.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: expected a torch.nn.Module, got {type(model).__name__}.")
    is_sequence = isinstance(example_input, list | tuple)
    inputs: list[Any] = list(example_input) if is_sequence else [example_input]
    if not inputs or not all(isinstance(x, Tensor) and x.ndim > 0 for x in inputs):
        raise TypeError("example_input: expected a tensor (N, C, H, W) or a non-empty sequence of tensors.")
    with _no_garbage_collection():
        return _trace(model, inputs)


def trace_training(model: nn.Module, args: list[Any], kwargs: dict[str, Any]) -> ChannelGraph:
    """The same in training mode, for the ``example`` of a graph: with the layers that run in training mode only."""
    with _no_garbage_collection():
        return _trace(model, [*args, *kwargs.values()], training=True)


def _trace(model: nn.Module, inputs: list[Tensor], training: bool = False) -> ChannelGraph:
    """Where a view splits channels, either part may be the one to prune: in a channel shuffle it is the last, in a pixel
    shuffle written with views the first. Both are exact, so what leaves more to prune is taken, view by view."""
    tracer, graph = _run(model, inputs, lambda _key: False, training)
    if not tracer.book.choices:
        return graph
    other, other_graph = _run(model, inputs, lambda _key: True, training)
    last, first = tracer.book.parts(), other.book.parts()
    better = {key for key in first if first[key] > last.get(key, 0)}
    graphs = [graph, other_graph]
    if 0 < len(better) < len(other.book.choices):
        graphs.append(_run(model, inputs, better.__contains__, training)[1])
    return max(graphs, key=lambda graph: (graph.n_filters, graph.n_units))


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """A trace makes many objects that stay, and the collector would walk through all of them again and again."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _run(
    model: nn.Module, inputs: list[Tensor], prefers_first: Callable[[Key], bool], training: bool
) -> tuple[_Tracer, ChannelGraph]:
    # out of any inference mode, under which operators would arrive as composites
    with torch.inference_mode(False), torch.no_grad():
        originals = dict([*model.named_parameters(), *model.named_buffers()])
        tensors = meta_tensors(originals)
        copied = MetaCopies(model, originals).copy(tensors).train(training)
        tracer = _Tracer(model, inputs, originals, tensors)
        tracer.book.prefers_first = prefers_first
        batch = inputs[0].shape[0]
        metas = [
            torch.empty((BATCH if x.shape[0] == batch else x.shape[0], *x.shape[1:]), dtype=x.dtype, device="meta")
            for x in inputs
        ]
        for x in metas:
            tracer.add_input(x)
        for path, module in copied.named_modules():
            module.register_forward_pre_hook(lambda _module, _args, path=path: tracer.path.append(path))
            module.register_forward_hook(lambda *_: tracer.leave())
        try:
            with tracer, tracer.composites:
                output = copied(*metas)
        except UnknownOperatorError:
            raise
        except RuntimeError as error:
            shapes = ", ".join(str(tuple(x.shape)) for x in inputs)
            raise ValueError(
                f"example_input: the forward pass fails on the shape {shapes}, in module {tracer.where}, where the trace puts "
                f"{BATCH} for the batch size: {error}"
            ) from error
        return tracer, resolve(tracer.finish(output))


class _Tracer(TorchDispatchMode):
    """Records every dispatched operator as a node and lets labels flow through it."""

    def __init__(self, model: nn.Module, inputs: list[Tensor], originals: dict[str, Tensor], tensors: dict[str, Tensor]):
        super().__init__()
        self.book = LabelBook()
        self.nodes: list[Node] = []
        self.sized: set[int] = set()  # the nodes with an argument that depends on what is kept
        self.layers: list[CostTerm] = []
        self.extras: list[CostTerm] = []
        self.path: list[str] = []
        self.constants: dict[str, Tensor] = {}
        self.example: tuple[list[Any], dict[str, Any]] = ([torch.empty_like(x, device="meta") for x in inputs], {})
        self.composites = Composites(self.record)
        self._traced: dict[int, Traced] = {}
        self._alive: list[Tensor] = []  # ids are only unique among living tensors
        self._tensors = tensors
        self._memory = {name: tensor.untyped_storage()._cdata for name, tensor in tensors.items()}
        self._names = {id(tensor): name for name, tensor in tensors.items()}
        # a function that the model got from elsewhere may read the original's
        self._names |= {id(tensor): name for name, tensor in originals.items()}
        self._parameters = frozenset(name for name, tensor in originals.items() if isinstance(tensor, nn.Parameter))
        self._taken = {name.partition(".")[0] for name in tensors} | {name for name, _ in model.named_children()}
        self._dispatched = 0
        self._input_storages: list[int] = []
        self._writes_input = False
        self._debtors: list[Traced] = []
        self._values = 0
        self.named: dict[str, Traced] = {}

    # ------------------------------------------------------------------------------------------------ tensors

    def add_input(self, x: Tensor) -> None:
        self._input_storages.append(x.untyped_storage()._cdata)
        self._add(x, self._value(), [None] * x.ndim, static=False, zeroed=True)

    def _value(self) -> Value:
        self._values += 1
        return Value(self._values - 1)

    def _add(self, tensor: Tensor, source: Value | Named, labels: list, static: bool, zeroed: bool) -> Traced:
        if sum(map(count_images, tensor.shape)) > 1:  # one of them is none, and could not be told from the other
            raise ValueError(
                f"trace: in module {self.where}, a tensor of shape {tuple(tensor.shape)} has two dimensions that look like the "
                f"batch, of which the trace has {BATCH}; use an example of another size, and no layer of such a width."
            )
        traced = Traced(source, tuple(tensor.shape), labels, static, zeroed)
        self._traced[id(tensor)] = traced
        self._alive.append(tensor)
        return traced

    def _look_up(self, tensor: Tensor) -> Traced:
        known = self._traced.get(id(tensor))
        if known is not None:
            if known.debt is not None:
                self.book.bind(known.debt)
                known.debt = None
            return known
        name = self._names.get(id(tensor))
        if name is None and tensor.is_meta:
            whole = self._look_up(self._same_memory(tensor))
            alias = self._add(tensor, self._value(), whole.labels, whole.static, whole.zeroed)
            self.nodes.append(Node("aten.detach.default", [whole.source], {}, self._values - 1, self._module))
            return alias
        if name is None:  # a tensor that the forward pass made or holds without registering it
            if any(count_images(n) for n in tensor.shape):
                raise ValueError(
                    f"trace: module {self.where} makes a tensor as long as the batch from numbers, as torch.tensor([...]) "
                    "does, which cannot be made again for another batch; use torch.zeros, torch.full or torch.arange."
                )
            name = f"constant{len(self.constants)}"
            while name in self._taken:
                name += "_"
            self._taken.add(name)
            self.constants[name] = tensor.detach().clone()
        if name not in self.named:
            owner = name if name in self._parameters else None
            labels = [self.book.fresh(n, owner, dim) for dim, n in enumerate(tensor.shape)]
            self.named[name] = self._add(tensor, Named(name), list(labels), static=True, zeroed=name in self._tensors)
        self._traced[id(tensor)] = self.named[name]
        self._alive.append(tensor)
        return self.named[name]

    def _same_memory(self, tensor: Tensor) -> Tensor:
        """The tensor that ``x.data`` or ``nn.Parameter(x)`` stands for: no operator is dispatched for these."""
        memory, form = tensor.untyped_storage()._cdata, (tensor.shape, tensor.stride())
        for other in [*reversed(self._alive), *self._tensors.values()]:
            if (other.shape, other.stride()) == form and other.untyped_storage()._cdata == memory:
                return other
        raise ValueError(f"trace: module {self.where} uses a tensor that came from no operator seen in this forward pass.")

    # ------------------------------------------------------------------------------------------------ operators

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if self.composites.inside or func.namespace == "profiler":
            return func(*args, **kwargs)
        if torch.is_inference_mode_enabled():  # there, operators arrive here before they fall apart into simpler ones
            with self:
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        tensors = [leaf for leaf in leaves([args, kwargs]) if isinstance(leaf, Tensor)]
        if tensors and not any(tensor.is_meta or id(tensor) in self._names for tensor in tensors):
            here = {key: item for key, item in kwargs.items() if key != "device"}
            return func(*args, **here)  # arithmetic on constants: its result is a constant, which stays where it is
        if kwargs.get("device") is not None or (not tensors and takes_device(func)):
            kwargs = {**kwargs, "device": torch.device("meta")}
        if find_rule(func) is None:
            raise UnknownOperatorError(
                f"trace: operator {func} in module {self.where} has no rule for channel labels; "
                "add one to prune_gym/operators, or rewrite that part of the forward pass with known operators."
            )
        given = dict(zip((name for name, _, _ in signature(func)), args, strict=False)) | kwargs
        meta_args, meta_kwargs = map_argument(self._to_meta, (list(args), kwargs))
        result = _shortcut(func, meta_args)
        if result is None:
            try:
                result = func(*meta_args, **meta_kwargs)
            except NotImplementedError as error:
                raise UnknownOperatorError(f"trace: operator {func} in module {self.where} needs data: {error}") from error
        self.record(func, given, result)
        return result

    def _to_meta(self, leaf: Any) -> Any:
        if not isinstance(leaf, Tensor) or leaf.is_meta:
            return leaf
        name = self._names.get(id(leaf))
        return torch.empty_like(leaf, device="meta") if name is None else self._tensors[name]

    def record(self, func: torch._ops.OpOverload, given: dict[str, Any], result: Any) -> None:
        """Apply the rule of an operator to what it was given, and note the call for the program."""
        rule = find_rule(func)
        assert rule is not None
        tensors: list[Traced] = []

        def to_traced(argument: Any) -> Any:
            if not isinstance(argument, Tensor):
                return argument
            tensors.append(self._look_up(argument))
            return tensors[-1]

        names, args, keywords = [], [], {}
        for name, by_keyword, default in signature(func):
            value = map_argument(to_traced, given[name]) if name in given else default
            if not by_keyword:
                names.append(name)
                args.append(list(value) if isinstance(value, tuple) else value)
            elif name not in ("device", "layout", "pin_memory", "memory_format") and value is not None:
                keywords[name] = value
        outputs = [result] if isinstance(result, Tensor) else list(result)
        call = Call(str(func), names, args, keywords, tensors, [tuple(t.shape) for t in outputs], self._dispatched)
        self._dispatched += 1
        labels = rule(call, self.book)
        if call.layer is not None:
            self.layers.append(call.layer)
        if call.extra is not None:
            self.extras.append(call.extra)
        zeroed = zeros_stay(call, labels[0])
        for divisors in poles(call, labels[0]):
            self.book.mix(divisors)
        if func._schema.is_mutable:
            self._write(outputs[0], zeroed)

        def to_source(argument: Any) -> Any:
            if isinstance(argument, Size):
                self.sized.add(len(self.nodes))
            if count_images(argument):
                return argument if isinstance(argument, Size) else BatchSize(argument // BATCH)
            return argument.source if isinstance(argument, Traced) else argument

        static = bool(tensors) and all(t.static for t in tensors)
        single = isinstance(result, Tensor) or call.drop == 1
        values = [self._value() for _ in outputs[: call.drop]]
        node_args, node_kwargs = map_argument(to_source, call.args), map_argument(to_source, call.kwargs)
        made = values[0].index if single else tuple(value.index for value in values)
        self.nodes.append(Node(call.op, node_args, node_kwargs, made, self._module))
        for op, more in call.then:
            node_args = [values[0], *map_argument(to_source, more)]
            values = [self._value()]
            self.nodes.append(Node(op, node_args, {}, values[0].index, self._module))
        for tensor, value, dims in zip(outputs, values, labels, strict=False):
            traced = self._add(tensor, value, list(dims), static, zeroed)
            if call.debt is not None:
                traced.debt = call.debt
                self._debtors.append(traced)

    def _write(self, tensor: Tensor, zeroed: bool) -> None:
        """An operator has written to the memory of ``tensor``, which others may share."""
        memory = tensor.untyped_storage()._cdata
        self._writes_input |= memory in self._input_storages
        if not zeroed:
            for other in self._alive:
                if other.untyped_storage()._cdata == memory:
                    self._traced[id(other)].zeroed = False

    def leave(self) -> None:
        self.path.pop()

    @property
    def _module(self) -> str:
        return self.path[-1] if self.path else ""

    @property
    def where(self) -> str:
        return repr(self._module or "(the model itself)")

    # ------------------------------------------------------------------------------------------------ the end

    def finish(self, output: Any) -> Recording:
        """All that was recorded; channels that reach the model's output stay."""

        def to_value(leaf: Any) -> Any:
            if not isinstance(leaf, Tensor):
                return leaf
            traced = self._look_up(leaf)
            for labels in traced.labels:
                self.book.bind(labels)
            return traced.source

        if not all(leaf is None or isinstance(leaf, Tensor | int | float | str) for leaf in leaves(output)):
            raise TypeError(f"model: expected tensors in lists, tuples or dicts as its output, got {type(output).__name__}.")
        for name, tensor in self._tensors.items():
            if tensor.untyped_storage()._cdata != self._memory[name]:
                raise UnknownOperatorError(f"trace: the forward pass assigns to {name}.data; the smaller network would not.")
        program = Program(len(self._input_storages), tuple(self.nodes), map_argument(to_value, output))
        unused = {traced.source for traced in self._debtors if traced.debt is not None}
        if unused or self._writes_input:
            program = self._tidied(program, unused)
        shapes = {name: tuple(t.shape) for name, t in self._tensors.items()}
        shapes |= {name: tuple(t.shape) for name, t in self.constants.items()}
        sized = frozenset(self.sized)
        return Recording(
            self.book,
            program,
            sized,
            self.layers,
            self.extras,
            self.named,
            shapes,
            self._parameters,
            self.constants,
            self.example,
        )

    def _tidied(self, program: Program, unused: set[Value | Named]) -> Program:
        """The same program without what nothing uses, and where it writes to its inputs, on clones of them: in-place operators
        never change a caller's images."""
        n = program.inputs
        clones = n if self._writes_input else 0
        nodes = [Node("aten.clone.default", [Value(i)], {}, n + i) for i in range(clones)]
        renamed = {Value(i): Value(i + clones) for i in range(n)}  # values are numbered in the order in which they are made
        sized = set()

        def rename(leaf: Any) -> Any:
            return renamed[leaf] if isinstance(leaf, Value) else leaf

        for position, node in enumerate(program.nodes):
            made = (node.outputs,) if isinstance(node.outputs, int) else node.outputs
            if Value(made[0]) in unused:
                continue
            first = len(renamed) + clones
            renamed |= {Value(index): Value(first + i) for i, index in enumerate(made)}
            outputs = tuple(range(first, first + len(made))) if isinstance(node.outputs, tuple) else first
            if position in self.sized:
                sized.add(len(nodes))
            args, kwargs = map_argument(rename, node.args), map_argument(rename, node.kwargs)
            nodes.append(Node(node.op, args, kwargs, outputs, node.module))
        self.sized = sized
        return Program(n, tuple(nodes), map_argument(rename, program.output))


_ELEMENTWISE = frozenset(
    f"{name}{inplace}" for inplace in ("", "_") for name in
    ("relu", "relu6", "hardtanh", "hardswish", "hardsigmoid", "silu", "gelu", "sigmoid", "add", "mul")
)  # fmt: skip
_BATCH_NORMS = frozenset(["native_batch_norm", "_native_batch_norm_legit", "_native_batch_norm_legit_no_training"])


def _shortcut(func: torch._ops.OpOverload, args: list[Any]) -> Any:
    """The result of a frequent operator that keeps the shape of its input. PyTorch's own meta kernels for these are
    written in Python and would take most of the time of a trace."""
    first = args[0]
    if func._opname in _BATCH_NORMS:
        return empty_like(first), first.new_empty(0), first.new_empty(0)
    if func._opname not in _ELEMENTWISE:
        return None
    if any(isinstance(a, Tensor) and (a.shape != first.shape or a.dtype != first.dtype) for a in args[1:]):
        return None
    return first if func._opname.endswith("_") else empty_like(first)
