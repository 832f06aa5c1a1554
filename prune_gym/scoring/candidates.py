"""The tensors of pruned networks before any training: cut, recalibrated or compensated."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property

import numpy as np
from torch import Tensor

from prune_gym.arguments import check_choice
from prune_gym.data.splits import Split
from prune_gym.graph.channel_graph import Architecture, ChannelGraph
from prune_gym.scoring.calibration import COMPENSATION_IMAGES, RECALIBRATION_IMAGES, how_many
from prune_gym.scoring.compensation import Compensation, compensate_sequentially
from prune_gym.scoring.recalibration import Recalibration, has_statistics
from prune_gym.surgery.slicing import slice_tensors

FIDELITIES = ("original", "recalibrated", "compensated")
FIDELITY = "recalibrated"  # the default


class Candidates:
    """All networks that can be cut out of one, with the tensors that they have at a fidelity. A pure function of the
    architecture:

    - ``"original"``: removed units are cut, nothing else changes.
    - ``"recalibrated"``: batch norms take new statistics, see :class:`prune_gym.scoring.recalibration.Recalibration`.
    - ``"compensated"``: consumers make up for their removed inputs, see :class:`prune_gym.scoring.compensation.Compensation`,
      and then batch norms take new statistics.

    The network itself, of which nothing is removed, keeps its tensors at every fidelity.

    Args:
        graph: the channel graph.
        tensors: by name, at the shapes of the graph.
        fidelity: one of the above.
        data: images to draw calibration images from; ``"original"`` needs none.
        base: the network that the tensors belong to, an architecture of the graph; by default all of it.

    Attributes:
        whole: the tensors of the network that the others are cut out of.

    Raises ValueError for an unknown fidelity, and for one that needs images if there are none.
    """

    def __init__(
        self,
        graph: ChannelGraph,
        tensors: Mapping[str, Tensor],
        fidelity: str = "original",
        data: Split | None = None,
        base: Architecture | None = None,
    ):
        check_choice("fidelity", fidelity, FIDELITIES)
        if fidelity != "original" and data is None:
            raise ValueError(f"data: fidelity {fidelity!r} needs images to calibrate on, got none.")
        self.graph = graph
        self.fidelity = fidelity
        self.base = graph.full() if base is None else base
        self.whole = tensors
        self._data = data

    @property
    def are_cut(self) -> bool:
        """Whether all tensors of a network are slices of those that it is cut out of."""
        return self.fidelity == "original"

    @cached_property
    def compensation(self) -> Compensation:
        """Its Gram matrices are computed when they are first needed."""
        return Compensation(self.graph, self.whole, self._images(COMPENSATION_IMAGES), self.base)

    def prepare(self, criterion: str = "") -> None:
        """Compute now what all networks have in common when they are scored, or ranked by a criterion, so that threads only read
        it."""
        if self.fidelity == "compensated" or criterion == "obs":
            self.compensation.grams  # noqa: B018  # computed when it is first read
        if not self.are_cut and has_statistics(self.graph.program):
            self._recalibration.scales  # noqa: B018

    def tensors(self, architecture: Architecture) -> dict[str, Tensor]:
        """The tensors of a network by name, physically small."""
        small = self._adjusted(architecture)
        return self._recalibration.recalibrated(small, architecture) if self.takes_calibration(architecture) else small

    def takes_calibration(self, architecture: Architecture) -> bool:
        """Whether the network takes new statistics: not the one that the others are cut out of, and none without statistics."""
        return not self.are_cut and not self._is_base(architecture) and has_statistics(self.graph.program)

    @property
    def calibration_images(self) -> int:
        """How many images a network is calibrated on."""
        return 0 if self._data is None else how_many(RECALIBRATION_IMAGES, self._data)

    @property
    def take_others_along(self) -> bool:
        """Whether other images may go through a network in the pass that calibrates it."""
        return self._recalibration.takes_others_along

    def calibrated_outputs(self, architecture: Architecture, images: Tensor) -> Tensor:
        """What a network that takes calibration gives for images (N, C, H, W), in one pass with the calibration images."""
        return self._recalibration.outputs(self._adjusted(architecture), architecture, images)

    def _is_base(self, architecture: Architecture) -> bool:
        return np.array_equal(architecture.mask, self.base.mask)

    def _adjusted(self, architecture: Architecture) -> dict[str, Tensor]:
        """The tensors before any calibration."""
        if self.fidelity == "compensated" and not self._is_base(architecture):
            return self.compensation.compensate(architecture)
        return slice_tensors(self.whole, self.graph.units, architecture)

    def recalibrated(self, tensors: Mapping[str, Tensor], architecture: Architecture) -> dict[str, Tensor]:
        """Tensors of the shapes of an architecture with new statistics, at fidelity ``"original"`` as they are. A masked network
        has the shapes of the whole graph."""
        if self.are_cut or not has_statistics(self.graph.program):
            return dict(tensors)
        return self._recalibration.recalibrated(tensors, architecture)

    def sources(self, masks: np.ndarray) -> Iterable[Mapping[str, Tensor]]:
        """For each of the masks, bool (M, units), the tensors at the shapes of the graph that its masked network has instead of
        those of ``whole``, before its removed units are zeroed and its statistics estimated."""
        return self.compensation.compensate_masked(masks) if self.fidelity == "compensated" else ({} for _ in masks)

    def starting_point(self, architecture: Architecture) -> dict[str, Tensor]:
        """The tensors of a network that is to be trained or kept: compensated from the first layer to the last, which is better
        than any fidelity and too slow for every candidate."""
        images = self._images(COMPENSATION_IMAGES)
        return compensate_sequentially(self.graph, self.whole, images, architecture, self.base)

    @cached_property
    def _recalibration(self) -> Recalibration:
        return Recalibration(self.graph, self.whole, self._images(RECALIBRATION_IMAGES), self.base)

    def _images(self, wanted: int) -> Tensor:
        """Calibration images, fewer if they are large."""
        if self._data is None:
            raise ValueError("data: expected images to calibrate on, got none.")
        sample = self._data.sample(how_many(wanted, self._data))
        return sample.to(next(iter(self.whole.values())).device).inputs()
