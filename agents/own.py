"""What a run may be given that has no name: a task, a reward and a yardstick of the caller's own.

A run folder notes what describes them, so that a run goes on only with what it was begun with.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
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
        """What there is, by name and fingerprint."""
        described = {} if self.task is None else {"task": f"{self.task.name} {digest(self.task.fingerprints)}"}
        functions = {"reward": self.reward, "yardstick": self.yardstick}
        return described | {name: describe_function(function) for name, function in functions.items() if function is not None}


def describe_function(function: Any) -> str:
    """The qualified name of a function or callable object, and a fingerprint of what it computes: bytecode, constants, defaults,
    and the values and functions that it refers to. Functions and classes of other modules count by their names. A formula is
    described by its text, and by the functions in it."""
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
            return all_of([value.__qualname__, *(item for item in vars(value).values() if isinstance(item, FunctionType))])
        case ModuleType() | BuiltinFunctionType() | FunctionType() | type():
            return f"{getattr(value, '__module__', '')}.{value.__name__}"
    return all_of([type(value), getattr(value, "__dict__", None)])


def _names(code: CodeType) -> list[str]:
    """The names that a function and those in it look up around them."""
    inner = [name for constant in code.co_consts if isinstance(constant, CodeType) for name in _names(constant)]
    return sorted({*code.co_names, *inner})
