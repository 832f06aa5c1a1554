"""How long networks of any widths take on this device, over what the original one takes, from some that were timed.

Random networks are timed in turns with the original one, so noise and heat affect both. What lies between them is a quadratic
form of the widths, like MACs, but with coefficients that are fitted to the times: convolutions take as long as their inputs times
their outputs, norms and activations as long as their channels, at rates that no count tells. No coefficient is negative, so a
larger network is never said to be faster.
"""

from __future__ import annotations

import hashlib
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.optimize import nnls
from torch import Tensor, nn

from prune_gym.arguments import check_integer, check_number
from prune_gym.files import read_json, to_json, write_atomically
from prune_gym.graph.channel_graph import Architecture, ChannelGraph
from prune_gym.scoring.latency import latencies
from prune_gym.surgery.compact import compact

TOGETHER = 9  # networks in memory at a time, beside the original one
ORIGINAL = 100.0  # the weight of the original network in the fit, of which all others have 1


@dataclass(frozen=True, eq=False)
class LatencyModel:
    """Times of networks, and what follows for others.

    Attributes:
        device: what they were measured on, in words; for the reader.
        images: in a batch.
        milliseconds: what the original network took for it.
        pairs: the groups that meet in a layer, int64 (pairs, 2); a group may meet itself.
        widths: of the original network's groups, int64 (groups,).
        timed: widths of the networks that were timed, int64 (n, groups).
        shares: what these took over what the original one took, float64 (n,).
    """

    device: str
    images: int
    milliseconds: float
    pairs: np.ndarray
    widths: np.ndarray
    timed: np.ndarray
    shares: np.ndarray

    @cached_property
    def digest(self) -> str:
        """A fingerprint of what it says of networks."""
        return hashlib.blake2b(self._content().encode(), digest_size=8).hexdigest()

    @cached_property
    def _coefficients(self) -> np.ndarray:
        timed = np.concatenate([self.timed, [self.widths]])  # the original network takes its own time: that is no measurement
        features = self._features(timed) / np.append(self.shares, 1.0)[:, None]  # relative errors count
        features[-1] *= ORIGINAL
        return nnls(features, np.append(np.ones(len(self.timed)), ORIGINAL))[0]

    def _features(self, widths: np.ndarray) -> np.ndarray:
        kept = widths / self.widths
        first, second = self.pairs.T
        return np.concatenate([np.ones((*kept.shape[:-1], 1)), kept, kept[..., first] * kept[..., second]], -1)

    def share(self, widths: np.ndarray) -> np.ndarray:
        """What networks of these widths, integers (..., groups), take over what the original one takes, float64 (...).

        Raises ValueError for widths of another network.
        """
        widths = np.asarray(widths)
        if widths.shape[-1:] != self.widths.shape or (widths < 1).any() or (widths > self.widths).any():
            raise ValueError(
                f"latency: expected widths of the network that was timed, from 1 to {self.widths.tolist()}, "
                f"got {widths.tolist() if widths.ndim == 1 else f'an array of shape {widths.shape}'}."
            )
        return self._features(widths) @ self._coefficients

    def save(self, path: Path) -> None:
        """Write it as JSON. Raises OSError if that fails."""
        write_atomically(path, self._content())

    def _content(self) -> str:
        about = {"device": self.device, "images": self.images, "milliseconds": self.milliseconds}
        arrays = {name: getattr(self, name).tolist() for name in ARRAYS}
        return to_json("latency", about | arrays)


ARRAYS = {"pairs": np.int64, "widths": np.int64, "timed": np.int64, "shares": np.float64}


def read_latency_model(path: Path) -> LatencyModel:
    """What :meth:`LatencyModel.save` wrote. Raises FileNotFoundError, ValueError for a file that is no such thing."""
    content = read_json(path, "times of networks")
    try:
        lacks = [name for name in ("device", "images", "milliseconds", *ARRAYS) if name not in content]
        if lacks:
            raise ValueError(f"it lacks {lacks[0]!r}")
        images, milliseconds = content["images"], content["milliseconds"]
        check_integer("images", images, 1)
        check_number("milliseconds", milliseconds, "(0, inf)")
        arrays = {name: _array(name, content[name], kind) for name, kind in ARRAYS.items()}
        arrays["pairs"] = arrays["pairs"].reshape(len(arrays["pairs"]), 2)  # of none the shape is not in the file
        pairs, widths, timed, shares = arrays.values()
        groups = len(widths)
        if widths.ndim != 1 or groups == 0 or shares.ndim != 1 or timed.shape != (len(shares), groups):
            raise ValueError("its arrays do not fit together")
        if not (np.isfinite(shares) & (shares > 1e-6)).all():
            raise ValueError("shares: expected positive numbers")
        if (timed < 1).any() or (timed > widths).any() or ((pairs < 0) | (pairs >= groups)).any():
            raise ValueError("timed, pairs: expected widths from 1 to those of the original network, and numbers of groups")
        return LatencyModel(str(content["device"]), images, float(milliseconds), **arrays)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{path}: expected times of networks, but it is damaged ({error}).") from error


def _array(name: str, value: Any, kind: type) -> np.ndarray:
    array = np.array(value)
    if array.size and not np.issubdtype(array.dtype, np.integer if kind is np.int64 else np.number):
        raise ValueError(f"{name}: expected numbers, got {array.dtype}")
    return array.astype(kind)


def measure_latency(model: nn.Module, graph: ChannelGraph, images: Tensor, networks: int = 120, seed: int = 0) -> LatencyModel:
    """Time random networks on the device where the model is.

    Args:
        model: the network, in evaluation mode.
        graph: its channel graph.
        images: a batch (N, C, H, W), on the model's device.
        networks: how many are timed, at least as many as the form has coefficients.
        seed: of their widths.

    Raises TypeError or ValueError for an argument out of range.
    """
    cost = graph.cost_model
    form = cost.over_widths(cost.macs)[:-1, :-1]
    pairs = np.argwhere(np.triu(form + form.T) != 0)
    check_integer("networks", networks, 1 + len(graph.groups) + len(pairs))  # as many as coefficients
    check_integer("seed", seed, 0)
    if model.training:
        raise ValueError("model: expected one in evaluation mode, got one that trains; call model.eval().")
    if len(images) == 0:
        raise ValueError("images: expected at least one, got none.")
    timed = random_widths(graph.widths, networks, np.random.default_rng(seed))
    shares: list[float] = []
    originals: list[float] = []
    for start in range(0, networks, TOGETHER):
        own, *others = _times(model, graph, [graph.widths, *timed[start : start + TOGETHER]], images)
        originals.append(own)
        shares += [other / own for other in others]
    device = (
        torch.cuda.get_device_name(images.device) if images.device.type == "cuda" else f"cpu, {torch.get_num_threads()} threads"
    )
    return LatencyModel(device, len(images), statistics.median(originals), pairs, graph.widths.copy(), timed, np.array(shares))


def random_widths(full: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """Widths of networks of all sizes whose groups differ, int64 (n, groups)."""
    kept = rng.uniform(0.05, 1.0, (n, 1)) * rng.uniform(0.5, 1.5, (n, len(full)))
    return np.clip(np.round(kept * full), 1, full).astype(np.int64)


def _times(model: nn.Module, graph: ChannelGraph, widths: Sequence[np.ndarray], images: Tensor) -> list[float]:
    """Milliseconds of networks, the first units of every group in them: times do not depend on which."""
    networks = {}
    for number, each in enumerate(widths):
        mask = np.concatenate([np.arange(full) < width for full, width in zip(graph.widths, each, strict=True)])
        networks[str(number)] = compact(model, graph, Architecture(graph, mask), form="program")
    return list(latencies(networks, images, budget=0.1).values())
