"""What a network costs where it runs: time and memory for a batch."""

from __future__ import annotations

import statistics
import time
import weakref
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from prune_gym.arguments import check_number
from prune_gym.graph.program import leaves

WARM_UP = 5
MIN_RUNS = 5


@torch.inference_mode()
def latencies(networks: Mapping[str, nn.Module], images: Tensor, budget: float = 1.0) -> dict[str, float]:
    """Milliseconds that each network takes for the batch ``images`` (N, C, H, W): medians over as many runs as fit into
    ``budget`` seconds per network, at least 5, after 5 runs that do not count.

    The networks take turns, so what disturbs the machine disturbs them alike. They lie on the device of the images and run
    operator by operator, as PyTorch does.
    """
    check_number("budget", budget, "(0, inf)")
    times: dict[str, list[float]] = {name: [] for name in networks}
    for _ in range(WARM_UP):
        for network in networks.values():
            network(images)
    end = time.perf_counter() + budget * len(networks)
    while networks and (len(times[next(iter(networks))]) < MIN_RUNS or time.perf_counter() < end):
        for name, network in networks.items():
            times[name].append(seconds(partial(network, images), images.device))
    return {name: 1000 * statistics.median(taken) for name, taken in times.items()}


def seconds(function: Callable[[], object], device: torch.device) -> float:
    """How long a call takes, from when the device has nothing else to do until it has done what the call gave it."""
    _wait(device)
    start = time.perf_counter()
    function()
    _wait(device)
    return time.perf_counter() - start


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@torch.inference_mode()
def peak_memory(network: nn.Module, images: Tensor) -> int:
    """Bytes that the network needs at once for the batch ``images`` (N, C, H, W): its tensors, the images, and at the worst
    moment the results of its operators that are still in use.

    On a GPU it is what PyTorch's allocator says (``torch.cuda.max_memory_allocated``), workspaces of operators included. On a
    CPU PyTorch keeps no such count, so the storages that operators return are added up from when they are made to when they
    are freed: a lower bound, exact and the same in every run. What an operator needs for itself and frees before it returns,
    such as a copy of its input in another layout, is not seen.
    """
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in _tensors(network)}
    own = sum(storages.values()) + images.nbytes
    if images.device.type == "cuda":
        network(images)  # libraries set up what they keep for good
        _wait(images.device)
        before = torch.cuda.memory_allocated(images.device)
        torch.cuda.reset_peak_memory_stats(images.device)
        network(images)
        return own + torch.cuda.max_memory_allocated(images.device) - before
    with _LiveBytes({*storages, images.untyped_storage().data_ptr()}) as made:
        network(images)
    return own + made.peak


def _tensors(network: nn.Module) -> list[Tensor]:
    return [*network.parameters(), *network.buffers()]


class _LiveBytes(TorchDispatchMode):
    """Counts the bytes of all storages that operators make, but for those ``known`` by their addresses."""

    def __init__(self, known: set[int]):
        super().__init__()
        self.known = known
        self.live = self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in leaves(result):
            if isinstance(leaf, Tensor) and leaf.untyped_storage().data_ptr() not in self.known:
                storage = leaf.untyped_storage()
                self.known.add(storage.data_ptr())
                self.live += storage.nbytes()
                weakref.finalize(storage, self._freed, storage.data_ptr(), storage.nbytes())
        self.peak = max(self.peak, self.live)
        return result

    def _freed(self, address: int, size: int) -> None:
        self.known.discard(address)
        self.live -= size
