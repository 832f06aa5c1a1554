"""What an architecture is worth: accuracy on a split, and cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from prune_gym.folding import Inference, fold
from prune_gym.graph import Architecture, ChannelGraph
from prune_gym.memo import Memo
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


PIXELS_PER_BATCH = {"cpu": 2**17, "cuda": 2**22}  # measured: enough to use the device, little enough for its caches


def batch_size_for(images: Tensor) -> int:
    """How many of these images (N, C, H, W) to run at once, on the device where they are."""
    return max(16, PIXELS_PER_BATCH.get(images.device.type, 2**17) // max(1, images[0, 0].numel()))


class Evaluator:
    """Scores architectures of one network on one split. None is evaluated twice: accuracies are kept by digest.

    Accuracies are computed on the compact form, with batch norms folded into the convolutions before them: on a CPU the
    smaller network is faster, and it is exact where a norm mixes channels.

    Args:
        graph: of the network.
        tensors: of the network, by name, or what gives them when they are needed for the first time.
        split: on the device of the tensors.
        batch_size: images that are run at once, by default as many as keep the device busy.
        memo: where accuracies are kept.
        version: tells apart networks that share a memo.
    """

    def __init__(
        self,
        graph: ChannelGraph,
        tensors: Mapping[str, Tensor] | Callable[[], Mapping[str, Tensor]],
        split: Split,
        batch_size: int | None = None,
        memo: Memo | None = None,
        version: str = "",
    ):
        self.graph = graph
        self.split = split
        self.batch_size = batch_size or batch_size_for(split.images)
        self.memo = Memo() if memo is None else memo
        self.version = version
        self._tensors = tensors
        self._original = graph.cost(graph.full())

    @cached_property
    def _network(self) -> Inference:
        return fold(self.graph, self._tensors() if callable(self._tensors) else self._tensors)

    def score(self, architecture: Architecture) -> Score:
        return self.scores([architecture])[0]

    def scores(self, architectures: Sequence[Architecture]) -> list[Score]:
        """Scores of many architectures; all costs come from one expression."""
        if not architectures:
            return []
        cost = self.graph.costs(np.stack([a.widths for a in architectures]))
        return [
            Score(
                accuracy=self._known_accuracy(a),
                macs=macs,
                params=params,
                flops_reduction=1 - macs / self._original.macs,
                params_reduction=1 - params / self._original.params,
                channel_sparsity=a.channel_sparsity,
            )
            for a, macs, params in zip(architectures, cost.macs.tolist(), cost.params.tolist(), strict=True)
        ]

    def _known_accuracy(self, architecture: Architecture) -> float:
        key = f"{self.version}:{architecture.digest}"
        known = self.memo.get("accuracy", key)
        if known is None:
            known = self.accuracy(architecture)
            self.memo.put("accuracy", key, known)
        return known

    @torch.inference_mode()
    def accuracy(self, architecture: Architecture) -> float:
        """Fraction of the split's images that the pruned network classifies correctly; computed anew."""
        network = self._network
        program = network.program.at(architecture.mask)
        tensors = slice_tensors(network.tensors, network.units, architecture)
        inputs, labels = self.split.inputs, self.split.labels
        batches = [slice(start, start + self.batch_size) for start in range(0, len(self.split), self.batch_size)]
        correct = sum((program.run(tensors, [inputs(rows)]).argmax(1) == labels[rows]).sum() for rows in batches)
        return int(correct) / len(self.split)
