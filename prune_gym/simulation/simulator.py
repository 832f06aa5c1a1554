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
from prune_gym.graph.cost import links
from prune_gym.graph.features import group_features
from prune_gym.scoring.candidates import FIDELITIES, FIDELITY
from prune_gym.scoring.evaluation import PRECISIONS, Score
from prune_gym.scoring.importance import CRITERIA
from prune_gym.simulation.allocation import ROUNDINGS, allocate, check_action, complete, shares
from prune_gym.simulation.base import BaseSimulator
from prune_gym.simulation.blocks import fractions_of, take_blocks
from prune_gym.simulation.compute import NOTHING, Compute
from prune_gym.simulation.recipes import Network
from prune_gym.simulation.result_cache import NamespacedCache, ResultCache
from prune_gym.simulation.schedule import EXACT, Schedule, step_budget, target_budget
from prune_gym.simulation.scorer import Scorer
from prune_gym.simulation.space import MinWidth, PruningSpace
from prune_gym.simulation.state import Process, PruningState, initial, replay
from prune_gym.simulation.target import the_target
from prune_gym.simulation.weight_store import WeightStore
from prune_gym.surgery.pruned_network import PrunedNetwork
from prune_gym.tasks import Task
from prune_gym.training.distillation import PostTraining
from prune_gym.version import __version__

RANKINGS = ("current", "initial")
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


def removal(gone: np.ndarray, filters_per_unit: np.ndarray) -> np.ndarray:
    """The sparsity distribution by which so many units of each group go, float64 (groups,)."""
    filters = gone * filters_per_unit
    return filters / max(filters.sum(), 1)


class Simulator(BaseSimulator[PruningState]):
    """Prunes a task's network step by step.

    One step removes ``step_ratio`` of the original filters, spread over the groups by an action; within a group the least
    important units go. The last step removes only what is missing to the target, and no unit more. After a step the network may
    be trained. The target and the step can be counted in MACs or parameters instead of filters.

    Args:
        task: network, data and channel graph.
        sparsity: target channel sparsity, in (0, 1); or, exactly one of the three,
        macs_reduction: target MACs reduction, in (0, 1),
        params_reduction: target parameter reduction, in (0, 1).
        step_ratio: what one step removes, over what the original network has, of filters, MACs or parameters as the target, in
            (0, 1].
        min_width, exclude, round_to, levels: which widths groups may have; see
            :class:`prune_gym.simulation.space.PruningSpace`.
        rounding: see :func:`prune_gym.allocate`.
        importance: criterion by name, see :func:`prune_gym.importance`; scores are computed once per state.
        reward_split: ``"val"``, or ``"test"`` for the paper's protocol, which tunes on the test set.
        device: where networks are evaluated and trained.
        precision: number format of evaluation, see :class:`prune_gym.scoring.evaluation.Evaluator`.
        posttraining: how networks are trained after a step, or a mapping of these settings; by default they are not.
        cache: keeps accuracies and importance rankings; a :class:`prune_gym.simulation.journal.Journal` outlives the
            process.
        importance_seed: of the ranking that ``importance="random"`` draws.
        fidelity: the tensors with which a network is scored that lost units since its weights were trained: ``"original"``,
            ``"recalibrated"`` or ``"compensated"``; see :mod:`prune_gym.scoring.candidates`.
        ranking: whose importance says which units of a group go: ``"current"``, that of the network a step starts from, or
            ``"initial"``, that of the original network, with which widths alone say which units are kept.

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
        sparsity: float | None = None,
        step_ratio: float = 0.05,
        rounding: str = "carry",
        importance: str = "taylor",
        reward_split: str = "val",
        device: torch.device | str = "cpu",
        precision: str = "float32",
        posttraining: PostTraining | Mapping[str, Any] | None = None,
        cache: ResultCache | None = None,
        importance_seed: int = 0,
        fidelity: str = FIDELITY,
        macs_reduction: float | None = None,
        params_reduction: float | None = None,
        min_width: MinWidth = 1,
        exclude: Sequence[str] = (),
        round_to: int = 1,
        levels: int | None = None,
        ranking: str = "current",
    ):
        if not isinstance(task, Task):
            raise TypeError(f"task: expected a prune_gym.tasks.Task, got {type(task).__name__}.")
        graph = task.graph
        self.target = kind, reduction = the_target(sparsity, macs_reduction, params_reduction)
        self.space = PruningSpace(graph, kind, min_width, exclude, round_to, levels)
        target = target_budget(self.space.total, reduction)
        if target > self.space.largest:
            raise ValueError(
                f"{kind}: {reduction} cannot be reached on task {task.name!r} with the units that stay in every group; "
                f"the largest that can is {np.floor(self.space.largest / self.space.total * 1e4) / 1e4:.4f}."
            )
        check_number("step_ratio", step_ratio, "(0, 1]")
        check_choice("rounding", rounding, ROUNDINGS)
        if levels is not None and rounding != "carry":
            raise ValueError(
                f"rounding: with levels steps take whole blocks, and what is owed is carried over; got {rounding!r}."
            )
        check_choice("importance", importance, CRITERIA)
        check_integer("importance_seed", importance_seed, 0)
        check_choice("reward_split", reward_split, PROTOCOLS)
        check_choice("precision", precision, PRECISIONS)
        check_choice("fidelity", fidelity, FIDELITIES)
        check_choice("ranking", ranking, RANKINGS)
        if not isinstance(cache, ResultCache | None):
            raise TypeError(f"cache: expected a ResultCache, got {type(cache).__name__}.")
        self.task = task
        self.graph = graph
        self.reward_split, self.ranking = reward_split, ranking
        self.device = choose_device(device)
        self.posttraining = make_posttraining(posttraining)
        self.schedule = Schedule(target, step_budget(self.space, step_ratio), rounding)
        drawn = f"random, seed {importance_seed}" if importance == "random" else importance
        self.identity = self._identify(drawn, precision, fidelity)
        self.process = self._process()
        namespace = hashlib.blake2b(json.dumps(self.identity).encode(), digest_size=6).hexdigest()
        self.cache = NamespacedCache(ResultCache() if cache is None else cache, namespace)
        self.store = WeightStore(task, self.posttraining, self.cache, self.device, fidelity)
        split, calibration = getattr(task, reward_split).to(self.device), task.calibration.to(self.device)
        self.scorer = Scorer(self.store, split, calibration, importance, precision, self.cache, importance_seed)
        self.baseline = self.score(self.initial())

    def _identify(self, importance: str, precision: str, fidelity: str) -> dict[str, Any]:
        return {
            **self.task.fingerprints,
            "split": self.reward_split,
            "importance": importance,
            "precision": precision,
            "fidelity": fidelity,
            "post-training": asdict(self.posttraining),
            "device": str(self.device),
            "threads": torch.get_num_threads(),  # the order of sums, and so their rounding, depends on it
            "torch": torch.__version__,
            "prune_gym": __version__,
        }

    def _process(self) -> Process:
        network, data, augmentation = (self.task.fingerprints[key] for key in ("base network", "data", "augmentation"))
        trains = self.posttraining.epochs > 0
        space = f"{self.space.unit}, lowest {self.space.lowest.tolist()}, multiples of {self.space.round_to}"
        space += f", {self.space.levels or 'all'} levels, ranking {self.ranking}"
        return Process(network, self.schedule, space, f"{self.posttraining} on {data}, {augmentation}" if trains else "none")

    @property
    def name(self) -> str:
        return self.task.name

    @property
    def group_features(self) -> np.ndarray:
        return group_features(self.graph)

    @property
    def group_links(self) -> np.ndarray:
        model = self.graph.cost_model
        return links(model.over_widths(model.macs))

    # ------------------------------------------------------------------------------------------------- one step

    def initial(self) -> PruningState:
        return initial(self.graph, self.process)

    def step(self, state: PruningState, action: np.ndarray) -> PruningState:
        (pruned,) = self.successors(state, [action])
        return self.posttrained(pruned) if self.trains(pruned) else pruned

    def successors(self, state: PruningState, actions: Sequence[np.ndarray], to_target: bool = False) -> list[PruningState]:
        """The action and the budget say how many units each group loses, the importance says which. No network is run but for the
        importance of the present state."""
        checked = [check_action(action, len(self.graph.groups)) for action in actions]
        ranked = self.ranked(state)
        ranks = self.scorer.ranks(ranked.network)
        counts, carries = self._counts(state, checked, to_target)
        counts += ranked.architecture.widths - state.architecture.widths  # by an earlier ranking, what is gone came first
        masks = state.architecture.mask & (ranks >= np.repeat(counts, self.graph.widths, axis=1))
        return [
            state.pruned(Architecture(self.graph, mask), carry, action)
            for mask, carry, action in zip(masks, carries, checked, strict=True)
        ]

    def at(self, widths: np.ndarray) -> PruningState:
        start, gone = self.initial(), self.graph.widths - widths
        mask = self.scorer.ranks(start.network) >= np.repeat(gone, self.graph.widths)
        return start.pruned(Architecture(self.graph, mask), np.zeros(len(gone)), removal(gone, self.graph.filters_per_unit))

    def rank(self, states: Sequence[PruningState]) -> None:
        """Compute the rankings that steps from these states need, several at a time on a CPU."""
        self.scorer.rank([self.ranked(state).network for state in states])

    def ranked(self, state: PruningState) -> PruningState:
        return self.initial() if self.ranking == "initial" else state

    def _counts(self, state: PruningState, actions: Sequence[np.ndarray], to_target: bool) -> tuple[np.ndarray, np.ndarray]:
        """The units that each group loses by each action, int64 (actions, groups), and what rounding carries over."""
        if self.space.levels is not None:
            return self._blocks(state, actions, to_target)
        budget, rounding = self.step_budget(state), self.schedule.rounding_at(state.steps)
        if to_target:
            budget, rounding = self.schedule.target - self.removed(state), EXACT
        is_last = to_target or self.schedule.is_last(state.steps)
        widths, space = state.architecture.widths, self.space
        counts = np.empty((len(actions), len(self.graph.groups)), np.int64)
        carries = np.zeros(counts.shape)
        for i, action in enumerate(actions):
            counts[i] = allocate(action, state.architecture, budget, rounding, state.carry, space)
            if rounding == "carry":
                carries[i] = shares(action, state.architecture, budget, state.carry, space) - counts[i]
            if is_last or self.schedule.is_over(int(space.removed(widths - counts[i]))):
                counts[i] = widths - complete(widths - counts[i], widths, self.schedule.target, space)
        return counts, carries

    def _blocks(self, state: PruningState, actions: Sequence[np.ndarray], to_target: bool) -> tuple[np.ndarray, np.ndarray]:
        """:meth:`_counts` where groups lose whole blocks."""
        space, widths = self.space, state.architecture.widths
        goal = self.schedule.target if to_target else self.schedule.goal(state.steps)
        levels, carry = space.levels_at(widths).tolist(), state.carry.tolist()

        def removed(levels: list[int]) -> int:
            return int(space.removed(space.widths_at(np.array(levels))))

        taken = [
            take_blocks(fractions_of(action, self.graph.group_filters).tolist(), levels, carry, goal, removed)
            for action in actions
        ]
        after = np.array([levels for levels, _ in taken], np.int64).reshape(-1, len(widths))
        return widths - space.widths_at(after), np.array([carry for _, carry in taken]).reshape(-1, len(widths))

    def trains(self, state: PruningState) -> bool:
        settings = self.posttraining
        return settings.epochs > 0 and (state.steps % settings.period == 0 or self.is_terminal(state))

    def posttrained(self, state: PruningState) -> PruningState:
        """The trained network teaches from now on if it is better than its teacher on the validation split."""
        final = self.posttraining.final_epochs is not None and self.is_terminal(state)
        trained = state.trained(teaches=False, final=final)
        better = self.store.val_accuracy(trained.network) > self.store.val_accuracy(state.teacher)
        return state.trained(teaches=True, final=final) if better else trained

    def removed(self, state: PruningState) -> int:
        return int(self.space.removed(state.architecture.widths))

    # ------------------------------------------------------------------------------------------------- its networks

    def score(self, state: PruningState) -> Score:
        return self.scorer.score(state.network)

    def scores(self, states: Sequence[PruningState]) -> list[Score]:
        return self.scorer.scores([state.network for state in states])

    def ranking_cost(self, state: PruningState) -> Compute:
        return self.scorer.ranks_cost(state.network, self.score(state).macs)

    def scoring_cost(self, state: PruningState, score: Score) -> Compute:
        return self.scorer.score_cost(state.network, score.macs)

    def training_cost(self, state: PruningState) -> Compute:
        if not self.trains(state):
            return NOTHING
        return self.store.training_cost(state.weights)

    def unit_scores(self, network: Network, criterion: str) -> np.ndarray:
        """The importance of every unit, by the calibration images, float64 (units,); NaN for the removed ones."""
        return self.scorer.unit_scores(network, criterion)

    def network(self, state: PruningState) -> PrunedNetwork:
        return self.store.network(state.network)

    def attach(self, state: PruningState) -> PruningState:
        """The same state on this simulator's channel graph, for one that was pickled or belongs to a copy of this simulator."""
        if not isinstance(state, PruningState):
            raise TypeError(f"snapshot: expected what snapshot() or a preview gave, got {type(state).__name__}.")
        self.process.check_same(state.process)
        if state.architecture.graph is self.graph:
            return state
        return replay(self.graph, self.process, state.moves())

    def pin(self, state: PruningState, holder: int = 0) -> None:
        self.store.pin(state.weights, holder)
