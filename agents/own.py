"""What a run may be given that has no name: a task, a reward and a yardstick of the caller's own.

A run folder notes what describes them, so that a run goes on only with what it was begun with.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from copyreg import dispatch_table
from dataclasses import dataclass
from functools import cached_property, partial
from types import BuiltinFunctionType, CodeType, FunctionType, GetSetDescriptorType, MemberDescriptorType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prune_gym.fingerprint import fingerprint
from prune_gym.simulation.rewards import Reward
from prune_gym.simulation.terms import Formula, Function
from prune_gym.simulation.yardsticks import Yardstick
from prune_gym.tasks import Task


@dataclass(frozen=True)
class Own:
    """A task, a reward and a yardstick of the caller's own, each of them or None. Raises TypeError for anything else."""

    task: Task | None = None
    reward: Reward | None = None
    yardstick: Yardstick | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.task, Task | None):
            raise TypeError(
                f"task: expected a prune_gym.tasks.Task, got {type(self.task).__name__}; names go into the RunConfig."
            )
        for name in ("reward", "yardstick"):
            value = getattr(self, name)
            if value is not None and not callable(value):
                raise TypeError(f"{name}: expected a function, got {value!r}; names go into the RunConfig.")

    def describe(self) -> dict[str, str]:
        """What there is, by name and fingerprint. Raises like :func:`describe_function`, with the name."""
        described = {} if self.task is None else {"task": f"{self.task.name} {digest(self.task.fingerprints)}"}
        functions = {"reward": self.reward, "yardstick": self.yardstick}
        for name, function in functions.items():
            if function is not None:
                try:
                    described[name] = describe_function(function)
                except TypeError as error:
                    raise TypeError(f"{name}: {error}") from error
        return described


def describe_function(function: Any) -> str:
    """The qualified name of a function or callable object, and a fingerprint of what it computes: bytecode, constants, defaults,
    and the values and functions that it refers to; of an object what it holds and what its class defines. Functions and classes
    of other modules count by their names. A formula is described by its text, and by the functions in it.

    Raises TypeError for an object that holds what cannot be copied, a lock for example."""
    if isinstance(function, Formula):
        functions = [describe_function(part.function) for part in function.walk() if isinstance(part, Function)]
        return "; ".join([str(function), *functions])
    named = function
    while isinstance(named, partial):
        named = named.func
    named = named if hasattr(named, "__qualname__") else type(named)
    return f"{named.__module__}.{named.__qualname__} {digest(function, named.__module__)}"


def digest(value: Any, module: str = "") -> str:
    """A fingerprint of a value, the same in every process. Functions of ``module`` count by their bytecode, others by name."""
    return hashlib.blake2b(_text(value, module, ()).encode(), digest_size=8).hexdigest()


def _text(value: Any, module: str, inside: tuple[int, ...]) -> str:
    """The same text for the same content; ``inside`` holds what is being described, as functions may call themselves."""
    if id(value) in inside:
        return "itself"
    inside = (*inside, id(value))

    def all_of(values: Iterable[Any]) -> str:
        return f"({', '.join(_text(item, module, inside) for item in values)})"

    match value:
        case None | bool() | int() | float() | complex() | str() | bytes():
            return repr(value)
        case Tensor() | np.generic() | np.ndarray():
            array = value.detach().cpu() if isinstance(value, Tensor) else torch.from_numpy(np.array(value))
            return fingerprint("", {"": array})
        case tuple() | list():
            return all_of(value)
        case set() | frozenset():
            return all_of(sorted(value, key=repr))
        case Mapping():
            return all_of(value.items())
        case CodeType():  # without the file and the lines that it stands in
            return f"{value.co_code.hex()} {value.co_names} {value.co_varnames} {all_of(value.co_consts)}"
        case FunctionType() if value.__module__ == module:
            around = {name: value.__globals__[name] for name in _names(value.__code__) if name in value.__globals__}
            cells = [cell.cell_contents for cell in value.__closure__ or ()]
            return all_of([value.__code__, value.__defaults__, value.__kwdefaults__, cells, around])
        case MethodType():
            return all_of([value.__func__, value.__self__])
        case partial():
            return all_of([value.func, value.args, value.keywords])
        case type() if value.__module__ == module:
            return all_of([value.__qualname__, *value.__bases__, *_attributes(value).items()])
        case property():
            return all_of([value.fget, value.fset])
        case staticmethod() | classmethod():
            return all_of([type(value), value.__func__])
        case cached_property():  # which holds a lock in Python 3.11
            return all_of([cached_property, value.func])
        case ModuleType() | BuiltinFunctionType() | FunctionType() | type():
            return f"{getattr(value, '__module__', '')}.{value.__name__}"
        case GetSetDescriptorType() | MemberDescriptorType():  # of slots
            return value.__name__
    if hasattr(value, "__wrapped__"):  # by a cache, for example
        return all_of([type(value), value.__wrapped__])
    try:
        reduced = dispatch_table.get(type(value))  # as copy does it
        content = reduced(value) if reduced else value.__reduce_ex__(2)
    except TypeError as error:
        raise TypeError(
            f"expected what a copy can be made of, so that a run folder can tell it from others, got {value!r} ({error})."
        ) from error
    return content if isinstance(content, str) else all_of(list(part) if isinstance(part, Iterator) else part for part in content)


def _attributes(kind: type) -> dict[str, Any]:
    """What a class itself defines: methods, those that a dataclass makes included, properties and values."""
    own = {name: value for name, value in vars(kind).items() if isinstance(value, FunctionType) or not _is_internal(name)}
    return {name: own[name] for name in sorted(own)}


def _is_internal(name: str) -> bool:
    """Whether an attribute says nothing of what objects of a class compute."""
    return (name.startswith("__") and name.endswith("__")) or name == "_abc_impl"


def _names(code: CodeType) -> list[str]:
    """The names that a function and those in it look up around them."""
    inner = [name for constant in code.co_consts if isinstance(constant, CodeType) for name in _names(constant)]
    return sorted({*code.co_names, *inner})
