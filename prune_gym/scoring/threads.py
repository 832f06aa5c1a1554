"""Networks side by side on the cores of a machine, each in a thread of its own: the operators of one small network are too short
to be shared among cores."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from threading import Barrier
from typing import TypeVar

import torch

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3  # of malloc.h
MALLOC = {M_TRIM_THRESHOLD: 2**30, M_TOP_PAD: 2**26, M_MMAP_THRESHOLD: 2**25}  # bytes

Item = TypeVar("Item")
Result = TypeVar("Result")


def side_by_side(
    function: Callable[[Item], Result], items: Sequence[Item], device: torch.device, shared: bool = True
) -> list[Result]:
    """``function`` of all items, in as many threads as PyTorch may use on the CPU, each of which uses one core. The first error
    is raised. On other devices one item follows the other.

    Fewer items than threads are computed one after the other with all of them, unless ``shared`` is false: then the last digits
    of a result do not depend on how many items there are.
    """
    threads = torch.get_num_threads() if device.type == "cpu" else 1
    if threads == 1 or (shared and len(items) < threads):
        return [function(item) for item in items]
    return list(_pool(threads).map(function, items))


@lru_cache(maxsize=1)
def _pool(threads: int) -> ThreadPoolExecutor:
    _keep_freed_memory()
    pool = ThreadPoolExecutor(threads, "prune_gym", initializer=_use_one_core)
    all_there = Barrier(threads)
    list(pool.map(lambda _: all_there.wait(), range(threads)))
    torch.set_num_threads(threads)  # what a thread sets is the default of all that begin later
    return pool


def _keep_freed_memory() -> None:
    """Let the C library keep the memory that layers free. By default it gives much of it back to the system, which maps it anew
    for the next layer, page by page, and networks in threads wait for that. Only glibc can be told so, and it is not if the
    environment says what it should do (``MALLOC_TRIM_THRESHOLD_`` and the like)."""
    if any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ):
        return
    if sys.platform == "linux" and (mallopt := getattr(ctypes.CDLL(None), "mallopt", None)):
        for parameter, number in MALLOC.items():
            mallopt(parameter, number)


def _use_one_core() -> None:
    torch.get_num_threads()  # takes the default over, which it would do later otherwise
    torch.set_num_threads(1)


if hasattr(os, "register_at_fork"):  # not on Windows, which does not fork
    os.register_at_fork(after_in_child=_pool.cache_clear)  # a child has none of the threads
