"""What an architecture is worth: accuracy on a split, and cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from prune_gym.folding import fold
from prune_gym.graph import Architecture, ChannelGraph
from prune_gym.splits import Split
from prune_gym.surgery import slice_tensors

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


CACHED_SCORES = 100_000
PIXELS_PER_BATCH = {"cpu": 2**17, "cuda": 2**22}  # measured: enough to use the device, little enough for its caches


def batch_size_for(images: Tensor) -> int:
    """How many of these images (N, C, H, W) to run at once, on the device where they are."""
    return max(16, PIXELS_PER_BATCH.get(images.device.type, 2**17) // max(1, images[0, 0].numel()))


class Evaluator:
    """Scores architectures of one network on one split. Scores are cached by the architecture's digest.

    Accuracies are computed on the compact form, with batch norms folded into the convolutions before them: on a CPU the
    smaller network is faster, and it is exact where a norm mixes channels. ``tensors`` and ``split`` lie on one device.
    ``batch_size`` images are run at once, by default as many as keep the device busy.
    """

    def __init__(self, graph: ChannelGraph, tensors: Mapping[str, Tensor], split: Split, batch_size: int | None = None):
        self.graph = graph
        self.tensors = tensors
        self.split = split
        self.batch_size = batch_size or batch_size_for(split.images)
        self._network = fold(graph, tensors)
        self._cache: dict[str, Score] = {}
        self._original = graph.cost(graph.full())

    def score(self, architecture: Architecture) -> Score:
        return self.scores([architecture])[0]

    def scores(self, architectures: Sequence[Architecture]) -> list[Score]:
        """Scores of many architectures: none is evaluated twice, and all costs come from one expression."""
        new = {a.digest: a for a in architectures if a.digest not in self._cache}
        found = {a.digest: self._cache[a.digest] for a in architectures if a.digest in self._cache}
        if new:
            cost = self.graph.costs(np.stack([a.widths for a in new.values()]))
            for (digest, a), macs, params in zip(new.items(), cost.macs.tolist(), cost.params.tolist(), strict=True):
                found[digest] = Score(
                    accuracy=self.accuracy(a),
                    macs=macs,
                    params=params,
                    flops_reduction=1 - macs / self._original.macs,
                    params_reduction=1 - params / self._original.params,
                    channel_sparsity=a.channel_sparsity,
                )
            if len(self._cache) > CACHED_SCORES:
                self._cache.clear()
            self._cache.update(found)
        return [found[a.digest] for a in architectures]

    @torch.inference_mode()
    def accuracy(self, architecture: Architecture) -> float:
        """Fraction of the split's images that the pruned network classifies correctly; not cached."""
        program = self._network.program.at(architecture.mask)
        tensors = slice_tensors(self._network.tensors, self._network.units, architecture)
        batches = [slice(start, start + self.batch_size) for start in range(0, len(self.split), self.batch_size)]
        inputs, labels = self.split.inputs, self.split.labels
        correct = sum((program.run(tensors, [inputs(rows)]).argmax(1) == labels[rows]).sum() for rows in batches)
        return int(correct) / len(self.split)
