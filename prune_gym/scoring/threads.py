"""Networks side by side on the cores of a machine, each in a thread of its own: the operators of one small network are too short
to be shared among cores."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")


def side_by_side(function: Callable[[Item], Result], items: Sequence[Item], device: torch.device) -> list[Result]:
    """``function`` of all items, in as many threads as PyTorch may use on the CPU, in each of which it uses one. Fewer items than
    threads are computed one after the other with all of them, and so is everything on other devices. The first error is
    raised."""
    threads = torch.get_num_threads() if device.type == "cpu" else 1
    if threads == 1 or len(items) < threads:
        return [function(item) for item in items]
    try:
        return list(_pool(threads).map(function, items))
    finally:
        torch.set_num_threads(threads)  # what a thread sets is the default of all that begin later


@lru_cache(maxsize=1)
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, "prune_gym", initializer=torch.set_num_threads, initargs=(1,))
