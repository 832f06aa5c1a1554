"""The scorer: accuracies, costs and importance rankings of pruned networks, whatever their weights; none is computed twice."""

from __future__ import annotations

import base64
from collections import defaultdict
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np

from prune_gym.data.splits import Split
from prune_gym.graph.channel_graph import Architecture
from prune_gym.scoring.aliasing import renew, written_tensors
from prune_gym.scoring.calibration import RECALIBRATION_IMAGES, how_many
from prune_gym.scoring.candidates import Candidates
from prune_gym.scoring.compensation import SolvingCost
from prune_gym.scoring.evaluation import Evaluator, Score, scores_of
from prune_gym.scoring.importance import unit_scores
from prune_gym.scoring.recalibration import has_statistics
from prune_gym.scoring.threads import side_by_side
from prune_gym.simulation.compute import NOTHING, Compute, passes
from prune_gym.simulation.recipes import Network, Weights
from prune_gym.simulation.result_cache import ResultCache
from prune_gym.simulation.weight_store import WeightStore


class Scorer:
    """Scores and ranks the networks of one weight store.

    Args:
        store: the weights of the networks.
        split: what accuracies are measured on, on the store's device.
        calibration: the images that importance is computed on, there too.
        importance: the criterion that ranks units, by name; see :func:`prune_gym.importance`.
        precision: the number format of evaluation; see :class:`prune_gym.scoring.evaluation.Evaluator`.
        cache: keeps accuracies and rankings by the networks' keys.
        importance_seed: of the ranking that ``importance="random"`` draws.
    """

    def __init__(
        self,
        store: WeightStore,
        split: Split,
        calibration: Split,
        importance: str,
        precision: str,
        cache: ResultCache,
        importance_seed: int = 0,
    ):
        self.graph = store.graph
        self.store = store
        self.split = split
        self.calibration = calibration
        self.importance, self.importance_seed = importance, importance_seed
        self.precision = precision
        self.cache = cache
        self._written = written_tensors(self.graph.program)
        self._rank_type = "<u2" if self.graph.widths.max() < 2**16 else "<u4"

    def evaluator(self, weights: Weights) -> Evaluator:
        """The evaluator of a version of the weights; the store keeps it as long as the tensors."""
        stored = self.store.get(weights)
        if stored.evaluator is None:
            stored.evaluator = Evaluator(stored.candidates, self.split, precision=self.precision)
        return stored.evaluator

    def score(self, network: Network) -> Score:
        """The score of one network; see :meth:`scores`."""
        return self.scores([network])[0]

    def scores(self, networks: Sequence[Network]) -> list[Score]:
        """The scores of networks; those of the same weights are evaluated together, and no network twice."""
        known: dict[str, Any] = {network.key: self.cache.get("accuracy", network.key) for network in networks}
        new: defaultdict[str, dict[str, Network]] = defaultdict(dict)
        for network in networks:
            if known[network.key] is None:
                new[network.weights.version][network.key] = network
        for same in new.values():
            evaluator = self.evaluator(next(iter(same.values())).weights)
            accuracies = evaluator.accuracies([network.architecture for network in same.values()])
            for key, accuracy in zip(same, accuracies, strict=True):
                known[key] = accuracy
                self.cache.put("accuracy", key, accuracy)
        return scores_of(self.graph, [n.architecture for n in networks], [known[n.key] for n in networks])

    def unit_scores(self, network: Network, criterion: str) -> np.ndarray:
        """The importance of every unit, by the calibration images and with the tensors that are scored, float64 (units,); NaN for
        the removed ones."""
        return self._unit_scores(self.store.get(network.weights).candidates, network.architecture, criterion)

    def _unit_scores(self, candidates: Candidates, architecture: Architecture, criterion: str) -> np.ndarray:
        tensors = renew(candidates.tensors(architecture), self._written)
        images, labels = self.calibration.images, self.calibration.labels
        compensation = candidates.compensation if criterion == "obs" else None
        return unit_scores(criterion, tensors, self.graph, images, labels, architecture, self.importance_seed, compensation)

    def score_cost(self, network: Network, macs: int) -> Compute:
        """What the accuracy of a network of so many MACs takes, its calibration included."""
        base = network.weights.base(self.graph)
        images, solved = len(self.split), 0
        if self.store.fidelity != "original" and not np.array_equal(network.architecture.mask, base.mask):
            if self.store.fidelity == "compensated":
                solved = self._solving.compensating(network.architecture, base)
            if has_statistics(self.graph.program):
                images += how_many(RECALIBRATION_IMAGES, self.store.task.train)
        return passes(images, macs) + Compute(macs=solved)

    def ranks_cost(self, network: Network, macs: int) -> Compute:
        """What the importance ranking of a network of so many MACs takes."""
        if self.importance == "taylor":
            return passes(len(self.calibration), macs, backward=True)
        if self.importance == "obs":
            return Compute(macs=self._solving.removal_errors(network.architecture))
        return NOTHING

    @cached_property
    def _solving(self) -> SolvingCost:
        return SolvingCost(self.graph)

    def ranks(self, network: Network) -> np.ndarray:
        """For every kept unit the number of units of its group that are less important, unsigned (units,); removed units come
        last. Computed once per network, not once per action."""
        self.rank([network])
        known: Any = self.cache.get("ranks", network.key)
        return np.frombuffer(base64.b64decode(known), self._rank_type)

    def rank(self, networks: Sequence[Network]) -> None:
        """Compute the :meth:`ranks` of networks that are not known yet, several at a time on a CPU."""
        new = {network.key: network for network in networks if self.cache.get("ranks", network.key) is None}
        jobs = [(self.store.get(network.weights).candidates, network.architecture) for network in new.values()]
        for candidates, _ in jobs:
            candidates.prepare(self.importance)
        # one thread each, so that ties are broken alike however many there are
        ranked = side_by_side(self._ranks, jobs, self.calibration.images.device, shared=False)
        for key, ranks in zip(new, ranked, strict=True):
            self.cache.put("ranks", key, base64.b64encode(ranks.tobytes()).decode())

    def _ranks(self, job: tuple[Candidates, Architecture]) -> np.ndarray:
        candidates, architecture = job
        scores = self._unit_scores(candidates, architecture, self.importance)
        group = np.repeat(np.arange(len(self.graph.groups)), self.graph.widths)
        order = np.lexsort((scores, ~architecture.mask, group))  # removed units last, even if a kept one scores NaN
        rank = np.empty(len(order), self._rank_type)
        rank[order] = np.arange(len(order)) - self.graph.starts[group[order]]
        return rank
