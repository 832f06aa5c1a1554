"""Batch-norm statistics estimated anew for a pruned network, whose channels differ from those that the old ones describe."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from prune_gym.graph.channel_graph import Architecture, ChannelGraph
from prune_gym.graph.program import Named, Node, Program, is_kept
from prune_gym.scoring.aliasing import renew, written_tensors
from prune_gym.surgery.slicing import scatter_tensors, slice_tensors

SCALE, SHIFT = 1, 2  # among the arguments of a batch norm
STATISTICS = slice(3, 5)  # running mean and running variance
TRAINING, MOMENTUM, EPSILON = 5, 6, 7


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

    A norm that is called several times takes the mean over its calls. Norms without running statistics have nothing to take.

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
        self._written = written_tensors(graph.program)
        self._norms = {position: node for position, node in enumerate(graph.program.nodes) if _has_statistics(node)}
        self._statistics = {name.name for node in self._norms.values() for name in node.args[STATISTICS]}
        self._calls = Counter(map(_mean, self._norms.values()))

    @cached_property
    def _moments(self) -> dict[str, tuple[Tensor, Tensor]]:
        """``r`` and ``t`` of every norm by the name of its running mean, at the shapes of the graph."""
        small = slice_tensors(self._tensors, self.graph.units, self.base)
        found: dict[str, list[Tensor]] = {}

        def note(position: int, arguments: list) -> None:
            if position in self._norms:
                x, name = arguments[0], _mean(self._norms[position])
                seen = torch.stack(torch.var_mean(x, [0, *range(2, x.ndim)], correction=0)) / self._calls[name]
                found[name] = found[name] + seen if name in found else seen

        self.graph.program.at(self.base.mask).run(renew(small, self._written), [self._images], before_call=note)
        moments = {}
        for node in self._norms.values():
            mean, variance = (small[name.name] for name in node.args[STATISTICS])
            seen_variance, seen_mean = found[_mean(node)]
            deviation = (variance + node.args[EPSILON]).sqrt()
            spread = (seen_variance + node.args[EPSILON]).sqrt() / deviation
            moments[_mean(node)] = self._scattered(node, spread, 1), self._scattered(node, (seen_mean - mean) / deviation, 0)
        return moments

    def _scattered(self, node: Node, values: Tensor, elsewhere: float) -> Tensor:
        """Values of the channels of the base at the shape of the graph."""
        name = _mean(node)
        whole = torch.full_like(self._tensors[name], elsewhere)
        return scatter_tensors({name: whole}, {name: values}, self.graph.units, self.base)[name]

    @torch.inference_mode()
    def recalibrated(self, tensors: Mapping[str, Tensor], architecture: Architecture) -> dict[str, Tensor]:
        """The tensors of a pruned network with new statistics.

        Args:
            tensors: by name, at the widths of ``architecture``. They are not modified.
            architecture: which units the network keeps.
        """
        own = renew(tensors, self._written | self._statistics)
        moments = {name: self._sliced(name, pair, architecture) for name, pair in self._moments.items()}
        calls = Counter[str]()
        bias = dict.fromkeys(moments, 0.0)

        def estimate(position: int, arguments: list) -> None:
            """Have a norm take the statistics of its images, and give what it will give with the final ones."""
            if position not in self._norms:
                return
            name = _mean(self._norms[position])
            calls[name] += 1
            bias[name] += arguments[0].shape[1] / arguments[0].numel() / self._calls[name]
            spread, centre = moments[name]
            scale, shift = arguments[SCALE], arguments[SHIFT]
            arguments[SCALE] = spread if scale is None else spread * scale
            centre = centre if scale is None else centre * scale
            arguments[SHIFT] = centre if shift is None else centre + shift
            arguments[TRAINING] = True
            arguments[MOMENTUM] = 1 / calls[name]  # so that the statistics end as the mean over all calls

        self.graph.program.at(architecture.mask).run(own, [self._images], before_call=estimate)
        found = {}
        for node in self._norms.values():
            mean, variance = node.args[STATISTICS]
            spread, centre = moments[mean.name]
            seen = own[variance.name] * (1 - bias[mean.name])  # PyTorch notes the unbiased one
            deviation = (seen + node.args[EPSILON]).sqrt() / spread
            found[variance.name] = (deviation.square() - node.args[EPSILON]).clamp(min=0)
            found[mean.name] = own[mean.name] - centre * deviation
        return {**tensors, **found}

    def _sliced(self, name: str, pair: tuple[Tensor, Tensor], architecture: Architecture) -> tuple[Tensor, ...]:
        """What an architecture keeps of two tensors that have the shape of a running mean."""
        (owners,) = self.graph.units.get(name, (None,))
        kept = None if owners is None else is_kept(owners, architecture.mask)
        if kept is None or kept.all():
            return pair
        index = torch.from_numpy(np.flatnonzero(kept)).to(pair[0].device)
        return tuple(each.index_select(0, index) for each in pair)


def has_statistics(program: Program) -> bool:
    """Whether there is a norm to recalibrate."""
    return any(map(_has_statistics, program.nodes))


def _has_statistics(node: Node) -> bool:
    return node.op == "aten.batch_norm.default" and all(isinstance(each, Named) for each in node.args[STATISTICS])


def _mean(node: Node) -> str:
    """The name of a norm's running mean."""
    return node.args[STATISTICS][0].name
