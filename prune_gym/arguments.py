"""Arguments that users give: numbers within a range, names and devices, and errors that say what was expected."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch


def check_number(argument: str, value: object, interval: str) -> None:
    """Raise TypeError unless ``value`` is a number, ValueError unless it lies in the interval, such as ``"[0, 1)"`` or
    ``"(0, inf)"``; a round bracket leaves its end out."""
    low, high = map(float, interval[1:-1].split(","))
    problem = f"{argument}: expected a number in {interval}, got {value!r}."
    if not isinstance(value, Real) or isinstance(value, bool):
        raise TypeError(problem)
    x: Any = value
    if not (low < x < high or (x == low and interval[0] == "[") or (x == high and interval[-1] == "]")):
        raise ValueError(problem)


def check_integer(argument: str, value: object, least: int, below: int | None = None) -> None:
    """Raise TypeError unless ``value`` is a number, ValueError unless it is an integer >= ``least`` and < ``below``."""
    problem = f"{argument}: expected an integer {f'>= {least}' if below is None else f'in [{least}, {below})'}, got {value!r}."
    if not isinstance(value, Real) or isinstance(value, bool):
        raise TypeError(problem)
    if not isinstance(value, Integral) or int(value) < least or (below is not None and int(value) >= below):
        raise ValueError(problem)


def unwrap_numpy_scalars(config: object) -> None:
    """Make Python's numbers of NumPy's in a frozen dataclass, as JSON and Gymnasium want them."""
    for name, value in vars(config).items():
        if isinstance(value, np.generic):
            object.__setattr__(config, name, value.item())


def check_choice(argument: str, value: object, known: Iterable[str]) -> None:
    """Raise ValueError unless ``value`` is one of the names ``known``."""
    if not isinstance(value, str) or value not in known:
        raise unknown(argument, value, known)


def unknown(argument: str, name: object, known: Iterable[str]) -> ValueError:
    """The error for a name that is not among ``known``: says what came, the closest match and all that could be meant."""
    names = list(known)
    close = get_close_matches(str(name), names, n=1, cutoff=0.6)
    hint = f" Did you mean {close[0]!r}?" if close else ""
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
