"""Pruning as a deterministic process: a state, what an action makes of it, and what that is worth. No RL in here."""

from __future__ import annotations

import base64
import hashlib
import json
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import groupby
from math import ceil
from typing import Any

import numpy as np
import torch

from prune_gym.arguments import check_choice, check_number, choose_device
from prune_gym.graph.channel_graph import Architecture, ChannelGraph
from prune_gym.scoring.evaluation import Evaluator, Score
from prune_gym.scoring.importance import CRITERIA, unit_scores
from prune_gym.simulation.allocation import ROUNDINGS, allocate, shares
from prune_gym.simulation.result_cache import NamespacedCache, ResultCache
from prune_gym.simulation.weight_store import ORIGINAL, Network, PostTrainer, Weights
from prune_gym.surgery.pruned_network import PrunedNetwork
from prune_gym.surgery.slicing import named_tensors
from prune_gym.tasks import Task
from prune_gym.training.distillation import PostTraining

MAX_EVALUATORS = 3  # of trained weights, kept ready
PROTOCOLS = {  # by the split whose accuracy the reward reads
    "val": "reward on validation",
    "test": "paper: reward on TEST, so test accuracy is tuned on",
}


def filters_per_step(graph: ChannelGraph, step_ratio: float) -> int:
    """Filters that a step removes, M of the paper: ``floor(step_ratio * F)``, at least one."""
    return max(1, int(step_ratio * graph.n_filters + 1e-9))  # 0.29 * 100 is a little less than 29


@dataclass(frozen=True, eq=False)
class PruningState:
    """Everything that the future depends on: the architecture, what rounding carried over, the version of the weights and who
    teaches them next; and the way there."""

    # What is printed is short, as states hold all states before them.

    architecture: Architecture
    carry: np.ndarray
    teacher: Network = field(repr=False)
    weights: Weights = ORIGINAL
    steps: int = 0
    previous: PruningState | None = field(default=None, repr=False)
    action: np.ndarray | None = None  # what led here from the previous state

    @property
    def network(self) -> Network:
        return Network(self.architecture, self.weights)

    def __reduce__(self) -> tuple:
        # one state after the other, as a long chain of objects in objects cannot be pickled
        return _linked, ([vars(state) | {"previous": None} for state in self.trajectory()],)

    def trajectory(self) -> list[PruningState]:
        """All states from the original network to this one."""
        path = [self]
        while path[-1].previous is not None:
            path.append(path[-1].previous)
        return path[::-1]


def _linked(trajectory: Sequence[dict[str, Any]]) -> PruningState:
    last = None
    for fields in trajectory:
        last = PruningState(**fields | {"previous": last})
    assert last is not None  # a trajectory begins with the original network
    return last


class Simulator:
    """Prunes a task's network step by step.

    One step removes ``step_ratio`` of the original filters, spread over the groups by an action; within a group the least
    important units go. The last step removes only what is missing to ``sparsity``.

    Args:
        task: network, data and channel graph.
        sparsity: target channel sparsity, in (0, 1).
        step_ratio: filters removed per step over filters of the original network, in (0, 1].
        rounding: see :func:`prune_gym.allocate`.
        importance: criterion by name, see :func:`prune_gym.importance`; scores are computed once per state.
        reward_split: ``"val"``, or ``"test"`` for the paper's protocol, which tunes on the test set.
        device: where evaluations run.
        precision: in which accuracies are computed, see :class:`prune_gym.scoring.evaluation.Evaluator`.
        posttraining: how networks are trained after a step; by default they are not.
        cache: where accuracies and importance rankings are kept; a
            :class:`prune_gym.simulation.result_cache.Journal` outlives the process.

    Raises TypeError or ValueError for an argument out of range, ValueError for a sparsity beyond one unit per group.
    """

    def __init__(
        self,
        task: Task,
        sparsity: float,
        step_ratio: float,
        rounding: str = "largest_remainder",
        importance: str = "taylor",
        reward_split: str = "val",
        device: torch.device | str = "cpu",
        precision: str = "float32",
        posttraining: PostTraining | None = None,
        cache: ResultCache | None = None,
    ):
        if not isinstance(task, Task):
            raise TypeError(f"task: expected a prune_gym.tasks.Task, got {type(task).__name__}.")
        graph = task.graph
        check_number("sparsity", sparsity, "(0, 1)")
        if sparsity > graph.max_sparsity:
            raise ValueError(
                f"sparsity: {sparsity} cannot be reached on task {task.name!r} with one channel kept per group; "
                f"the largest that can is {np.floor(graph.max_sparsity * 1e4) / 1e4:.4f}."
            )
        check_number("step_ratio", step_ratio, "(0, 1]")
        check_choice("rounding", rounding, ROUNDINGS)
        check_choice("importance", importance, CRITERIA)
        check_choice("reward_split", reward_split, PROTOCOLS)
        self.task = task
        self.graph = graph
        self.rounding = rounding
        self.importance = importance
        self.reward_split = reward_split
        self.target_filters = max(1, ceil(sparsity * graph.n_filters - 1e-9))  # 0.07 * 100 is a little more than 7
        self.step_budget = filters_per_step(graph, step_ratio)
        self.device = device = choose_device(device)
        # copies, as a forward pass may write to its buffers
        tensors = {name: tensor.detach().to(device, copy=True) for name, tensor in named_tensors(task.model, graph).items()}
        if not isinstance(posttraining, PostTraining | None):
            raise TypeError(f"posttraining: expected a PostTraining, got {type(posttraining).__name__}.")
        if not isinstance(cache, ResultCache | None):
            raise TypeError(f"cache: expected a ResultCache, got {type(cache).__name__}.")
        self.tensors = tensors
        self.posttraining = posttraining or PostTraining()
        self.identity = self._identify(device, precision)
        name = hashlib.blake2b(json.dumps(self.identity).encode(), digest_size=6).hexdigest()
        self.cache = NamespacedCache(ResultCache() if cache is None else cache, name)
        self.trainer = PostTrainer(task, graph, tensors, self.posttraining, self.cache)
        split = getattr(task, reward_split).to(device)
        self.evaluator = Evaluator(graph, tensors, split, precision=precision, cache=self.cache)
        self._evaluators: OrderedDict[str, Evaluator] = OrderedDict()
        self.calibration = task.calibration.to(device)
        self._rank_type = "<u2" if graph.widths.max() < 2**16 else "<u4"
        self._check_outputs()
        self.baseline = self.evaluator.score(graph.full())

    def _identify(self, device: torch.device, precision: str) -> dict[str, Any]:
        """All that accuracies, rankings and trained weights depend on."""
        return {
            **self.task.fingerprints,
            "split": self.reward_split,
            "importance": self.importance,
            "precision": precision,
            "post-training": asdict(self.posttraining),
            "device": str(device),
            "torch": torch.__version__,
        }

    def _check_outputs(self) -> None:
        """That the network classifies, and that every label is one of its classes."""
        evaluator = self.evaluator
        with torch.inference_mode():
            logits = self.graph.program.at(self.graph.full().mask).run(self.tensors, [evaluator.split.inputs(slice(2))])
        if not isinstance(logits, torch.Tensor) or logits.ndim != 2:
            got = f"a tensor of shape {tuple(logits.shape)}" if isinstance(logits, torch.Tensor) else type(logits).__name__
            raise TypeError(f"model: expected one tensor of logits (N, classes) as its output, got {got}.")
        for name in ("train", "val", "test"):
            labels = getattr(self.task, name).labels
            if not 0 <= int(labels.min()) <= int(labels.max()) < logits.shape[1]:
                raise ValueError(
                    f"labels: expected classes 0 .. {logits.shape[1] - 1}, as many as the network has, got "
                    f"{int(labels.min())} .. {int(labels.max())} in the {name} images."
                )

    def initial(self) -> PruningState:
        return PruningState(self.graph.full(), np.zeros(len(self.graph.groups)), Network(self.graph.full()))

    def score(self, at: PruningState) -> Score:
        return self._evaluator(at.weights).score(at.architecture)

    def removed_filters(self, at: PruningState) -> int:
        return int((self.graph.widths - at.architecture.widths) @ self.graph.filters_per_unit)

    def is_terminal(self, at: PruningState) -> bool:
        return self.removed_filters(at) >= self.target_filters

    def progress(self, at: PruningState) -> float:
        """How much of the way to the target sparsity is done, in [0, 1]."""
        return min(1.0, self.removed_filters(at) / self.target_filters)

    def step_filters(self, at: PruningState) -> int:
        """Filters that the next step is to remove. What steps before could not, because of rounding, is made up for; so there
        are as many steps as planned."""
        return max(1, self._goal(at) - self.removed_filters(at))

    def _goal(self, at: PruningState) -> int:
        """Filters that are to be gone after the next step."""
        return min(self.step_budget * (at.steps + 1), self.target_filters)

    def successors(self, at: PruningState, actions: Sequence[np.ndarray]) -> list[PruningState]:
        """The states that the actions lead to; no network is run but for the importance of the present state."""
        rank = self._ranks(at.network)
        budget = self.step_filters(at)
        is_last = self._goal(at) == self.target_filters
        rounding = "largest_remainder" if is_last else self.rounding  # exact, and there is no step to carry anything to
        counts = np.empty((len(actions), len(self.graph.groups)), np.int64)
        carries = np.zeros(counts.shape)
        for i, action in enumerate(actions):
            counts[i] = allocate(action, at.architecture, budget, rounding, at.carry)
            if self.rounding == "carry":
                carries[i] = shares(action, at.architecture, budget, at.carry) - counts[i]
            if is_last:
                self._complete(counts[i], at.architecture, budget)
        masks = at.architecture.mask & (rank >= np.repeat(counts, self.graph.widths, axis=1))
        return [
            PruningState(Architecture(self.graph, mask), carry, at.teacher, at.weights, at.steps + 1, at, action)
            for mask, carry, action in zip(masks, carries, actions, strict=True)
        ]

    def _complete(self, counts: np.ndarray, architecture: Architecture, budget: int) -> None:
        """Add the cheapest units until the budget is met, where no unit is small enough to meet it exactly."""
        filters = self.graph.filters_per_unit
        while counts @ filters < budget:
            counts[np.argmin(np.where(counts < architecture.widths - 1, filters, np.iinfo(np.int64).max))] += 1

    def scores(self, states: Sequence[PruningState]) -> list[Score]:
        """The scores of states, whatever their weights."""
        scores: dict[int, Score] = {}
        for _, same in groupby(sorted(range(len(states)), key=lambda i: states[i].weights.version), lambda i: states[i].weights):
            chosen = list(same)
            evaluator = self._evaluator(states[chosen[0]].weights)
            scores |= zip(chosen, evaluator.scores([states[i].architecture for i in chosen]), strict=True)
        return [scores[i] for i in range(len(states))]

    def _evaluator(self, weights: Weights) -> Evaluator:
        version = weights.version
        if not version:
            return self.evaluator
        if version not in self._evaluators:
            tensors = partial(self.trainer.tensors, weights)
            original = self.evaluator
            self._evaluators[version] = Evaluator(
                self.graph, tensors, original.split, original.batch_size, original.precision, self.cache, version
            )
            if len(self._evaluators) > MAX_EVALUATORS:
                self._evaluators.popitem(last=False)
        self._evaluators.move_to_end(version)
        return self._evaluators[version]

    # ---------------------------------------------------------------------------------------------- post-training

    def trains(self, at: PruningState) -> bool:
        """Whether a step that leads to this state ends with post-training."""
        settings = self.posttraining
        return settings.epochs > 0 and (at.steps % settings.period == 0 or self.is_terminal(at))

    def posttrained(self, at: PruningState) -> PruningState:
        """The same state with trained weights. If it is better than its teacher on the validation split, it teaches from now
        on."""
        weights = Weights(at.network, at.teacher)
        trained = Network(at.architecture, weights)
        better = self.trainer.val_accuracy(trained) > self.trainer.val_accuracy(at.teacher)
        return replace(at, weights=weights, teacher=trained if better else at.teacher)

    def pin(self, at: PruningState) -> None:
        """Keep the weights of this state, and let go of those that were kept before."""
        self.trainer.pinned = at.weights.version

    def network(self, at: PruningState) -> PrunedNetwork:
        """The network of a state as a module, physically small, in evaluation mode."""
        return self.trainer.network(at.network)

    # ------------------------------------------------------------------------------------------------- importance

    def unit_scores(self, network: Network, criterion: str) -> np.ndarray:
        """The importance of every unit, by the calibration images, float64 (units,); NaN for the removed ones."""
        images, labels = self.calibration.images, self.calibration.labels
        tensors = self.trainer.tensors(network.weights)
        return unit_scores(criterion, tensors, self.graph, images, labels, network.architecture)

    def _ranks(self, network: Network) -> np.ndarray:
        """For every kept unit how many of its group are less important; computed once per state, not once per action."""
        architecture = network.architecture
        known = self.cache.get("ranks", network.key)
        if known is not None:
            return np.frombuffer(base64.b64decode(known), self._rank_type)
        scores = self.unit_scores(network, self.importance)
        group = np.repeat(np.arange(len(self.graph.groups)), self.graph.widths)
        order = np.lexsort((scores, ~architecture.mask, group))  # removed units last, even if a kept one scores NaN
        rank = np.empty(len(order), self._rank_type)
        rank[order] = np.arange(len(order)) - self.graph.starts[group[order]]
        self.cache.put("ranks", network.key, base64.b64encode(rank.tobytes()).decode())
        return rank
