"""One run of a model on the meta device, and every ATen operator that it dispatches, in order.

No arithmetic is done and no module is looked at: a :class:`TorchDispatchMode` sees the operators of the forward pass. What they
mean for channels is found out later, from the recording alone (:mod:`prune_gym.graph.labelling`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from prune_gym.graph.advice import DEPENDS_ON_VALUES, advice
from prune_gym.graph.composites import Composites
from prune_gym.graph.operators import find_rule
from prune_gym.graph.program import NESTS, Named, Value, leaves, map_argument, signature, takes_device
from prune_gym.graph.shortcuts import shortcut


class UnknownOperatorError(NotImplementedError):
    """The forward pass calls an operator for which no rule says what it does to channels."""


@dataclass(slots=True, eq=False)
class RecordedCall:
    """One dispatched operator: its arguments by name, tensors as :class:`Value` or :class:`Named`, and the values it made."""

    func: torch._ops.OpOverload
    arguments: dict[str, Any]
    outputs: tuple[Value, ...]
    single: bool  # it returns one tensor, not a tuple of them
    module: str


@dataclass(slots=True, eq=False)
class Recording:
    """A forward pass with ``batch`` images. Values are numbered in the order in which they were made, inputs first; ``shapes``
    and ``memory`` (an identifier of the storage) are listed by that number."""

    batch: int
    dtype: torch.dtype | None  # of the floating-point inputs
    n_inputs: int
    calls: list[RecordedCall]
    shapes: list[tuple[int, ...]]
    memory: list[int]
    named_shapes: dict[str, tuple[int, ...]]
    named_memory: dict[str, int]
    parameters: frozenset[str]
    constants: dict[str, Tensor]
    module_outputs: list[tuple[str, int, Any]]  # the module, the number of calls before it returned, and what it returned
    output: Any = None

    def first_use(self, name: str) -> int:
        """The number of the first call that reads a named tensor, -1 if only the output holds it."""
        uses = (
            i for i, call in enumerate(self.calls) if any(leaf == Named(name) for leaf in leaves(list(call.arguments.values())))
        )
        return next(uses, -1)

    def where(self, position: int) -> str:
        """The module that makes a call, as errors name it."""
        module = self.calls[position].module if position >= 0 else ""
        return repr(module or "(the model itself)")


_VIEWS = (torch.ops.aten.view.default, torch.ops.aten._unsafe_view.default)


@cache
def _value(index: int) -> Value:
    """One object for every number, as comparing identical objects is much faster."""
    return Value(index)


def record(
    model: nn.Module,
    originals: dict[str, Tensor],
    tensors: dict[str, Tensor],
    args: Sequence[Any],
    kwargs: dict[str, Any],
    batch: int,
    watch: bool = True,
) -> Recording:
    """Run ``model``, a copy on the meta device whose parameters and buffers are ``tensors``, on meta tensors.

    ``originals`` are the tensors of the network that it was copied from, by the same names. ``watch`` notes in which module
    every call is made, which takes a quarter of the time. Raises :class:`UnknownOperatorError`, and whatever the forward pass
    raises, with an attribute ``module`` that says where.
    """
    recorder = _Recorder(originals, tensors, batch)
    for x in leaves([list(args), kwargs]):
        recorder.add_input(x)
    if watch:
        for path, module in model.named_modules():
            module.register_forward_pre_hook(lambda _module, _args, path=path: recorder.enter(path))
            module.register_forward_hook(lambda _module, _args, output, path=path: recorder.leave(path, output))
    try:
        with recorder, recorder.composites:
            output = model(*args, **kwargs)
    except Exception as error:
        error.module = recorder.where  # type: ignore[attr-defined]
        raise
    return recorder.finish(output)


class _Recorder(TorchDispatchMode):
    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """PyTorch would wrap what is called for every operator, and import its compiler for that, which takes seconds."""
        return False

    def __init__(self, originals: dict[str, Tensor], tensors: dict[str, Tensor], batch: int):
        super().__init__()
        self.composites = Composites(self.record)
        self._path: list[str] = []
        self._sources: dict[int, Value | Named] = {}
        self._alive: list[Tensor] = []  # ids are only unique among living tensors
        self._tensors = tensors
        self._names = {id(tensor): name for name, tensor in tensors.items()}
        # a function that the model got from elsewhere may read the original's
        self._names |= {id(tensor): name for name, tensor in originals.items()}
        self._taken = {name.partition(".")[0] for name in tensors}
        self.recording = Recording(
            batch, None, 0, [], [], [], {name: tuple(tensor.shape) for name, tensor in tensors.items()},
            {name: tensor.untyped_storage()._cdata for name, tensor in tensors.items()},
            frozenset(name for name, tensor in originals.items() if isinstance(tensor, nn.Parameter)), {}, [],
        )  # fmt: skip

    # ------------------------------------------------------------------------------------------------ tensors

    def add_input(self, x: Tensor) -> None:
        self._add(x)
        self.recording.n_inputs += 1
        if x.is_floating_point() and self.recording.dtype is None:
            self.recording.dtype = x.dtype

    def _add(self, tensor: Tensor) -> Value:
        source = _value(len(self.recording.shapes))
        self.recording.shapes.append(tuple(tensor.shape))
        self.recording.memory.append(tensor.untyped_storage()._cdata)
        self._sources[id(tensor)] = source
        self._alive.append(tensor)
        return source

    def _source(self, tensor: Any) -> Any:
        """Where a tensor comes from; anything else as it is."""
        if not isinstance(tensor, Tensor):
            return tensor
        known = self._sources.get(id(tensor))
        if known is not None:
            return known
        name = self._names.get(id(tensor))
        if name is None and tensor.is_meta:
            whole = self._source(self._same_memory(tensor))
            alias = self._add(tensor)
            self._note(torch.ops.aten.detach.default, {"self": whole}, (alias,), True)
            return alias
        if name is None:  # a tensor that the forward pass made or holds without registering it
            name = f"constant{len(self.recording.constants)}"
            while name in self._taken:
                name += "_"
            self._taken.add(name)
            self.recording.constants[name] = tensor.detach().clone()
            self.recording.named_shapes[name] = tuple(tensor.shape)
            self.recording.named_memory[name] = tensor.untyped_storage()._cdata
        self._sources[id(tensor)] = source = Named(name)
        self._alive.append(tensor)
        return source

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
            short = shortcut(func, args, kwargs) if all(tensor.is_meta for tensor in _tensors(args)) else None
            return func(*args, **kwargs) if short is None else short
        if torch.is_inference_mode_enabled():  # there, operators arrive here before they fall apart into simpler ones
            with self:
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        tensors = _tensors(args)
        if kwargs:
            tensors += _tensors(kwargs.values())
        are_meta = all(tensor.is_meta for tensor in tensors)
        if not are_meta and not any(tensor.is_meta or id(tensor) in self._names for tensor in tensors):
            here = {key: item for key, item in kwargs.items() if key != "device"}
            return func(*args, **here)  # arithmetic on constants: its result is a constant, which stays where it is
        if kwargs.get("device") is not None or (not tensors and takes_device(func)):
            kwargs = {**kwargs, "device": torch.device("meta")}
        if find_rule(func) is None:
            raise UnknownOperatorError(f"trace: operator {func} in module {self.where} {advice(func)}")
        given = dict(zip(_names(func), args, strict=False)) | kwargs
        if are_meta:
            meta_args, meta_kwargs = args, kwargs
        else:
            meta_args, meta_kwargs = map_argument(self._to_meta, (list(args), kwargs))
        result = shortcut(func, meta_args, meta_kwargs)
        if result is None:
            try:
                result = func(*meta_args, **meta_kwargs)
            except NotImplementedError as error:
                raise UnknownOperatorError(
                    f"trace: operator {func} in module {self.where} needs data: {DEPENDS_ON_VALUES}"
                ) from error
        self.record(func, given, result)
        return result

    def _to_meta(self, leaf: Any) -> Any:
        if not isinstance(leaf, Tensor) or leaf.is_meta:
            return leaf
        name = self._names.get(id(leaf))
        return torch.empty_like(leaf, device="meta") if name is None else self._tensors[name]

    def record(self, func: torch._ops.OpOverload, given: dict[str, Any], result: Any) -> None:
        """Note a call, and that ``result`` comes from it."""
        arguments = {}
        for name, item in given.items():
            if isinstance(item, Tensor):
                arguments[name] = self._source(item)
            elif isinstance(item, NESTS):
                arguments[name] = [self._source(part) for part in item]
            else:
                arguments[name] = item
        if func in _VIEWS:  # -1 would hide that a size follows the image's
            arguments["size"] = list(result.shape)
        single = isinstance(result, Tensor)
        self._note(func, arguments, tuple(map(self._add, [result] if single else result)), single)

    def _note(self, func: Any, arguments: dict[str, Any], outputs: tuple[Value, ...], single: bool) -> None:
        module = self._path[-1] if self._path else ""
        self.recording.calls.append(RecordedCall(func, arguments, outputs, single, module))

    # ------------------------------------------------------------------------------------------------ modules

    def enter(self, path: str) -> None:
        self._path.append(path)

    def leave(self, path: str, output: Any) -> None:
        sources = [self._sources.get(id(leaf)) for leaf in leaves(plain(output)) if isinstance(leaf, Tensor)]
        self.recording.module_outputs.append((path, len(self.recording.calls), sources))
        self._path.pop()

    @property
    def where(self) -> str:
        return repr(self._path[-1] or "(the model itself)") if self._path else "'(the model itself)'"

    def finish(self, output: Any) -> Recording:
        nest = plain(output)
        for leaf in leaves(nest):
            if not (leaf is None or isinstance(leaf, Tensor | int | float | str)):
                raise TypeError(
                    "model: expected tensors in lists, tuples, dicts or dataclasses as its output, "
                    f"got {type(output).__name__}{'' if leaf is output else f' with a {type(leaf).__name__} in it'}."
                )
        for name, tensor in self._tensors.items():
            if tensor.untyped_storage()._cdata != self.recording.named_memory[name]:
                raise UnknownOperatorError(f"trace: the forward pass assigns to {name}.data; the smaller network would not.")
        self.recording.output = map_argument(self._source, nest)
        return self.recording


def plain(output: Any) -> Any:
    """An output of a model with its dataclasses, and dicts of other classes, turned into dicts."""
    if is_dataclass(output) and not isinstance(output, type | dict):
        return {item.name: plain(getattr(output, item.name)) for item in fields(output)}
    if isinstance(output, dict):
        return {key: plain(item) for key, item in output.items()}
    if isinstance(output, list | tuple):
        items = [plain(item) for item in output]
        return type(output)(*items) if hasattr(output, "_fields") else type(output)(items)
    return output


@cache
def _names(func: torch._ops.OpOverload) -> tuple[str, ...]:
    return tuple(name for name, _, _ in signature(func))


def _tensors(arguments: Iterable[Any]) -> list[Tensor]:
    """The tensors among the arguments of an operator, which may be in lists, but no deeper."""
    found = []
    for argument in arguments:
        if isinstance(argument, Tensor):
            found.append(argument)
        elif isinstance(argument, NESTS):
            found += [item for item in argument if isinstance(item, Tensor)]
    return found
