"""The clock of the benchmarks."""

from __future__ import annotations

import statistics
from collections.abc import Callable

import torch

from prune_gym.scoring.latency import seconds


def median_seconds(function: Callable[[], object], repetitions: int, device: torch.device) -> float:
    """The median of so many calls, after one that does not count."""
    seconds(function, device)  # the first call allocates and chooses algorithms
    return statistics.median(seconds(function, device) for _ in range(repetitions))
