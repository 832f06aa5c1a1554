"""The clock of the benchmarks."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch


def seconds(function: Callable[[], object], device: torch.device | None = None) -> float:
    """How long a call takes, until the device has done what it queued."""
    start = time.perf_counter()
    function()
    if device is not None and device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def median_seconds(function: Callable[[], object], repetitions: int, device: torch.device | None = None) -> float:
    seconds(function, device)  # the first call allocates and chooses algorithms
    return statistics.median(seconds(function, device) for _ in range(repetitions))
