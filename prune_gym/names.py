"""Choosing by name, with an answer that helps when the name is wrong."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

import torch


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
