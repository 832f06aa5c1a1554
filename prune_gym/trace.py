"""From a model to its channel graph: one run on the meta device, with labels flowing through every operator.

No arithmetic is done and no module is looked at: a :class:`TorchDispatchMode` sees the ATen operators that the forward
pass dispatches, and :mod:`prune_gym.operators` says what each does to the labels. See ``docs/tracing.md``.
"""

from __future__ import annotations

import copy
import gc
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FunctionType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from prune_gym.graph import ChannelGraph
from prune_gym.labels import LabelBook
from prune_gym.operators import BATCH, Call, Layer, Size, Traced, find_rule
from prune_gym.program import Named, Node, Program, Value, leaves, map_argument
from prune_gym.resolve import Recording, resolve


class UnknownOperatorError(NotImplementedError):
    """The forward pass calls an operator for which no rule says what it does to channels."""


def trace(model: nn.Module, example_input: Tensor | Sequence[Tensor]) -> ChannelGraph:
    """Find which channels of ``model`` can be removed, and what goes with each of them.

    The model is run once in evaluation mode on the meta device; it is neither modified nor executed. ``example_input``
    is one tensor or a sequence of tensors, images first in every one: (N, C, H, W). Only its shape and dtype matter, and
    N does not.

    Raises:
        UnknownOperatorError: the forward pass uses an operator without a rule; names it and the module it sits in.
        TypeError, ValueError: a bad ``model`` or ``example_input``.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: expected a torch.nn.Module, got {type(model).__name__}.")
    inputs = [example_input] if isinstance(example_input, Tensor) else list(example_input)
    if not inputs or not all(isinstance(x, Tensor) and x.ndim > 0 for x in inputs):
        raise TypeError("example_input: expected a tensor (N, C, H, W) or a non-empty sequence of tensors.")
    with _no_garbage_collection():
        return _trace(model, inputs)


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


def _trace(model: nn.Module, inputs: list[Tensor]) -> ChannelGraph:
    copied, tensors = _meta_copy(model)
    tracer = _Tracer(tensors)
    batch = inputs[0].shape[0]
    with torch.no_grad():
        metas = [
            torch.empty((BATCH if x.shape[0] == batch else x.shape[0], *x.shape[1:]), dtype=x.dtype, device="meta")
            for x in inputs
        ]
        for x in metas:
            tracer.add_input(x)
        for path, module in copied.named_modules():
            module.register_forward_pre_hook(lambda _module, _args, path=path: tracer.path.append(path))
            module.register_forward_hook(lambda *_: tracer.leave())
        with tracer, _Composites(tracer):
            output = copied(*metas)
    return resolve(tracer.finish(output, model))


def _meta_copy(model: nn.Module) -> tuple[nn.Module, dict[str, Tensor]]:
    """A copy of the model without data, in evaluation mode, and its parameters and buffers by name.

    What ``copy.deepcopy`` would give, but several times faster: modules are copied here, and only attributes that are
    neither modules, tensors nor immutable go through ``deepcopy``.
    """
    memo: dict[int, Any] = {}
    tensors = {}
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if isinstance(tensor, nn.parameter.UninitializedTensorMixin):
            raise ValueError(f"model: {name!r} is not initialised; run the model on a batch once before tracing it.")
        empty = torch.empty_like(tensor, device="meta", requires_grad=False)
        tensors[name] = memo[id(tensor)] = nn.Parameter(empty, False) if isinstance(tensor, nn.Parameter) else empty

    def copied(module: nn.Module) -> nn.Module:
        twin = memo[id(module)] = object.__new__(type(module))
        for key, value in module.__dict__.items():
            if type(value) in _IMMUTABLE:
                twin.__dict__[key] = value
            elif key in ("_parameters", "_buffers"):
                twin.__dict__[key] = {name: None if t is None else memo[id(t)] for name, t in value.items()}
            elif key != "_modules":
                twin.__dict__[key] = (
                    type(value)() if type(value) in (dict, OrderedDict) and not value else copy.deepcopy(value, memo)
                )
        return twin

    modules = list(model.modules())
    for module in modules:
        copied(module)
    for module in modules:
        memo[id(module)].__dict__["_modules"] = {
            name: None if child is None else memo[id(child)] for name, child in module._modules.items()
        }
    return memo[id(model)].eval(), tensors


_IMMUTABLE = (int, float, bool, str, bytes, type(None), type, torch.dtype, torch.device, torch.Size, FunctionType)


class _Tracer(TorchDispatchMode):
    """Records every dispatched operator as a node and lets labels flow through it."""

    def __init__(self, tensors: dict[str, Tensor]):
        super().__init__()
        self.book = LabelBook()
        self.nodes: list[Node] = []
        self.sized: set[int] = set()  # the nodes with an argument that depends on what is kept
        self.layers: list[Layer] = []
        self.extras: list[tuple] = []
        self.path: list[str] = []
        self.constants: dict[str, Tensor] = {}
        self.paused = False
        self._traced: dict[int, Traced] = {}
        self._alive: list[Tensor] = []  # ids are only unique among living tensors
        self._names = {id(tensor): name for name, tensor in tensors.items()}
        self._tensors = tensors
        self._input_storages: list[int] = []
        self._writes_input = False
        self._values = 0
        self.named: dict[str, Traced] = {}

    # ------------------------------------------------------------------------------------------------ tensors

    def add_input(self, x: Tensor) -> None:
        self._input_storages.append(x.untyped_storage()._cdata)
        self._add(x, self._value(), [None] * x.ndim, static=False)

    def _value(self) -> Value:
        self._values += 1
        return Value(self._values - 1)

    def _add(self, tensor: Tensor, source: Value | Named, labels: list, static: bool) -> Traced:
        traced = Traced(source, tuple(tensor.shape), labels, static)
        self._traced[id(tensor)] = traced
        self._alive.append(tensor)
        return traced

    def _look_up(self, tensor: Tensor) -> Traced:
        known = self._traced.get(id(tensor))
        if known is not None:
            return known
        name = self._names.get(id(tensor))
        if name is None:  # a tensor that the forward pass made or holds without registering it
            name = f"constant{len(self.constants)}"
            self.constants[name] = tensor.detach().clone()
        labels = [self.book.fresh(n, name, dim) for dim, n in enumerate(tensor.shape)]
        self.named[name] = self._add(tensor, Named(name), list(labels), static=True)
        return self.named[name]

    # ------------------------------------------------------------------------------------------------ operators

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if self.paused:
            return func(*args, **kwargs)
        tensors = [leaf for leaf in leaves([args, kwargs]) if isinstance(leaf, Tensor)]
        schema = func._schema.arguments
        if not tensors and any(argument.name == "device" for argument in schema):
            kwargs = {**kwargs, "device": torch.device("meta")}
        if tensors and not any(tensor.is_meta for tensor in tensors):
            return func(*args, **kwargs)  # arithmetic on constants: its result is a constant
        given = dict(zip((argument.name for argument in schema), args, strict=False)) | kwargs
        meta_args, meta_kwargs = map_argument(_to_meta, (list(args), kwargs))
        result = _shortcut(func, meta_args)
        result = func(*meta_args, **meta_kwargs) if result is None else result
        self.record(func, given, result)
        return result

    def record(self, func: torch._ops.OpOverload, given: dict[str, Any], result: Any) -> None:
        rule = find_rule(func)
        if rule is None:
            raise UnknownOperatorError(
                f"trace: operator {func} in module {self.where} has no rule for channel labels; "
                "add one to prune_gym/operators.py, or rewrite that part of the forward pass with known operators."
            )

        tensors: list[Traced] = []

        def to_traced(argument: Any) -> Any:
            if not isinstance(argument, Tensor):
                return argument
            tensors.append(self._look_up(argument))
            return tensors[-1]

        names, args, keywords = [], [], {}
        for argument in func._schema.arguments:
            value = map_argument(to_traced, given[argument.name]) if argument.name in given else argument.default_value
            if not argument.kwarg_only:
                names.append(argument.name)
                args.append(list(value) if isinstance(value, tuple) else value)
            elif argument.name not in ("device", "layout", "pin_memory", "memory_format") and value is not None:
                keywords[argument.name] = value
        outputs = [result] if isinstance(result, Tensor) else list(result)
        call = Call(str(func), names, args, keywords, tensors, [tuple(t.shape) for t in outputs])
        labels = rule(call, self.book)
        if call.layer is not None:
            self.layers.append(call.layer)
        if call.extra is not None:
            self.extras.append(call.extra)
        if func._schema.is_mutable and outputs[0].untyped_storage()._cdata in self._input_storages:
            self._writes_input = True

        static = bool(tensors) and all(t.static for t in tensors)
        values = []
        for tensor, dims in zip(outputs[: call.drop], labels, strict=False):
            value = self._value()
            values.append(value.index)
            self._add(tensor, value, list(dims), static)

        def to_source(argument: Any) -> Any:
            if isinstance(argument, Size):
                self.sized.add(len(self.nodes))
            return argument.source if isinstance(argument, Traced) else argument

        single = isinstance(result, Tensor) or call.drop == 1
        node_args, node_kwargs = map_argument(to_source, call.args), map_argument(to_source, call.kwargs)
        self.nodes.append(Node(call.op, node_args, node_kwargs, values[0] if single else tuple(values)))

    def leave(self) -> None:
        self.path.pop()

    @property
    def where(self) -> str:
        return repr(self.path[-1] or "(the model itself)") if self.path else "'(the model itself)'"

    # ------------------------------------------------------------------------------------------------ the end

    def finish(self, output: Any, model: nn.Module) -> Recording:
        def to_value(leaf: Any) -> Any:
            if not isinstance(leaf, Tensor):
                return leaf
            traced = self._look_up(leaf)
            for labels in traced.labels:
                self.book.bind(labels)
            return traced.source

        if not all(leaf is None or isinstance(leaf, Tensor | int | float | str) for leaf in leaves(output)):
            raise TypeError(f"model: expected tensors in lists, tuples or dicts as its output, got {type(output).__name__}.")
        program = Program(len(self._input_storages), tuple(self.nodes), map_argument(to_value, output))
        if self._writes_input:
            program = self._on_copies(program)
        shapes = {name: tuple(t.shape) for name, t in self._tensors.items()}
        shapes |= {name: tuple(t.shape) for name, t in self.constants.items()}
        parameters = frozenset(name for name, _ in model.named_parameters())
        return Recording(
            self.book, program, frozenset(self.sized), self.layers, self.extras, self.named, shapes, parameters, self.constants
        )

    def _on_copies(self, program: Program) -> Program:
        """The same program on clones of its inputs, so that in-place operators never change a caller's images."""
        clones = {Value(i): self._value() for i in range(program.inputs)}

        def swap(leaf: Any) -> Any:
            return clones.get(leaf, leaf) if isinstance(leaf, Value) else leaf

        self.sized = {index + len(clones) for index in self.sized}
        nodes = [Node("aten.clone.default", [value], {}, clone.index) for value, clone in clones.items()]
        nodes += [Node(n.op, map_argument(swap, n.args), map_argument(swap, n.kwargs), n.outputs) for n in program.nodes]
        return Program(program.inputs, tuple(nodes), map_argument(swap, program.output))


_ELEMENTWISE = frozenset(
    f"{name}{inplace}" for name in ("relu", "relu6", "hardtanh", "hardswish", "hardsigmoid", "silu", "gelu", "sigmoid", "add", "mul")
    for inplace in ("", "_")
)  # fmt: skip
_BATCH_NORMS = frozenset(["native_batch_norm", "_native_batch_norm_legit", "_native_batch_norm_legit_no_training"])


def _shortcut(func: torch._ops.OpOverload, args: list[Any]) -> Any:
    """The result of a frequent operator that keeps the shape of its input. PyTorch's own meta kernels for these are
    written in Python and would take most of the time of a trace."""
    first = args[0]
    if func._opname in _BATCH_NORMS:
        return torch.empty_like(first), first.new_empty(0), first.new_empty(0)
    if func._opname not in _ELEMENTWISE:
        return None
    if any(isinstance(a, Tensor) and (a.shape != first.shape or a.dtype != first.dtype) for a in args[1:]):
        return None
    return first if func._opname.endswith("_") else torch.empty_like(first)


def _to_meta(leaf: Any) -> Any:
    if isinstance(leaf, Tensor) and leaf.device.type != "meta":
        return torch.empty_like(leaf, device="meta")
    return leaf


# --------------------------------------------------------------------------------- functions recorded in one piece


def _dropout(name: str) -> tuple[Any, Callable[..., dict[str, Any]]]:
    def given(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> dict[str, Any]:
        return {"input": input, "p": p, "train": training}

    return getattr(torch.ops.aten, name).default, given


def _adaptive_avg_pool(n: int) -> tuple[Any, Callable[..., dict[str, Any]]]:
    def given(input: Tensor, output_size: Any) -> dict[str, Any]:
        sizes = [output_size] * n if isinstance(output_size, int) else list(output_size)
        sizes = [have if want is None else want for want, have in zip(sizes, input.shape[-n:], strict=True)]
        return {"self": input, "output_size": sizes}

    return getattr(torch.ops.aten, f"adaptive_avg_pool{n}d").default, given


def _instance_norm() -> tuple[Any, Callable[..., dict[str, Any]]]:
    def given(
        input: Tensor,
        running_mean: Tensor | None = None,
        running_var: Tensor | None = None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        use_input_stats: bool = True,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> dict[str, Any]:
        return {
            "input": input, "weight": weight, "bias": bias, "running_mean": running_mean, "running_var": running_var,
            "use_input_stats": use_input_stats, "momentum": momentum, "eps": eps, "cudnn_enabled": True,
        }  # fmt: skip

    return torch.ops.aten.instance_norm.default, given


def _by_schema(func: torch._ops.OpOverload) -> Callable[..., dict[str, Any]]:
    return lambda *args, **kwargs: dict(zip((a.name for a in func._schema.arguments), args, strict=False)) | kwargs


class _Composites(TorchFunctionMode):
    """Sees some functions before they fall apart into operators: those whose parts forget the training mode (dropout,
    instance norm) or which pooling it was (the paper's FLOPs count an adaptive pooling, not a mean)."""

    FUNCTIONS = {
        F.dropout: _dropout("dropout"),
        F.dropout1d: _dropout("feature_dropout"),
        F.dropout2d: _dropout("feature_dropout"),
        F.dropout3d: _dropout("feature_dropout"),
        F.alpha_dropout: _dropout("alpha_dropout"),
        F.feature_alpha_dropout: _dropout("feature_alpha_dropout"),
        F.adaptive_avg_pool1d: _adaptive_avg_pool(1),
        F.adaptive_avg_pool2d: _adaptive_avg_pool(2),
        F.adaptive_avg_pool3d: _adaptive_avg_pool(3),
        F.instance_norm: _instance_norm(),
    }

    OPERATORS = frozenset(op for op, _ in FUNCTIONS.values())  # a PrunedNetwork calls these themselves

    def __init__(self, tracer: _Tracer):
        super().__init__()
        self.tracer = tracer

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        known = (func, _by_schema(func)) if func in self.OPERATORS else self.FUNCTIONS.get(func)
        if known is None or self.tracer.paused:
            return func(*args, **kwargs)
        op, to_given = known
        self.tracer.paused = True
        try:
            result = func(*args, **kwargs)
            if any(result is argument for argument in args):  # dropout in evaluation mode hands back its input
                result = result.view_as(result)
        finally:
            self.tracer.paused = False
        self.tracer.record(op, to_given(*args, **kwargs), result)
        return result
