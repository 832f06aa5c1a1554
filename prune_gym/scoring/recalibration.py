"""Batch-norm statistics estimated anew for a pruned network, whose channels differ from those that the old ones describe."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prune_gym.graph.channel_graph import Architecture, ChannelGraph
from prune_gym.graph.program import Named, Node, Program, is_kept
from prune_gym.scoring.aliasing import renew, written_tensors
from prune_gym.scoring.in_place import in_place
from prune_gym.surgery.slicing import slice_tensors

BATCH_NORM = "aten.batch_norm.default"
STATISTICS = slice(3, 5)  # running mean and running variance among the arguments of a batch norm
TRAINING, EPSILON = 5, 7
SQUARES = torch.ops.aten.mse_loss.default  # of differences, in one pass over them; with 0 as they are, neither mean nor sum
TINY = torch.finfo(torch.float64).tiny
FEW_PLACES = 16  # per channel and image, below which the sum over images comes first; measured


class Recalibration:
    """Runs calibration images through a pruned network once, layer by layer. Every batch norm takes the statistics with which
    its outputs have, on these images, the mean and the variance that they have in the network before pruning. No labels.

    With the mean ``m`` and the variance ``v`` of a channel before the norm, ``M`` and ``V`` the norm's statistics, and 0 for the
    network before pruning::

        r^2 = (v0 + eps) / (V0 + eps),       t = (m0 - M0) / sqrt(V0 + eps),
        V = (v + eps) / r^2 - eps,           M = m - t sqrt(V + eps).

    Where the old statistics describe the calibration images exactly, ``r`` is 1 and ``t`` is 0, and this is the adaptive batch
    normalisation of Li et al., *EagleEye: fast sub-net evaluation for efficient neural network pruning*, 2020, section 3.3. They
    seldom do, as training augments images and averages over its course; so nothing changes here if nothing was pruned.

    A norm that is called several times takes the mean over its calls so far, and ends with that over all of them. Norms without
    running statistics have nothing to take.

    Args:
        graph: the channel graph of the network.
        tensors: those of the network before pruning by name, at the shapes of the graph.
        images: calibration images (N, C, H, W), as the network takes them; they are run in one batch.
        base: the network before pruning, an architecture of the graph; by default all of it.
    """

    def __init__(self, graph: ChannelGraph, tensors: Mapping[str, Tensor], images: Tensor, base: Architecture | None = None):
        self.graph = graph
        self.base = graph.full() if base is None else base
        self._tensors, self._images = tensors, images
        self._program = in_place(graph.program)
        self._written = written_tensors(graph.program)
        self._norms = {position: node for position, node in enumerate(graph.program.nodes) if _has_statistics(node)}

    @cached_property
    def moments(self) -> dict[int, Tensor]:
        """``r`` and ``t`` of every call of a norm by its position, float64 (2, C), at the shapes of the graph."""
        small = slice_tensors(self._tensors, self.graph.units, self.base)
        seen, moments = _Seen(), {}

        def note(position: int, arguments: list) -> None:
            if position in self._norms:
                node = self._norms[position]
                old_mean, old_variance = (small[name.name].double() for name in node.args[STATISTICS])
                mean, variance = seen.add(_mean(node), arguments[0])
                deviation = _deviation(old_variance, node)
                found = torch.stack([_deviation(variance, node) / deviation, (mean - old_mean) / deviation])
                moments[position] = self._scattered(_mean(node), found)

        self.graph.program.at(self.base.mask).run(renew(small, self._written), [self._images], before_call=note)
        return moments

    @cached_property
    def scales(self) -> tuple[Tensor, np.ndarray]:
        """What every call of a norm is estimated with, as its ``V + eps`` is ``v / r^2 + eps / r^2``: ``1 / r^2``, ``eps / r^2``
        and ``t``, float64 (3, channels), at the shapes of the graph, those of all calls one after the other, so that they are
        sliced together; and the unit of each channel, -1 for those that always stay."""
        scales, units = [], []
        for position, (spread, centre) in self.moments.items():
            scale = spread.square().reciprocal_()
            scales.append(torch.stack([scale, scale * self._norms[position].args[EPSILON], centre]))
            (owners,) = self.graph.units.get(_mean(self._norms[position]), (None,))
            units.append(np.full(len(centre), -1) if owners is None else owners)
        return torch.cat(scales, 1), np.concatenate(units)

    def _scales_at(self, architecture: Architecture) -> dict[int, tuple[Tensor, ...]]:
        """The scales of the channels that an architecture keeps, three tensors for each call by its position."""
        if not self.moments:
            return {}
        scales, units = self.scales
        kept = is_kept(units, architecture.mask)
        sliced = scales if kept.all() else scales.index_select(1, torch.from_numpy(np.flatnonzero(kept)).to(scales.device))
        ends = np.cumsum([moments.shape[1] for moments in self.moments.values()])
        counts = [np.count_nonzero(part) for part in np.split(kept, ends[:-1])]
        parts = [row.split(counts) for row in sliced.unbind()]
        return dict(zip(self.moments, zip(*parts, strict=True), strict=True))

    def _scattered(self, name: str, moments: Tensor) -> Tensor:
        """Moments of the channels of the base at the shape of the graph."""
        (owners,) = self.graph.units.get(name, (None,))
        if owners is None:
            return moments
        whole = moments.new_tensor([[1.0], [0.0]]).repeat(1, len(owners))
        whole[:, torch.from_numpy(np.flatnonzero(is_kept(owners, self.base.mask))).to(whole.device)] = moments
        return whole

    @property
    def takes_others_along(self) -> bool:
        """Whether other images may go through the network in the pass that calibrates it: every norm has statistics, so that it
        does not depend on the others of a batch, and is called once, so that its first statistics are its last."""
        norms = [node for node in self.graph.program.nodes if node.op == BATCH_NORM]
        return len(norms) == len({_mean(node) for node in self._norms.values()})

    def recalibrated(self, tensors: Mapping[str, Tensor], architecture: Architecture) -> dict[str, Tensor]:
        """The tensors of a pruned network with new statistics.

        Args:
            tensors: by name, at the widths of ``architecture``. They are not modified.
            architecture: which units the network keeps.
        """
        return self._run(tensors, architecture, self._images)[0]

    def outputs(self, tensors: Mapping[str, Tensor], architecture: Architecture, images: Tensor) -> Tensor:
        """What the recalibrated network gives for other images (N, C, H, W), in one batch with the calibration images: on few
        images, a pass takes most of its time for other things than them. For a network that takes others along."""
        return self._run(tensors, architecture, torch.cat([self._images, images]))[1][len(self._images) :]

    @torch.inference_mode()
    def _run(self, tensors: Mapping[str, Tensor], architecture: Architecture, images: Tensor) -> tuple[dict[str, Tensor], Any]:
        """The tensors with new statistics and the network's outputs. The calibration images are the first of the images."""
        new = dict(tensors)
        program = self._program.at(architecture.mask)
        output = program.run(renew(tensors, self._written), [images], before_call=self.estimator(new, architecture, self._norms))
        return new, output

    def estimator(
        self, new: dict[str, Tensor], architecture: Architecture, positions: Iterable[int]
    ) -> Callable[[int, list[Any]], None]:
        """What is to be called before every node of the program, with its position and its arguments: it gives the norms at these
        positions the statistics that follow from their inputs, the first of which are of the calibration images, and puts them
        into ``new``, which holds the old ones, at the widths of ``architecture``."""
        wanted, calibrating, seen = set(positions), self._images.shape[0], _Seen()
        scales = self._scales_at(architecture)

        def estimate(position: int, arguments: list[Any]) -> None:
            if position not in scales or position not in wanted:
                return
            node = self._norms[position]
            mean, variance = (name.name for name in node.args[STATISTICS])
            (scale, offset, centre), epsilon = scales[position], node.args[EPSILON]
            seen_mean, seen_variance = seen.add(mean, arguments[0][:calibrating])
            square = torch.addcmul(offset, seen_variance, scale).clamp_(min=epsilon or TINY)  # so that V is not below 0
            types = new[mean].dtype, new[variance].dtype
            new[mean] = torch.addcmul(seen_mean, centre, square.sqrt(), value=-1).to(types[0])
            new[variance] = square.sub_(epsilon).to(types[1])
            arguments[STATISTICS] = new[mean], new[variance]
            arguments[TRAINING] = False

        return estimate


def _deviation(variance: Tensor, norm: Node) -> Tensor:
    """What a norm divides by, more than 0 also without an epsilon."""
    return (variance + norm.args[EPSILON]).clamp_(min=TINY).sqrt_()


class _Seen(dict[str, tuple[Tensor, Tensor]]):
    """Mean and variance of the channels of the inputs of norms by name, float64 (C,): the mean over a norm's calls so far."""

    def __init__(self) -> None:
        super().__init__()
        self._calls: Counter[str] = Counter()

    def add(self, name: str, x: Tensor) -> tuple[Tensor, Tensor]:
        """Take the input of one call (N, C, *space) into account; gives what is known now. Two short sums, over space and over
        images, are several times faster than one over both."""
        wide, places = torch.promote_types(x.dtype, torch.float32), prod(x.shape[2:])
        if places > FEW_PLACES:
            space = tuple(range(2, x.ndim))
            sums, norms = x.sum(space, dtype=wide), torch.linalg.vector_norm(x, dim=space, dtype=wide)
            mean = sums.sum(0, dtype=torch.float64).div_(x.shape[0] * places)
            square = norms.double().square_().sum(0).div_(x.shape[0] * places)
            variance = square.addcmul_(mean, mean, value=-1).clamp_(min=0)
        else:  # over images first, and the variance as that within the places and that between them
            x = x.reshape(*x.shape[:2], -1).to(wide)
            means = x.mean(0)
            within = SQUARES(x, means.expand_as(x), 0).mean(0)
            between, mean = torch.var_mean(means.double(), 1, correction=0)
            variance = between.add_(within.mean(1, dtype=between.dtype))
        self._calls[name] += 1
        if name in self:
            mean, variance = (
                torch.lerp(old, now, 1 / self._calls[name]) for old, now in zip(self[name], (mean, variance), strict=True)
            )
        self[name] = mean, variance
        return mean, variance


def has_statistics(program: Program) -> bool:
    """Whether there is a norm to recalibrate."""
    return any(map(_has_statistics, program.nodes))


def _has_statistics(node: Node) -> bool:
    return node.op == BATCH_NORM and all(isinstance(each, Named) for each in node.args[STATISTICS])


def _mean(node: Node) -> str:
    """The name of a norm's running mean."""
    return node.args[STATISTICS][0].name
