"""Pruning as a deterministic process: a state, what an action makes of it, and what that is worth. No RL in here."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any

import numpy as np
import torch

from prune_gym.arguments import check_choice, check_integer, check_number, choose_device, unknown
from prune_gym.graph.channel_graph import Architecture
from prune_gym.scoring.evaluation import PRECISIONS, Score
from prune_gym.scoring.importance import CRITERIA
from prune_gym.simulation.allocation import ROUNDINGS, allocate, check_action, shares
from prune_gym.simulation.recipes import Network
from prune_gym.simulation.result_cache import NamespacedCache, ResultCache
from prune_gym.simulation.schedule import Schedule, complete, filters_per_step, filters_to_remove
from prune_gym.simulation.scorer import Scorer
from prune_gym.simulation.state import Process, PruningState, initial, replay
from prune_gym.simulation.weight_store import WeightStore
from prune_gym.surgery.pruned_network import PrunedNetwork
from prune_gym.tasks import Task
from prune_gym.training.distillation import PostTraining
from prune_gym.version import __version__

PROTOCOLS = {  # by the split whose accuracy the reward reads
    "val": "reward on validation",
    "test": "paper: reward on TEST, so test accuracy is tuned on",
}


def make_posttraining(settings: PostTraining | Mapping[str, Any] | None) -> PostTraining:
    """Post-training settings, from a mapping of their names to values too, as JSON gives them; None for no post-training.

    Raises TypeError for anything else and ValueError for an unknown name or a value out of range.
    """
    if settings is None or isinstance(settings, PostTraining):
        return settings or PostTraining()
    if not isinstance(settings, Mapping):
        raise TypeError(f"posttraining: expected a PostTraining or a mapping of its settings, got {type(settings).__name__}.")
    names = [each.name for each in fields(PostTraining)]
    for name in settings:
        if name not in names:
            raise unknown("posttraining", name, names)
    return PostTraining(**settings)


class Simulator:
    """Prunes a task's network step by step.

    One step removes ``step_ratio`` of the original filters, spread over the groups by an action; within a group the least
    important units go. The last step removes only what is missing to ``sparsity``. After a step the network may be trained.

    Args:
        task: network, data and channel graph.
        sparsity: target channel sparsity, in (0, 1).
        step_ratio: filters removed per step over filters of the original network, in (0, 1].
        rounding: see :func:`prune_gym.allocate`.
        importance: criterion by name, see :func:`prune_gym.importance`; scores are computed once per state.
        reward_split: ``"val"``, or ``"test"`` for the paper's protocol, which tunes on the test set.
        device: where networks are evaluated and trained.
        precision: number format of evaluation, see :class:`prune_gym.scoring.evaluation.Evaluator`.
        posttraining: how networks are trained after a step, or a mapping of these settings; by default they are not.
        cache: keeps accuracies and importance rankings; a :class:`prune_gym.simulation.result_cache.Journal` outlives the
            process.
        importance_seed: of the ranking that ``importance="random"`` draws.

    Attributes:
        schedule: how much each step removes.
        store: the weights of all networks.
        scorer: accuracies and rankings of all networks.
        baseline: the score of the original network.
        identity: all that accuracies, rankings and trained weights depend on, as JSON can hold it.

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
        posttraining: PostTraining | Mapping[str, Any] | None = None,
        cache: ResultCache | None = None,
        importance_seed: int = 0,
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
        check_integer("importance_seed", importance_seed, 0)
        check_choice("reward_split", reward_split, PROTOCOLS)
        check_choice("precision", precision, PRECISIONS)
        if not isinstance(cache, ResultCache | None):
            raise TypeError(f"cache: expected a ResultCache, got {type(cache).__name__}.")
        self.task = task
        self.graph = graph
        self.reward_split = reward_split
        self.device = choose_device(device)
        self.posttraining = make_posttraining(posttraining)
        self.schedule = Schedule(filters_to_remove(graph, sparsity), filters_per_step(graph, step_ratio), rounding)
        drawn = f"random, seed {importance_seed}" if importance == "random" else importance
        self.identity = self._identify(drawn, precision)
        self.process = self._process()
        namespace = hashlib.blake2b(json.dumps(self.identity).encode(), digest_size=6).hexdigest()
        self.cache = NamespacedCache(ResultCache() if cache is None else cache, namespace)
        self.store = WeightStore(task, self.posttraining, self.cache, self.device)
        split, calibration = getattr(task, reward_split).to(self.device), task.calibration.to(self.device)
        self.scorer = Scorer(self.store, split, calibration, importance, precision, self.cache, importance_seed)
        self.baseline = self.score(self.initial())

    def _identify(self, importance: str, precision: str) -> dict[str, Any]:
        return {
            **self.task.fingerprints,
            "split": self.reward_split,
            "importance": importance,
            "precision": precision,
            "post-training": asdict(self.posttraining),
            "device": str(self.device),
            "threads": torch.get_num_threads(),  # the order of sums, and so their rounding, depends on it
            "torch": torch.__version__,
            "prune_gym": __version__,
        }

    def _process(self) -> Process:
        network, data, augmentation = (self.task.fingerprints[key] for key in ("base network", "data", "augmentation"))
        trains = self.posttraining.epochs > 0
        return Process(network, self.schedule, f"{self.posttraining} on {data}, {augmentation}" if trains else "none")

    # ------------------------------------------------------------------------------------------------- one step

    def initial(self) -> PruningState:
        """The state of the original network."""
        return initial(self.graph, self.process)

    def step(self, state: PruningState, action: np.ndarray) -> PruningState:
        """The state that an action leads to, after the post-training that the step may end with."""
        (pruned,) = self.successors(state, [action])
        return self.posttrained(pruned) if self.trains(pruned) else pruned

    def successors(self, state: PruningState, actions: Sequence[np.ndarray]) -> list[PruningState]:
        """The states that actions lead to, before any post-training: the action and the budget say how many units each group
        loses, the importance says which. No network is run but for the importance of the present state.

        Raises ValueError for an action that :func:`prune_gym.simulation.allocation.check_action` refuses.
        """
        checked = [check_action(action, len(self.graph.groups)) for action in actions]
        ranks = self.scorer.ranks(state.network)
        counts, carries = self._counts(state, checked)
        masks = state.architecture.mask & (ranks >= np.repeat(counts, self.graph.widths, axis=1))
        return [
            state.pruned(Architecture(self.graph, mask), carry, action)
            for mask, carry, action in zip(masks, carries, checked, strict=True)
        ]

    def _counts(self, state: PruningState, actions: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """The units that each group loses by each action, int64 (actions, groups), and what rounding carries over."""
        budget, rounding = self.step_filters(state), self.schedule.rounding_at(state.steps)
        counts = np.empty((len(actions), len(self.graph.groups)), np.int64)
        carries = np.zeros(counts.shape)
        for i, action in enumerate(actions):
            counts[i] = allocate(action, state.architecture, budget, rounding, state.carry)
            if rounding == "carry":
                carries[i] = shares(action, state.architecture, budget, state.carry) - counts[i]
            if self.schedule.is_last(state.steps):
                counts[i] = complete(counts[i], state.architecture.widths - 1, self.graph.filters_per_unit, budget)
        return counts, carries

    def trains(self, state: PruningState) -> bool:
        """Whether a step that leads to this state ends with post-training."""
        settings = self.posttraining
        return settings.epochs > 0 and (state.steps % settings.period == 0 or self.is_terminal(state))

    def posttrained(self, state: PruningState) -> PruningState:
        """The same state with trained weights. The trained network teaches from now on if it is better than its teacher on the
        validation split."""
        trained = state.trained(teaches=False)
        better = self.store.val_accuracy(trained.network) > self.store.val_accuracy(state.teacher)
        return state.trained(teaches=True) if better else trained

    # ------------------------------------------------------------------------------------------------- its progress

    @property
    def target_filters(self) -> int:
        """Filters that are gone at the end of an episode."""
        return self.schedule.target

    @property
    def step_budget(self) -> int:
        """Filters that one step removes."""
        return self.schedule.per_step

    def removed_filters(self, state: PruningState) -> int:
        return int((self.graph.widths - state.architecture.widths) @ self.graph.filters_per_unit)

    def step_filters(self, state: PruningState) -> int:
        """Filters that the next step is to remove."""
        return self.schedule.budget(self.removed_filters(state), state.steps)

    def steps_left(self, state: PruningState) -> int:
        """Steps to the end of the episode."""
        return self.schedule.steps_left(self.removed_filters(state), state.steps)

    def is_terminal(self, state: PruningState) -> bool:
        return self.schedule.is_over(self.removed_filters(state))

    def progress(self, state: PruningState) -> float:
        """How much of the way to the target sparsity is done, in [0, 1]."""
        return self.schedule.progress(self.removed_filters(state))

    # ------------------------------------------------------------------------------------------------- its networks

    def score(self, state: PruningState) -> Score:
        return self.scorer.score(state.network)

    def scores(self, states: Sequence[PruningState]) -> list[Score]:
        """The scores of states, whatever their weights."""
        return self.scorer.scores([state.network for state in states])

    def unit_scores(self, network: Network, criterion: str) -> np.ndarray:
        """The importance of every unit, by the calibration images, float64 (units,); NaN for the removed ones."""
        return self.scorer.unit_scores(network, criterion)

    def network(self, state: PruningState) -> PrunedNetwork:
        """The network of a state as a module, physically small, in evaluation mode."""
        return self.store.network(state.network)

    def attach(self, state: PruningState) -> PruningState:
        """The same state on this simulator's channel graph, for one that was pickled or belongs to a copy of this simulator.

        Raises ValueError for a state of another task, schedule or post-training.
        """
        self.process.check_same(state.process)
        if state.architecture.graph is self.graph:
            return state
        return replay(self.graph, self.process, state.moves())

    def pin(self, state: PruningState) -> None:
        """Keep the weights of this state, and let go of those that were kept before."""
        self.store.pin(state.weights)
