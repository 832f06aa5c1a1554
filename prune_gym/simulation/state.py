"""States of a pruning process: masks and the way to them, no tensors; and how they are pickled without the channel graph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from itertools import pairwise
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np

from prune_gym.graph.channel_graph import Architecture, ChannelGraph
from prune_gym.simulation.recipes import ORIGINAL, Network, Weights
from prune_gym.simulation.schedule import Schedule


@dataclass(frozen=True)
class Process:
    """What all states of one simulator have in common, and what a state means nothing without."""

    network: str  # a fingerprint of the original network
    schedule: Schedule
    space: str  # which widths are possible, and what is counted, as text
    posttraining: str  # how weights are made, as text

    def check_same(self, other: Process) -> None:
        """Raise ValueError, with what differs, if ``other`` is not the same process."""
        for each in fields(self):
            expected, found = getattr(self, each.name), getattr(other, each.name)
            if found != expected:
                raise ValueError(
                    f"snapshot: expected a state of this environment, but its {each.name} is another one: expected {expected}, "
                    f"got {found}. Make both environments with the same task, target, steps, rounding, widths and posttraining."
                )


@dataclass(frozen=True, eq=False)
class PruningState:
    """Everything that the future depends on: the architecture, what rounding carried over, the version of the weights, and who
    teaches them next; and the way there. It is immutable.

    A pickled state holds masks and actions, a few hundred bytes per step, but not the channel graph. What is unpickled can be
    read and compared; :meth:`Simulator.attach`, which ``env.restore`` calls, gives it the graph back.
    """

    # What is printed is short, as states hold all states before them.

    architecture: Architecture
    carry: np.ndarray
    teacher: Network = field(repr=False)
    process: Process = field(repr=False)
    weights: Weights = ORIGINAL
    steps: int = 0
    previous: PruningState | None = field(default=None, repr=False)
    action: np.ndarray | None = None  # what led here from the previous state

    def __post_init__(self) -> None:
        for array in (self.carry, self.action):
            if array is not None:
                array.flags.writeable = False

    @property
    def network(self) -> Network:
        return Network(self.architecture, self.weights)

    @property
    def key(self) -> str:
        """The same for the same network."""
        return self.network.key

    @property
    def widths(self) -> np.ndarray:
        """Kept units per group, int64 (groups,)."""
        return self.architecture.widths

    def trajectory(self) -> list[PruningState]:
        """All states from the original network to this one."""
        return trajectory(self)

    def pruned(self, architecture: Architecture, carry: np.ndarray, action: np.ndarray | None) -> PruningState:
        """The state after one more step, before any post-training."""
        return replace(self, architecture=architecture, carry=carry, steps=self.steps + 1, previous=self, action=action)

    def trained(self, teaches: bool, final: bool = False) -> PruningState:
        """This state after post-training; ``teaches``: whether the trained network is the teacher from now on; ``final``: see
        :class:`prune_gym.simulation.recipes.Weights`."""
        weights = Weights(self.network, self.teacher, final)
        return replace(self, weights=weights, teacher=Network(self.architecture, weights) if teaches else self.teacher)

    def __copy__(self) -> PruningState:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> PruningState:
        return self

    def __reduce__(self) -> tuple:
        graph = self.architecture.graph
        names = tuple(group.name for group in graph.groups)
        layout = DetachedGraph(graph.fingerprint, names, graph.widths, graph.filters_per_unit)
        return replay, (layout, self.process, self.moves())

    def moves(self) -> list[Move]:
        """The way to this state, from which :func:`replay` makes it again."""
        path = self.trajectory()
        return [
            Move(
                np.packbits(after.architecture.mask).tobytes(),
                after.carry.tobytes() if after.carry.any() else b"",
                None if after.action is None else after.action.tobytes(),
                after.weights is not before.weights,
                after.teacher is not before.teacher,
                after.weights.final,
            )
            for before, after in pairwise(path)
        ]


State = TypeVar("State", bound="HasPrevious")


class HasPrevious(Protocol):
    """A state that knows the one before."""

    @property
    def previous(self: State) -> State | None: ...


def trajectory(state: State) -> list[State]:
    """All states from the original network to this one."""
    path = [state]
    while (previous := path[-1].previous) is not None:
        path.append(previous)
    return path[::-1]


class Move(NamedTuple):
    """One step, as plain bytes."""

    mask: bytes  # one bit per unit
    carry: bytes  # float64; empty for zeros
    action: bytes | None  # float64
    trained: bool
    teaches: bool
    final: bool  # as of PruningState.trained


class DetachedGroup(NamedTuple):
    """What is kept of a group."""

    name: str
    width: int


@dataclass(frozen=True, eq=False)
class DetachedGraph:
    """What a pickled state and a table keep of a channel graph: enough to read and to compare architectures, not to cut a
    network."""

    fingerprint: str
    names: tuple[str, ...]
    widths: np.ndarray
    filters_per_unit: np.ndarray
    layer_filters: np.ndarray | None = None  # (layers, groups); states travel without it

    @cached_property
    def groups(self) -> tuple[DetachedGroup, ...]:
        return tuple(map(DetachedGroup, self.names, self.widths.tolist()))

    @cached_property
    def group_filters(self) -> np.ndarray:
        return self.widths * self.filters_per_unit

    @property
    def starts(self) -> np.ndarray:
        return np.concatenate([[0], np.cumsum(self.widths)])

    @property
    def n_units(self) -> int:
        return int(self.widths.sum())

    @property
    def n_filters(self) -> int:
        return int(self.widths @ self.filters_per_unit)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(
            f"{name}: a table, and a state that was unpickled, have no channel graph; env.restore(state) gives the state one."
        )


def initial(graph: ChannelGraph | DetachedGraph, process: Process) -> PruningState:
    """The state of the original network."""
    everything = Architecture(graph, np.ones(graph.n_units, bool))  # type: ignore[arg-type]  # both know their widths
    return PruningState(everything, np.zeros(len(graph.widths)), Network(everything), process)


def replay(graph: ChannelGraph | DetachedGraph, process: Process, moves: Sequence[Move]) -> PruningState:
    """The state that :meth:`PruningState.moves` describes, and all states before it, on a channel graph."""
    state = initial(graph, process)
    for move in moves:
        mask = np.unpackbits(np.frombuffer(move.mask, np.uint8), count=graph.n_units).astype(bool)
        carry = np.frombuffer(move.carry).copy() if move.carry else np.zeros(len(graph.widths))
        action = None if move.action is None else np.frombuffer(move.action).copy()
        state = state.pruned(Architecture(graph, mask), carry, action)  # type: ignore[arg-type]
        if move.trained:
            state = state.trained(move.teaches, move.final)
    return state
