"""What an architecture is worth: accuracy on a split, and cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from prune_gym.folding import fold
from prune_gym.graph import Architecture, ChannelGraph
from prune_gym.masked import MaskedNetwork
from prune_gym.names import unknown
from prune_gym.surgery import slice_tensors


@dataclass(frozen=True)
class Split:
    """Images (N, C, H, W) as the network takes them and their labels (N,), int64, both on one device."""

    images: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        if not (isinstance(self.images, Tensor) and self.images.is_floating_point()):
            kind = self.images.dtype if isinstance(self.images, Tensor) else type(self.images).__name__
            raise TypeError(f"images: expected a floating-point tensor (N, C, H, W) as the network takes it, got {kind}.")
        if not isinstance(self.labels, Tensor) or self.labels.dtype != torch.int64:
            kind = self.labels.dtype if isinstance(self.labels, Tensor) else type(self.labels).__name__
            raise TypeError(f"labels: expected an int64 tensor (N,), got {kind}; convert it with labels.long().")
        if self.images.shape[:1] != self.labels.shape or len(self.labels) == 0:
            raise ValueError(
                f"labels: expected one for each of {len(self.images)} images and at least one, "
                f"got shape {tuple(self.labels.shape)}."
            )

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device) -> Split:
        return Split(self.images.to(device), self.labels.to(device))


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
PRECISIONS = ("float32", "bfloat16")
MASKED_ON = ("cuda",)  # elsewhere the smaller network is faster
PIXELS_PER_BATCH = {"cpu": 2**17, "cuda": 2**22}  # measured: enough to use the device, little enough for its caches


def batch_size_for(images: Tensor) -> int:
    """How many of these images (N, C, H, W) to run at once, on the device where they are."""
    return max(16, PIXELS_PER_BATCH.get(images.device.type, 2**17) // max(1, images[0, 0].numel()))


class Evaluator:
    """Scores architectures of one network on one split. Scores are cached by the architecture's digest.

    Accuracies are computed with batch norms folded into the convolutions before them: on a GPU with the removed units zeroed
    (:class:`~prune_gym.masked.MaskedNetwork`), which one CUDA graph does for all architectures; on a CPU, where the smaller
    network is faster, and where a norm mixes channels, on the compact form.

    Args:
        graph: the channel graph of the network.
        tensors: of the network, by name, on the device of the split.
        split: what accuracies are measured on.
        batch_size: images that are run at once, by default as many as keep the device busy.
        precision: ``"float32"`` runs the network in its own type; ``"bfloat16"`` in that one, which is faster on a GPU with
            tensor cores, and rounds logits to three digits, so that close calls may change.

    Raises ValueError for an unknown precision.
    """

    def __init__(
        self,
        graph: ChannelGraph,
        tensors: Mapping[str, Tensor],
        split: Split,
        batch_size: int | None = None,
        precision: str = "float32",
    ):
        if precision not in PRECISIONS:
            raise unknown("precision", precision, PRECISIONS)
        self.graph = graph
        self.tensors = tensors
        self.split = split
        self.batch_size = batch_size or batch_size_for(split.images)
        self.precision = precision
        self._network, self._images = fold(graph, tensors), split.images
        if precision == "bfloat16":
            self._network, self._images = self._network.to(torch.bfloat16), split.images.bfloat16()
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
            accuracies = self.accuracies(list(new.values()))
            costs = zip(cost.macs.tolist(), cost.params.tolist(), strict=True)
            for (digest, a), accuracy, (macs, params) in zip(new.items(), accuracies, costs, strict=True):
                found[digest] = Score(
                    accuracy=accuracy,
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

    def accuracy(self, architecture: Architecture) -> float:
        """Fraction of the split's images that the pruned network classifies correctly; not cached."""
        return self.accuracies([architecture])[0]

    def accuracies(self, architectures: Sequence[Architecture]) -> list[float]:
        """:meth:`accuracy` of many architectures; a GPU computes them in one go."""
        if self._masked is None:
            return [self._compact_accuracy(a) for a in architectures]
        masks = np.array([a.mask for a in architectures], bool).reshape(-1, self.graph.n_units)
        exact = self._masked.exact_for(masks)
        masked = iter(self._masked.accuracies(masks[exact]))
        return [next(masked) if zeroed else self._compact_accuracy(a) for a, zeroed in zip(architectures, exact, strict=True)]

    @cached_property
    def _masked(self) -> MaskedNetwork | None:
        if self._images.device.type not in MASKED_ON:
            return None
        return MaskedNetwork(self._network, self.graph, self._images, self.split.labels, self.batch_size)

    @torch.inference_mode()
    def _compact_accuracy(self, architecture: Architecture) -> float:
        program = self._network.program.at(architecture.mask)
        tensors = slice_tensors(self._network.tensors, self._network.units, architecture)
        batches = zip(self._images.split(self.batch_size), self.split.labels.split(self.batch_size), strict=True)
        correct = sum((program.run(tensors, [images]).argmax(1) == labels).sum() for images, labels in batches)
        return int(correct) / len(self.split)
