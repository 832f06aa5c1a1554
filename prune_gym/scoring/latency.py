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

WARM_UP = 5  # runs that are not timed
MIN_RUNS = 5  # runs that are timed, however small the budget is


@torch.inference_mode()
def latencies(networks: Mapping[str, nn.Module], images: Tensor, budget: float = 1.0) -> dict[str, float]:
    """Milliseconds that each network takes for a batch: the median over as many runs as fit into the budget, and at least 5.

    The networks take turns, so noise affects all networks equally. Five runs of each come first and are not timed.

    Args:
        networks: by name, in evaluation mode, on the device of the images. They run operator by operator, as PyTorch does.
        images: the batch (N, C, H, W).
        budget: seconds for each network.

    Raises TypeError or ValueError unless ``budget`` is a positive number.
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
    """How long a call takes: from when the device is idle until it has finished all that the call started."""
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
    """The largest number of bytes that the network holds at once for the batch ``images`` (N, C, H, W): its tensors, the
    images, and the results of operators that are still in use.

    On a GPU this is what PyTorch's allocator reports (``torch.cuda.max_memory_allocated``), workspaces of operators included.
    On a CPU PyTorch keeps no such count, so the storages that operators return are added up while they live. That is a lower
    bound and the same in every run: memory that an operator allocates and frees before it returns, such as a copy of its
    input in another layout, is not counted.
    """
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in _tensors(network)}
    own = sum(storages.values()) + images.nbytes
    if images.device.type == "cuda":
        network(images)  # on the first run libraries allocate what they keep
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
    """Counts the bytes of all storages that operators allocate, except those whose addresses are ``known``."""

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
