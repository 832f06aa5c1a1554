"""What an architecture is worth: accuracy on a split, and cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prune_gym.arguments import check_choice, check_integer
from prune_gym.data.splits import Split
from prune_gym.graph.channel_graph import Architecture, ChannelGraph
from prune_gym.scoring.folding import Inference, fold
from prune_gym.scoring.masked import MaskedNetwork
from prune_gym.simulation.result_cache import ResultCache
from prune_gym.surgery.slicing import slice_tensors

__all__ = ["Evaluator", "Score", "Split", "batch_size_for"]


@dataclass(frozen=True)
class Score:
    """Accuracy in [0, 1]; MACs per image and parameters; reductions and sparsity as fractions of the original network."""

    accuracy: float
    macs: int
    params: int
    flops_reduction: float
    params_reduction: float
    channel_sparsity: float


PRECISIONS = ("float32", "bfloat16")
MASKED_ON = ("cuda",)  # elsewhere the smaller network is faster
PIXELS_PER_BATCH = {"cpu": 2**17, "cuda": 2**22}  # measured: enough to use the device, little enough for its caches


def batch_size_for(images: Tensor) -> int:
    """How many of these images (N, C, H, W) to run at once, on the device where they are."""
    return max(16, PIXELS_PER_BATCH.get(images.device.type, 2**17) // max(1, images[0, 0].numel()))


class Evaluator:
    """Scores architectures of one network on one split. None is evaluated twice: accuracies are kept by digest.

    Accuracies are computed with batch norms folded into the convolutions before them: on a GPU with the removed units zeroed
    (:class:`~prune_gym.scoring.masked.MaskedNetwork`), which one CUDA graph does for all architectures; on a CPU, where the
    smaller network is faster, and where a norm mixes channels, on the compact form.

    Args:
        graph: the channel graph of the network.
        tensors: of the network, by name, on the device of the split; or what gives them when they are needed first.
        split: what accuracies are measured on.
        batch_size: images that are run at once, by default as many as keep the device busy.
        precision: ``"float32"`` runs the network in its own type; ``"bfloat16"`` in that one, which is faster on a GPU with
            tensor cores, and rounds logits to three digits, so that close calls may change.
        cache: where accuracies are kept.
        version: tells apart networks that share a cache.

    Raises ValueError for an unknown precision and a batch size below 1.
    """

    def __init__(
        self,
        graph: ChannelGraph,
        tensors: Mapping[str, Tensor] | Callable[[], Mapping[str, Tensor]],
        split: Split,
        batch_size: int | None = None,
        precision: str = "float32",
        cache: ResultCache | None = None,
        version: str = "",
    ):
        check_choice("precision", precision, PRECISIONS)
        self.graph = graph
        self.split = split
        if batch_size is not None:
            check_integer("batch_size", batch_size, 1)
        self.batch_size = batch_size or batch_size_for(split.images)
        self.precision = precision
        self.cache = ResultCache() if cache is None else cache
        self.version = version
        self._tensors = tensors
        self._original = graph.cost(graph.full())

    def score(self, architecture: Architecture) -> Score:
        return self.scores([architecture])[0]

    def scores(self, architectures: Sequence[Architecture]) -> list[Score]:
        """Scores of many architectures: none is evaluated twice, and all costs come from one expression."""
        if not architectures:
            return []
        known: dict[str, Any] = {a.digest: self.cache.get("accuracy", f"{self.version}:{a.digest}") for a in architectures}
        new = {a.digest: a for a in architectures if known[a.digest] is None}
        for digest, accuracy in zip(new, self.accuracies(list(new.values())), strict=True):
            known[digest] = accuracy
            self.cache.put("accuracy", f"{self.version}:{digest}", accuracy)
        cost = self.graph.costs(np.stack([a.widths for a in architectures]))
        return [
            Score(
                accuracy=known[a.digest],
                macs=macs,
                params=params,
                flops_reduction=1 - macs / self._original.macs,
                params_reduction=1 - params / self._original.params,
                channel_sparsity=a.channel_sparsity,
            )
            for a, macs, params in zip(architectures, cost.macs.tolist(), cost.params.tolist(), strict=True)
        ]

    def accuracy(self, architecture: Architecture) -> float:
        """Fraction of the split's images that the pruned network classifies correctly; computed anew."""
        return self.accuracies([architecture])[0]

    def accuracies(self, architectures: Sequence[Architecture]) -> list[float]:
        """:meth:`accuracy` of many architectures; a GPU computes them in one go."""
        if not architectures:
            return []
        if self._masked is None:
            return [self._compact_accuracy(a) for a in architectures]
        masks = np.array([a.mask for a in architectures], bool)
        exact = self._masked.exact_for(masks)
        masked = iter(self._masked.accuracies(masks[exact]))
        return [next(masked) if zeroed else self._compact_accuracy(a) for a, zeroed in zip(architectures, exact, strict=True)]

    @cached_property
    def _network(self) -> Inference:
        network = fold(self.graph, self._tensors() if callable(self._tensors) else self._tensors)
        return network.to(torch.bfloat16) if self.precision == "bfloat16" else network

    @cached_property
    def _masked(self) -> MaskedNetwork | None:
        if self.split.images.device.type not in MASKED_ON:
            return None
        return MaskedNetwork(self._network, self.graph, self._cast(self.split.inputs()), self.split.labels, self.batch_size)

    def _cast(self, images: Tensor) -> Tensor:
        return images.bfloat16() if self.precision == "bfloat16" else images

    @torch.inference_mode()
    def _compact_accuracy(self, architecture: Architecture) -> float:
        network = self._network
        program = network.program.at(architecture.mask)
        tensors = slice_tensors(network.tensors, network.units, architecture)
        batches = self.split.batches(self.batch_size)
        correct = sum((program.run(tensors, [self._cast(images)]).argmax(1) == labels).sum() for images, labels in batches)
        return int(correct) / len(self.split)
