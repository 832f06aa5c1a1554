"""Arguments that users give: numbers within a range, names, devices and whole configurations, and errors that say what was
expected.

A configuration is a frozen dataclass whose annotations say what each setting may be; :func:`check_settings` reads them::

    @dataclass(frozen=True)
    class Config:
        epochs: Annotated[int, AtLeast(1)] = 15
        momentum: Annotated[float, Within("[0, 1)")] = 0.9
        optimizer: Literal["adamw", "sgd"] = "adamw"
        weights: Path | None = None

        def __post_init__(self) -> None:
            check_settings(self)
"""

from __future__ import annotations

import types
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from difflib import get_close_matches
from functools import cache
from numbers import Integral, Real
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import numpy as np
import torch


def check_number(argument: str, value: object, interval: str) -> None:
    """Raise TypeError unless ``value`` is a number, ValueError unless it lies in the interval, such as ``"[0, 1)"`` or
    ``"(0, inf)"``; a round bracket leaves its end out."""
    low, high = map(float, interval[1:-1].split(","))
    problem = f"{argument}: expected a number in {interval}, got {value!r}."
    if not isinstance(value, Real) or isinstance(value, bool):
        raise TypeError(problem)
    try:
        x = float(value)
    except OverflowError:  # an integer that no float comes near to
        x = float("inf")
    if not (low < x < high or (x == low and interval[0] == "[") or (x == high and interval[-1] == "]")):
        raise ValueError(problem)


def check_integer(argument: str, value: object, least: int, below: int | None = None) -> None:
    """Raise TypeError unless ``value`` is a number, ValueError unless it is an integer >= ``least`` and < ``below``."""
    problem = f"{argument}: expected an integer {f'>= {least}' if below is None else f'in [{least}, {below})'}, got {value!r}."
    if not isinstance(value, Real) or isinstance(value, bool):
        raise TypeError(problem)
    if not isinstance(value, Integral) or int(value) < least or (below is not None and int(value) >= below):
        raise ValueError(problem)


def as_integer(argument: str, value: object, least: int, below: int) -> int:
    """The integer that is meant, of an array without dimensions, too, as agents give actions. Raises like
    :func:`check_integer`."""
    number: Any = value.item() if isinstance(value, np.ndarray) and value.ndim == 0 else value
    check_integer(argument, number, least, below)
    return int(number)


def check_choice(argument: str, value: object, known: Iterable[str]) -> None:
    """Raise ValueError unless ``value`` is one of the names ``known``."""
    if not isinstance(value, str) or value not in known:
        raise unknown(argument, value, known)


def unknown(argument: str, name: object, known: Iterable[str]) -> ValueError:
    """The error for a name that is not among ``known``: says what came, the closest match and all that could be meant."""
    names = list(known)
    by_lower_case = {known_name.lower(): known_name for known_name in names}
    close = get_close_matches(str(name).lower(), by_lower_case, n=1, cutoff=0.6)
    hint = f" Did you mean {by_lower_case[close[0]]!r}?" if close else ""
    return ValueError(f"{argument}: expected one of {', '.join(names)}; got {name!r}.{hint}")


def choose_device(name: str | torch.device) -> torch.device:
    """``"auto"`` is a GPU if there is one. Raises ValueError for a device that PyTorch does not know or does not have."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError) as error:
        raise unknown("device", name, ["auto", "cpu", "cuda", "cuda:0"]) from error
    if device.type not in ("cpu", "cuda"):
        raise unknown("device", name, ["auto", "cpu", "cuda", "cuda:0"])
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(
            f"device: expected a device of this machine, got {str(name)!r}, but it has {torch.cuda.device_count()} GPUs; "
            "use 'cpu' or 'auto'."
        )
    return device


# ----------------------------------------------------------------------------------------------- whole configurations


@dataclass(frozen=True)
class AtLeast:
    """In an annotation: an integer >= ``least``, and < ``below`` if that is given."""

    least: int
    below: int | None = None

    def check(self, argument: str, value: object) -> None:
        check_integer(argument, value, self.least, self.below)


@dataclass(frozen=True)
class Within:
    """In an annotation: a number in an interval such as ``"[0, 1)"``."""

    interval: str

    def check(self, argument: str, value: object) -> None:
        check_number(argument, value, self.interval)


def check_different(argument: str, values: Sequence[object]) -> None:
    """Raise ValueError unless there are some, and no two are equal."""
    if not values:
        raise ValueError(f"{argument}: expected at least one, got none.")
    if len(set(values)) < len(values):
        raise ValueError(f"{argument}: expected different ones, got {' '.join(map(str, values))}.")


@dataclass(frozen=True, eq=False)
class OneOf:
    """In an annotation: one of the names in a collection, as it is when the value is checked."""

    known: Collection[str]

    def check(self, argument: str, value: object) -> None:
        check_choice(argument, value, self.known)


def check_settings(config: object) -> None:
    """Check every field of a frozen dataclass against its annotation; to be called by its ``__post_init__``.

    Annotations are ``Annotated`` types with :class:`AtLeast`, :class:`Within` or :class:`OneOf`, ``Literal``, ``bool``,
    ``float`` (any finite number), ``tuple``, other classes, each of them or None, and each of them or a ``dict`` of them by name.
    NumPy's scalars are replaced by Python's, lists by tuples and strings by paths where a tuple or a path is expected, so that
    configurations compare equal and go into JSON. Raises TypeError or ValueError for a value that does not fit; the message
    begins with the name of the field.
    """
    kind: Any = type(config)
    for name, annotation in _annotations(kind).items():
        given = getattr(config, name)
        value = _checked(name, given, annotation)
        if value is not given:
            object.__setattr__(config, name, value)


@cache
def _annotations(kind: Any) -> dict[str, Any]:
    hints = get_type_hints(kind, include_extras=True)
    return {field.name: hints[field.name] for field in fields(kind)}


def _checked(name: str, value: Any, annotation: Any) -> Any:
    """The value as it is to be stored; raises like :func:`check_settings`."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if isinstance(value, np.generic):
        value = value.item()
    if origin in (Union, types.UnionType):  # of one kind, that by name, and None
        by_name = {kind for kind in arguments if get_origin(kind) is dict}
        single = set(arguments) - {types.NoneType} - by_name
        (kind,) = by_name if by_name and (isinstance(value, Mapping) or not single) else single
        return None if value is None else _checked(name, value, kind)
    if origin is dict:
        if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
            raise TypeError(f"{name}: expected values by name, got {value!r}.")
        return {key: _checked(name, item, arguments[1]) for key, item in value.items()}
    if origin is Annotated:
        for rule in annotation.__metadata__:
            rule.check(name, value)
    elif origin is Literal:
        check_choice(name, value, arguments)
    elif origin is tuple:
        return _checked_tuple(name, value, arguments)
    elif annotation is float:
        check_number(name, value, "(-inf, inf)")
    elif annotation is bool:
        if not isinstance(value, bool):
            raise TypeError(f"{name}: expected True or False, got {value!r}.")
    elif annotation is Path:
        if not isinstance(value, str | Path):
            raise TypeError(f"{name}: expected a path, got {type(value).__name__}.")
        return Path(value)
    elif not isinstance(value, annotation):
        raise TypeError(f"{name}: expected a value of type {annotation.__name__}, got {type(value).__name__}.")
    return value


def _checked_tuple(name: str, value: Any, kinds: tuple[Any, ...]) -> tuple[Any, ...]:
    of_any_length = kinds[-1] is Ellipsis
    if not isinstance(value, tuple | list) or not (of_any_length or len(value) == len(kinds)):
        wanted = "a tuple" if of_any_length else f"{len(kinds)} values"
        raise ValueError(f"{name}: expected {wanted}, got {value!r}.")
    return tuple(_checked(name, item, kinds[0 if of_any_length else i]) for i, item in enumerate(value))
