"""Batch-norm statistics estimated anew for a pruned network, whose channels differ from those that the old ones describe."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from prune_gym.graph.program import Named, Node, Program
from prune_gym.scoring.aliasing import renew, written_tensors

STATISTICS = slice(3, 5)  # running mean and running variance among the arguments of a batch norm
TRAINING, MOMENTUM = 5, 6


class Recalibration:
    """Runs calibration images through a network once, layer by layer. Every batch norm normalises by the mean and the variance of
    these images, and takes them as its running statistics (the variance without bias, as PyTorch does in training). No labels.

    Li et al., *EagleEye: fast sub-net evaluation for efficient neural network pruning*, 2020, section 3.3.

    A norm that is called several times takes the mean over its calls. Norms without running statistics have nothing to take.
    """

    def __init__(self, program: Program):
        self._written = written_tensors(program)
        self._statistics: set[str] = set()
        calls: Counter[str] = Counter()
        nodes = list(program.nodes)
        for position, node in enumerate(nodes):
            if not _has_statistics(node):
                continue
            mean, variance = node.args[STATISTICS]
            calls[mean.name] += 1
            self._statistics |= {mean.name, variance.name}
            args = [*node.args[:TRAINING], True, 1 / calls[mean.name], *node.args[MOMENTUM + 1 :]]
            nodes[position] = replace(node, args=args)
        self._program = replace(program, nodes=tuple(nodes))

    @torch.inference_mode()
    def recalibrated(self, tensors: Mapping[str, Tensor], mask: np.ndarray, images: Tensor) -> dict[str, Tensor]:
        """The tensors of a pruned network with new statistics.

        Args:
            tensors: by name, at the widths of ``mask``. They are not modified.
            mask: which units the network keeps, bool (units,).
            images: (N, C, H, W), as the network takes them, all in one batch.
        """
        own = renew(tensors, self._written | self._statistics)
        self._program.at(mask).run(own, [images])
        return {**tensors, **{name: own[name] for name in self._statistics}}


def has_statistics(program: Program) -> bool:
    """Whether there is a norm to recalibrate."""
    return any(map(_has_statistics, program.nodes))


def _has_statistics(node: Node) -> bool:
    return node.op == "aten.batch_norm.default" and all(isinstance(each, Named) for each in node.args[STATISTICS])
