"""What an architecture is worth: accuracy on a split, and cost."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prune_gym.arguments import check_choice, check_integer
from prune_gym.data.splits import Split
from prune_gym.graph.channel_graph import Architecture, ChannelGraph
from prune_gym.scoring.aliasing import renew
from prune_gym.scoring.candidates import Candidates
from prune_gym.scoring.folding import Folding, Inference
from prune_gym.scoring.masked import MaskedNetwork
from prune_gym.scoring.threads import side_by_side
from prune_gym.surgery.slicing import check_architecture, slice_tensors

__all__ = ["NUMBERS", "Evaluator", "Score", "Split", "batch_size_for", "scores_of"]


@dataclass(frozen=True)
class Score:
    """Accuracy in [0, 1]; MACs per image and parameters; reductions and sparsity as fractions of the original network; and the
    widths of its groups, integers (groups,), None where they are not known. In a score of arrays (N,), as environments on tables
    give them to elementwise functions, widths are (N, groups)."""

    accuracy: float
    macs: int
    params: int
    flops_reduction: float
    params_reduction: float
    channel_sparsity: float
    widths: Any = field(default=None, compare=False, repr=False)


NUMBERS = tuple(each.name for each in fields(Score) if each.name != "widths")  # of a score


PRECISIONS = ("float32", "bfloat16")
MASKED_ON = ("cuda",)  # elsewhere the smaller network is faster
PIXELS_PER_BATCH = {"cpu": 2**17, "cuda": 2**22}  # measured: enough to use the device, little enough for its caches


def batch_size_for(images: Tensor) -> int:
    """How many of these images (N, C, H, W) to run at once, on the device where they are."""
    return max(16, PIXELS_PER_BATCH.get(images.device.type, 2**17) // max(1, images[0, 0].numel()))


def scores_of(graph: ChannelGraph, architectures: Sequence[Architecture], accuracies: Sequence[float]) -> list[Score]:
    """Accuracies put together with costs, which one expression gives for all architectures."""
    cost = graph.costs(np.stack([graph.widths, *(a.widths for a in architectures)]))
    (all_macs, *macs), (all_params, *params) = cost.macs.tolist(), cost.params.tolist()
    return [
        Score(
            accuracy=accuracy,
            macs=m,
            params=p,
            flops_reduction=1 - m / all_macs,
            params_reduction=1 - p / all_params,
            channel_sparsity=architecture.channel_sparsity,
            widths=architecture.widths,
        )
        for architecture, accuracy, m, p in zip(architectures, accuracies, macs, params, strict=True)
    ]


class CandidateAdjustment:
    """The tensors of masked networks at a fidelity, see :class:`prune_gym.scoring.masked.Adjustment`; ``folded`` makes what the
    folded program reads."""

    def __init__(self, candidates: Candidates, folded: Callable[[Mapping[str, Tensor]], dict[str, Tensor]]):
        self._candidates = candidates
        self._folded = folded

    def sources(self, masks: np.ndarray) -> Iterable[Mapping[str, Tensor]]:
        return self._candidates.sources(masks)

    def finished(self, zeroed: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return self._folded(self._candidates.recalibrated(zeroed, self._candidates.graph.full()))


class Evaluator:
    """Scores architectures of one network on one split; a pure function, which remembers no result.

    Accuracies are computed with batch norms folded into the convolutions before them: on a GPU with the removed units zeroed
    (:class:`~prune_gym.scoring.masked.MaskedNetwork`), which one CUDA graph does for all architectures; on a CPU, where the
    smaller network is faster, and where a norm mixes channels, on the compact form. Every forward pass starts from the same
    tensors, also where the network writes to its buffers.

    Args:
        candidates: the networks to score, with the tensors that they have before any training; on the device of the split.
        split: what accuracies are measured on.
        batch_size: images that are run at once, by default as many as keep the device busy.
        precision: ``"float32"`` runs the network in its own type; ``"bfloat16"`` in that one, which is faster on a GPU with
            tensor cores, and rounds logits to three digits, so that close calls may change.

    Raises ValueError for an unknown precision and a batch size below 1. Its methods raise TypeError for anything that is no
    architecture, ValueError for one of another graph.
    """

    def __init__(
        self,
        candidates: Candidates,
        split: Split,
        batch_size: int | None = None,
        precision: str = "float32",
    ):
        check_choice("precision", precision, PRECISIONS)
        if batch_size is not None:
            check_integer("batch_size", batch_size, 1)
        self.graph = candidates.graph
        self.candidates = candidates
        self.split = split
        self.batch_size = batch_size or batch_size_for(split.images)
        self.precision = precision

    def score(self, architecture: Architecture) -> Score:
        """Accuracy and costs of one architecture."""
        return self.scores([architecture])[0]

    def scores(self, architectures: Sequence[Architecture]) -> list[Score]:
        """:meth:`score` of many architectures."""
        return scores_of(self.graph, architectures, self.accuracies(architectures))

    def accuracy(self, architecture: Architecture) -> float:
        """Fraction of the split's images that the pruned network classifies correctly, in [0, 1]."""
        return self.accuracies([architecture])[0]

    def accuracies(self, architectures: Sequence[Architecture]) -> list[float]:
        """:meth:`accuracy` of many architectures; a GPU computes them in one go, a CPU several at a time, one in a thread."""
        for architecture in architectures:
            check_architecture(architecture, self.graph)
        if not architectures:
            return []
        if self._masked is None:
            self.candidates.prepare()
            self._network, self._inputs  # noqa: B018  # computed when they are first read, and not by each of the threads
            return side_by_side(self._compact_accuracy, architectures, self.split.images.device)
        masks = np.array([a.mask for a in architectures], bool)
        exact = self._masked.exact_for(masks)
        if not self.candidates.are_cut:  # the network itself keeps its tensors
            exact &= (masks != self.candidates.base.mask).any(1)
        masked = iter(self._masked.accuracies(masks[exact]))
        return [next(masked) if zeroed else self._compact_accuracy(a) for a, zeroed in zip(architectures, exact, strict=True)]

    @cached_property
    def _folding(self) -> Folding:
        return Folding(self.graph)

    @cached_property
    def _network(self) -> Inference:
        """The network that the candidates are cut out of."""
        network = self._folding.network(self.candidates.whole)
        return network.to(torch.bfloat16) if self.precision == "bfloat16" else network

    @cached_property
    def _masked(self) -> MaskedNetwork | None:
        if self.split.images.device.type not in MASKED_ON:
            return None
        network, adjustment = self._network, None
        if not self.candidates.are_cut:
            adjustment = CandidateAdjustment(self.candidates, self._folded)
            network = Inference(network.program, dict(self.candidates.whole), self.graph.units)
        images = self._cast(self.split.inputs())
        return MaskedNetwork(network, self.graph, images, self.split.labels, self.batch_size, adjustment=adjustment)

    def _cast(self, tensor: Tensor) -> Tensor:
        return tensor.bfloat16() if self.precision == "bfloat16" and tensor.is_floating_point() else tensor

    def _tensors(self, architecture: Architecture) -> dict[str, Tensor]:
        """What the folded program reads for an architecture."""
        if self.candidates.are_cut:  # folded once for all
            return slice_tensors(self._network.tensors, self._network.units, architecture)
        return self._folded(self.candidates.tensors(architecture))

    def _folded(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: self._cast(tensor) for name, tensor in self._folding.tensors(tensors).items()}

    def _compact_accuracy(self, architecture: Architecture) -> float:
        return int(self.correct(architecture).sum()) / len(self.split)

    @torch.inference_mode()
    def correct(self, architecture: Architecture) -> Tensor:
        """Which images of the split the pruned network classifies correctly, bool (N,), computed on the compact form."""
        if self.candidates.takes_calibration(architecture) and self._fits_one_batch:
            return self.candidates.calibrated_outputs(architecture, self._inputs).argmax(1) == self.split.labels
        written = self._network.written
        program, tensors = self._network.program.at(architecture.mask), self._tensors(architecture)

        def predict(images: Tensor) -> Tensor:
            return program.run(renew(tensors, written), [self._cast(images)]).argmax(1)

        return torch.cat([predict(images) == labels for images, labels in self.split.batches(self.batch_size)])

    @cached_property
    def _inputs(self) -> Tensor:
        """All images of the split as the network takes them."""
        return self.split.inputs()

    @cached_property
    def _fits_one_batch(self) -> bool:
        """Whether the split and the calibration images go through a network together."""
        together = len(self.split) + self.candidates.calibration_images <= self.batch_size
        return together and self.precision == "float32" and self.candidates.take_others_along
