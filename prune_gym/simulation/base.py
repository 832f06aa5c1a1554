"""What a pruning process is to an environment and to agents, whether networks run in it or a table knows them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from prune_gym.scoring.evaluation import Score
from prune_gym.simulation.compute import Compute
from prune_gym.simulation.result_cache import ResultCache
from prune_gym.simulation.schedule import Schedule
from prune_gym.simulation.state import Process
from prune_gym.simulation.target import Target
from prune_gym.surgery.pruned_network import PrunedNetwork
from prune_gym.training.distillation import PostTraining


class AnyState(Protocol):
    """A state of a process: an architecture and the way to it. It is immutable."""

    @property
    def widths(self) -> np.ndarray:
        """Kept units per group, int64 (groups,)."""

    @property
    def key(self) -> Any:
        """The same for the same network."""

    @property
    def steps(self) -> int: ...

    @property
    def action(self) -> np.ndarray | None:
        """What led here from the previous state."""


State = TypeVar("State", bound=AnyState)


class BaseSimulator(ABC, Generic[State]):
    """Prunes a network step by step: a deterministic process.

    Attributes:
        name: of the task.
        graph: the groups, their widths and their filters.
        target: what an episode is to remove.
        space: the widths that groups may have, and what is gone at a width.
        schedule: how much each step removes.
        process: what its states mean nothing without.
        baseline: the score of the original network.
        posttraining: how networks are trained after a step.
        reward_split: the images that scores are of, ``"val"`` or ``"test"``.
        ranking: whose importance says which units go, ``"current"`` or ``"initial"``.
        cache: of what was computed.
    """

    graph: Any
    target: Target
    space: Any
    schedule: Schedule
    process: Process
    baseline: Score
    posttraining: PostTraining
    reward_split: str
    ranking: str
    cache: ResultCache

    @property
    @abstractmethod
    def name(self) -> str:
        """The name of the task."""

    @property
    @abstractmethod
    def group_features(self) -> np.ndarray:
        """See :func:`prune_gym.graph.features.group_features`."""

    @property
    @abstractmethod
    def group_links(self) -> np.ndarray:
        """See :func:`prune_gym.graph.cost.links`."""

    # ------------------------------------------------------------------------------------------------- one step

    @abstractmethod
    def initial(self) -> State:
        """The state of the original network."""

    @abstractmethod
    def successors(self, state: State, actions: Sequence[np.ndarray], to_target: bool = False) -> list[State]:
        """The states that actions lead to, before any post-training; with ``to_target`` all that is left goes at once.

        Raises ValueError for an action that :func:`prune_gym.simulation.allocation.check_action` refuses.
        """

    @abstractmethod
    def step(self, state: State, action: np.ndarray) -> State:
        """The state that an action leads to, after the post-training that the step may end with."""

    @abstractmethod
    def at(self, widths: np.ndarray) -> State:
        """The network of these widths, int64 (groups,), whose groups keep the units that are most important in the original one,
        as the state one step from there."""

    @abstractmethod
    def ranked(self, state: State) -> State:
        """The state whose importance says which units go next."""

    @abstractmethod
    def trains(self, state: State) -> bool:
        """Whether a step that leads to this state ends with post-training."""

    @abstractmethod
    def posttrained(self, state: State) -> State:
        """The same state with trained weights."""

    # ------------------------------------------------------------------------------------------------- its progress

    @abstractmethod
    def removed(self, state: State) -> int:
        """The filters that are gone, or the MACs or parameters if the target counts these."""

    def step_budget(self, state: State) -> int:
        """What the next step is to remove."""
        return self.schedule.budget(self.removed(state), state.steps)

    def steps_left(self, state: State) -> int:
        """Steps to the end of the episode."""
        return self.schedule.steps_left(self.removed(state), state.steps)

    def is_terminal(self, state: State) -> bool:
        """Whether a state ends the episode, as the target is met."""
        return self.schedule.is_over(self.removed(state))

    def progress(self, state: State) -> float:
        """How much of the way to the target is done, in [0, 1]."""
        return self.schedule.progress(self.removed(state))

    # ------------------------------------------------------------------------------------------------- its networks

    @abstractmethod
    def score(self, state: State) -> Score:
        """The accuracy and the cost of a state."""

    @abstractmethod
    def scores(self, states: Sequence[State]) -> list[Score]:
        """The scores of states, whatever their weights."""

    @abstractmethod
    def ranking_cost(self, state: State) -> Compute:
        """What it takes to rank the units of a state."""

    @abstractmethod
    def scoring_cost(self, state: State, score: Score) -> Compute:
        """What it takes to score a state, as this score says."""

    @abstractmethod
    def training_cost(self, state: State) -> Compute:
        """What the post-training took that a state ends with; nothing if it does not."""

    @abstractmethod
    def network(self, state: State) -> PrunedNetwork:
        """The network of a state as a module, physically small, in evaluation mode."""

    @abstractmethod
    def attach(self, state: State) -> State:
        """The same state, for one that was pickled or belongs to a copy of this simulator.

        Raises TypeError for anything else than a state, ValueError for one of another task, schedule or post-training.
        """

    @abstractmethod
    def pin(self, state: State, holder: int = 0) -> None:
        """Keep the weights of this state, and let go of those that were kept before for the same holder."""
