"""Functions of scores that users give, rewards and yardsticks: checked when they are given and whenever they are called."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from itertools import repeat
from math import isfinite
from numbers import Real
from typing import Any, TypeVar

import numpy as np

from prune_gym.scoring.evaluation import NUMBERS, Score


def takes_as_many(function: Callable[..., Any], parameters: Sequence[str]) -> bool:
    """Whether a function can be called with as many positional arguments as there are ``parameters``."""
    try:
        inspect.signature(function).bind(*parameters)
    except TypeError:
        return False
    except ValueError:  # some callables written in C do not say what they take
        return True
    return True


def wants_all(function: Callable[..., Any], some: Sequence[str], everything: Sequence[str]) -> bool:
    """Whether a function is to be given ``everything``, whose first parameters are ``some``: it cannot be called with these
    alone, takes any number, or has a parameter with the name of another one."""
    if not takes_as_many(function, everything):
        return False
    if not takes_as_many(function, some):
        return True
    try:
        parameters = inspect.signature(function).parameters
    except ValueError:
        return False
    others = set(everything) - set(some)
    return any(one.kind is one.VAR_POSITIONAL or name in others for name, one in parameters.items())


def check_takes(argument: str, function: Callable[..., Any], parameters: Sequence[str]) -> None:
    """Raise TypeError unless ``function`` can be called with as many positional arguments as there are ``parameters``."""
    if not takes_as_many(function, parameters):
        raise TypeError(
            f"{argument}: expected a function of ({', '.join(parameters)}), got {_name(function)}{inspect.signature(function)}."
        )


def finite(argument: str, value: object, score: Score) -> float:
    """What a function made of a score, as a float. Raises TypeError unless it is a number, ValueError unless it is finite."""
    if not isinstance(value, Real | np.bool_):
        raise TypeError(f"{argument}: expected a finite number, got {value!r} for {score}.")
    if not isfinite(value):
        raise ValueError(f"{argument}: expected a finite number, got {value!r} for {score}.")
    return float(value)


Function = TypeVar("Function", bound=Callable[..., Any])


def elementwise(function: Function) -> Function:
    """Mark a function of scores that computes with their numbers alone, and so takes scores of arrays as well: environments on
    tables call it once for many states. Others are called for one state after the other."""
    setattr(function, "elementwise", True)  # noqa: B010  # functions have no such attribute by themselves
    return function


def of_rows(argument: str, function: Callable[..., Any], scores: Sequence[Score], *others: Any) -> np.ndarray:
    """What a function of scores makes of the rows of scores of arrays (N,), and of ``others``: arrays (N,), or what is the same
    for all rows; float64 (N,). Raises like :func:`finite`."""
    n = len(scores[0].accuracy)  # type: ignore[arg-type]  # an array
    if getattr(function, "elementwise", False):
        values = np.asarray(function(*scores, *others), np.float64)
        if not np.isfinite(values).all():
            raise ValueError(f"{argument}: expected finite numbers, got {values[~np.isfinite(values)][0]}.")
        return np.broadcast_to(values, (n,))
    columns = [other.tolist() if isinstance(other, np.ndarray) else repeat(other, n) for other in others]
    rows = zip(*map(_rows, scores), *columns, strict=True)
    return np.array([finite(argument, function(*row), row[len(scores) - 1]) for row in rows], np.float64)


def _rows(score: Score) -> list[Score]:
    """A score of arrays (N,) as N scores."""
    columns = [getattr(score, name).tolist() for name in NUMBERS]
    return list(map(Score, *columns, repeat(None) if score.widths is None else score.widths))


def _name(function: Callable[..., Any]) -> str:
    return getattr(function, "__name__", type(function).__name__)
