"""Functions of scores that users give, rewards and yardsticks: checked when they are given and whenever they are called."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from math import isfinite
from numbers import Real
from typing import Any

import numpy as np

from prune_gym.scoring.evaluation import Score


def check_takes(argument: str, function: Callable[..., Any], parameters: Sequence[str]) -> None:
    """Raise TypeError unless ``function`` can be called with as many positional arguments as there are ``parameters``."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # some callables written in C do not say what they take
        return
    try:
        signature.bind(*parameters)
    except TypeError:
        raise TypeError(
            f"{argument}: expected a function of ({', '.join(parameters)}), got {_name(function)}{signature}."
        ) from None


def finite(argument: str, value: object, score: Score) -> float:
    """What a function made of a score, as a float. Raises TypeError unless it is a number, ValueError unless it is finite."""
    if not isinstance(value, Real | np.bool_):
        raise TypeError(f"{argument}: expected a finite number, got {value!r} for {score}.")
    if not isfinite(value):
        raise ValueError(f"{argument}: expected a finite number, got {value!r} for {score}.")
    return float(value)


def _name(function: Callable[..., Any]) -> str:
    return getattr(function, "__name__", type(function).__name__)
