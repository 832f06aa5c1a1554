"""Copies of a model with other tensors in it: without data for a trace, zeroed for a mask, smaller for surgery."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from types import CellType, FunctionType
from typing import Any

import torch
from torch import Tensor, nn

from prune_gym.graph.program import NESTS, leaves, map_argument


def meta_tensors(originals: Mapping[str, Tensor], dtype: torch.dtype | None = None) -> dict[str, Tensor]:
    """Tensors without data for all ``originals``, the parameters and buffers of a model; with a ``dtype``, those of
    ``model.to(dtype)``."""
    tensors: dict[str, Tensor] = {}
    for name, tensor in originals.items():
        if nn.parameter.is_lazy(tensor):
            raise ValueError(f"model: {name!r} is not initialised; run the model on a batch once before tracing it.")
        empty = empty_like(tensor, dtype if tensor.is_floating_point() else None)
        tensors[name] = nn.Parameter(empty, False) if isinstance(tensor, nn.Parameter) else empty
    return tensors


def copy_model(model: nn.Module, tensors: Mapping[int, Tensor]) -> nn.Module:
    """A copy of the model with other tensors in it; see :meth:`Copies.copy`."""
    return Copies(model).copy(tensors)


class Copies:
    """What ``copy.deepcopy`` would give, with other tensors in it, and many times faster: the attributes of all modules are
    looked at once, and only those that are neither modules, tensors nor immutable go through ``deepcopy``.

    It also copies models that ``deepcopy`` refuses: those that hold a lock or an open file, of which there stays only one, and
    those that keep a tensor that a forward pass with gradients computed.
    """

    def __init__(self, model: nn.Module):
        self._model = model
        modules = list(model.modules())
        self._special = [module for module in modules if hasattr(type(module), "__deepcopy__")]
        self._parts = {module: _parts(module) for module in modules}
        self._detached = detached(value for *_, other in self._parts.values() for _, value in other)

    def copy(self, tensors: Mapping[int, Tensor]) -> nn.Module:
        """A copy with ``tensors``, one for every parameter and buffer of the model by its id; what was shared stays shared."""
        memo: dict[int, Any] = {**self._detached, **tensors}
        for module in self._special:  # their class knows how, as that of torch.fx does
            copy.deepcopy(module, memo)
        plain = [module for module in self._parts if id(module) not in memo]
        for module in plain:
            memo[id(module)] = object.__new__(type(module))
        for module in plain:
            same, lists, registered, empty, other = self._parts[module]
            twin = memo[id(module)].__dict__
            twin.update(same)
            for key, items in lists:
                twin[key] = list(items)
            for key, items in registered:
                twin[key] = {name: None if item is None else memo[id(item)] for name, item in items}
            for key, kind in empty:
                twin[key] = kind()
            for key, value in other:
                try:
                    twin[key] = copy.deepcopy(value, memo)
                except TypeError:  # a lock, a logger, an open file: there is only one of it
                    twin[key] = value
        for module, (*_, other) in self._parts.items():
            if other:
                rebind(memo[id(module)], memo)
        return memo[id(self._model)]


class MetaCopies:
    """Copies of a model without data."""

    def __init__(self, model: nn.Module, originals: Mapping[str, Tensor]):
        """``originals`` are the model's parameters and buffers by name."""
        if any(isinstance(module, torch.jit.ScriptModule) for module in model.modules()):
            raise TypeError("model: expected a network in Python, got one with TorchScript in it; use what it was scripted from.")
        self._originals = originals
        self._copies = Copies(model)

    def copy(self, tensors: Mapping[str, Tensor]) -> nn.Module:
        """A copy with ``tensors``, from :func:`meta_tensors`, in place of the originals."""
        return self._copies.copy({id(tensor): tensors[name] for name, tensor in self._originals.items()})


def _parts(module: nn.Module) -> tuple[dict[str, Any], list, list, list, list]:
    """The attributes of a module by how they are copied: as they are, as lists of what stays as it is, as tensors and modules,
    made empty, any other way."""
    same, lists, registered, empty, other = {}, [], [], [], []
    for key, value in module.__dict__.items():
        kind = type(value)
        if kind in _IMMUTABLE or (kind is tuple and all(type(item) in _IMMUTABLE for item in value)):
            same[key] = value
        elif kind is list and all(type(item) in _IMMUTABLE for item in value):
            lists.append((key, value))
        elif key in _REGISTERED:
            registered.append((key, list(value.items())))
        elif kind in (dict, OrderedDict, set) and not value:
            empty.append((key, kind))
        else:
            other.append((key, value))
    return same, lists, registered, empty, other


def empty_like(tensor: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """On the meta device. PyTorch's own is written in Python there, and would take a sixth of the time of a trace."""
    if tensor.layout is torch.strided and tensor.is_contiguous():
        return torch.empty_strided(tensor.shape, tensor.stride(), dtype=dtype or tensor.dtype, device="meta")
    return torch.empty_like(tensor, dtype=dtype, device="meta", requires_grad=False)


_REGISTERED = ("_parameters", "_buffers", "_modules")
_IMMUTABLE = frozenset([int, float, bool, str, bytes, type(None), type, torch.dtype, torch.device, torch.Size])


def detached(values: Iterable[Any]) -> dict[int, Any]:
    """A memo for ``deepcopy`` of ``values`` with the tensors that it refuses to copy: those that a forward pass with gradients
    computed."""
    return {id(leaf): leaf.detach().clone() for leaf in leaves([*values]) if isinstance(leaf, Tensor) and not leaf.is_leaf}


def attribute_tensors(model: nn.Module) -> Iterator[Tensor]:
    """The tensors that modules hold in attributes without registering them, also in lists, tuples and dicts."""
    for module in model.modules():
        for key, value in module.__dict__.items():
            if type(value) in _IMMUTABLE or key in _REGISTERED:  # most of them
                continue
            if isinstance(value, Tensor) or (isinstance(value, NESTS) and value):
                yield from (leaf for leaf in leaves(value) if isinstance(leaf, Tensor))


def rebind(twin: nn.Module, memo: Mapping[int, Any]) -> None:
    """Let functions that a copied module holds, such as a lambda that reads ``self.weight``, see the copy. ``deepcopy`` does
    not copy functions, so they would go on to see the original. ``memo`` gives the copy of an object by its id."""
    seen: set[int] = set()  # a function may refer to itself

    def rebound_cell(cell: CellType) -> CellType:
        try:
            content = cell.cell_contents
        except ValueError:  # it is empty
            return cell
        new = memo.get(id(content), rebound(content))
        return cell if new is content else CellType(new)

    def rebound(value: Any) -> Any:
        if not isinstance(value, FunctionType) or not value.__closure__ or id(value) in seen:
            return value
        seen.add(id(value))
        cells = tuple(map(rebound_cell, value.__closure__))
        seen.remove(id(value))
        if all(new is old for new, old in zip(cells, value.__closure__, strict=True)):
            return value
        function = FunctionType(value.__code__, value.__globals__, value.__name__, value.__defaults__, cells)
        function.__kwdefaults__ = value.__kwdefaults__
        function.__dict__.update(value.__dict__)
        return function

    for key, value in twin.__dict__.items():
        if isinstance(value, FunctionType):
            twin.__dict__[key] = rebound(value)
        elif isinstance(value, dict) and value and key.endswith("_hooks"):
            for hook, function in value.items():
                value[hook] = rebound(function)
        elif type(value) in NESTS and key not in _REGISTERED and any(isinstance(leaf, FunctionType) for leaf in leaves(value)):
            twin.__dict__[key] = map_argument(rebound, value)
