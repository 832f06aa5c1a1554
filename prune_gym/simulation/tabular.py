"""The pruning process on a table: the steps of a simulator whose groups lose whole blocks, and no network that runs."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from operator import mul
from typing import Any, NamedTuple

import numpy as np

from prune_gym import tasks
from prune_gym.arguments import check_number
from prune_gym.graph.channel_graph import Architecture
from prune_gym.graph.cost import links
from prune_gym.scoring.evaluation import Score
from prune_gym.simulation.allocation import check_action
from prune_gym.simulation.base import BaseSimulator
from prune_gym.simulation.block_world import BlockGame, world_of
from prune_gym.simulation.blocks import fractions_of, take_blocks
from prune_gym.simulation.compute import NOTHING, Compute, passes
from prune_gym.simulation.result_cache import NamespacedCache, ResultCache
from prune_gym.simulation.schedule import Schedule, step_budget, target_budget
from prune_gym.simulation.simulator import Simulator, removal
from prune_gym.simulation.space import UNITS, levels_at
from prune_gym.simulation.state import DetachedGraph, Process, PruningState, trajectory
from prune_gym.simulation.table import Table
from prune_gym.simulation.target import the_target
from prune_gym.surgery.pruned_network import PrunedNetwork
from prune_gym.tasks import Task
from prune_gym.training.distillation import PostTraining


class TabularState(NamedTuple):
    """As :class:`prune_gym.simulation.state.PruningState`, of a :class:`TabularSimulator`: an architecture of the table, what its
    groups owe, and the way there. Its arrays and lists are not to be written to."""

    process: Process
    number: int  # of the architecture in the table
    score: Score
    widths: np.ndarray  # int64 (groups,)
    levels: list[int]  # blocks that every group can still lose
    carry: list[float]  # blocks that it owes
    steps: int = 0
    previous: TabularState | None = None
    action: np.ndarray | None = None

    def __eq__(self, other: object) -> bool:  # not as tuples do, which would compare arrays
        return self is other

    def __ne__(self, other: object) -> bool:
        return self is not other

    def __hash__(self) -> int:
        return id(self)

    @property
    def key(self) -> int:
        """The same for the same network."""
        return self.number

    def trajectory(self) -> list[TabularState]:
        """All states from the original network to this one."""
        return trajectory(self)


class TableSpace:
    """The widths that the groups of a table may have, and what is gone at a width: as of
    :class:`prune_gym.simulation.space.PruningSpace`."""

    def __init__(self, game: BlockGame):
        self._game = game
        self.allowed = game.world.table.allowed
        self.lowest, self.total, self.unit = game.world.least, game.total, UNITS[game.target]
        self.largest = int(game.removed[0])

    def removed(self, widths: np.ndarray) -> np.ndarray:
        """How much is gone at widths (..., groups) of the table; int64 (...,)."""
        return self._game.removed[self._game.world.states(levels_at(self.allowed, widths))]


class TabularSimulator(BaseSimulator[TabularState]):
    """Takes the same steps as a :class:`prune_gym.simulation.simulator.Simulator` with the table's ``levels`` and
    ``ranking="initial"``, and looks accuracies up. What steps would take, were networks run, is counted all the same.

    Args:
        table: the accuracies of all architectures.
        sparsity, macs_reduction, params_reduction, step_ratio: as of the simulator.

    Attributes:
        game: the architectures in which an episode may end, with the best of them; its moves are single blocks.

    Raises TypeError or ValueError for a bad argument, by its name.
    """

    def __init__(
        self,
        table: Table,
        sparsity: float | None = None,
        step_ratio: float = 0.05,
        macs_reduction: float | None = None,
        params_reduction: float | None = None,
    ):
        check_number("step_ratio", step_ratio, "(0, 1]")
        world = world_of(table)
        self.target = the_target(sparsity, macs_reduction, params_reduction)
        self.game = BlockGame(world, *self.target)
        self.table, self.world, self._step_ratio = table, world, step_ratio
        self.space = TableSpace(self.game)
        self.cache = NamespacedCache(ResultCache(), "")  # nothing is computed that would be kept
        self.posttraining, self.reward_split, self.ranking = PostTraining(), "val", "initial"
        self.schedule = Schedule(
            target_budget(self.game.total, self.game.reduction), step_budget(self.game, step_ratio), rounding="carry"
        )
        self.graph = DetachedGraph(
            table.base_network, table.groups, world.widths[-1], table.filters_per_unit, table.layer_filters
        )
        self.baseline = world.baseline
        self._strides = world.strides.tolist()
        space = f"{self.game.target}, the table {table.fingerprint} of {table.task}-{table.base} with {table.levels} levels"
        self.process = Process(table.base_network, self.schedule, space, "none")
        self._initial = self._state([n - 1 for n in table.shape], [0.0] * len(table.groups))

    # ------------------------------------------------------------------------------------------------- one step

    def initial(self) -> TabularState:
        return self._initial

    def step(self, state: TabularState, action: np.ndarray) -> TabularState:
        return self.successors(state, [action])[0]

    def successors(self, state: TabularState, actions: Sequence[np.ndarray], to_target: bool = False) -> list[TabularState]:
        return [self._successor(state, check_action(action, len(self.table.groups)), to_target) for action in actions]

    def _successor(self, state: TabularState, action: np.ndarray, to_target: bool) -> TabularState:
        goal = self.schedule.target if to_target else self.schedule.goal(state.steps)
        fractions = fractions_of(action, self.world.group_filters).tolist()
        levels, carry = take_blocks(fractions, state.levels, state.carry, goal, self._removed)
        return self._state(levels, carry, state.steps + 1, state, action)

    def at(self, widths: np.ndarray) -> TabularState:
        levels = levels_at(self.table.allowed, widths).tolist()
        action = removal(self.world.widths[-1] - widths, self.table.filters_per_unit)
        return self._state(levels, [0.0] * len(levels), 1, self._initial, action)

    def _state(
        self, levels: list[int], carry: list[float], steps: int = 0, previous: TabularState | None = None, action: Any = None
    ) -> TabularState:
        index = self._index(levels)
        return TabularState(
            self.process, index, self.world.score(index), self.world.widths[index], levels, carry, steps, previous, action
        )

    def _index(self, levels: list[int]) -> int:
        return sum(map(mul, levels, self._strides))

    def _removed(self, levels: list[int]) -> int:
        return self.game.removed.item(self._index(levels))

    def ranked(self, state: TabularState) -> TabularState:
        return self._initial

    def trains(self, state: TabularState) -> bool:
        return False

    def posttrained(self, state: TabularState) -> TabularState:
        return state

    def removed(self, state: TabularState) -> int:
        return self.game.removed.item(state.number)

    # ------------------------------------------------------------------------------------------------- its networks

    def score(self, state: TabularState) -> Score:
        return state.score

    def scores(self, states: Sequence[TabularState]) -> list[Score]:
        return [state.score for state in states]

    def scoring_images(self, states: Any) -> Any:
        """How many images go through networks to score them, for the number of a state or an array of them."""
        return self.table.images[0] + (states != self.world.start) * self.table.recalibration_images

    def ranking_cost(self, state: TabularState) -> Compute:
        return passes(self.table.ranking_images, state.score.macs, backward=True)

    def scoring_cost(self, state: TabularState, score: Score) -> Compute:
        return passes(self.scoring_images(state.number), score.macs)

    def training_cost(self, state: TabularState) -> Compute:
        return NOTHING

    def attach(self, state: TabularState) -> TabularState:
        if not isinstance(state, TabularState):
            raise TypeError(f"snapshot: expected what snapshot() or a preview gave, got {type(state).__name__}.")
        self.process.check_same(state.process)
        return state

    def pin(self, state: TabularState, holder: int = 0) -> None:
        """There are no weights to keep."""

    def test_accuracy(self, state: TabularState) -> float:
        """The test accuracy of a state in [0, 1]: to report a network that was found, not to search for one."""
        return self.world.test_accuracy[state.number].item()

    @cached_property
    def task(self) -> Task:
        """The task that the table is of. Raises ValueError if its network is another one on this machine."""
        task = tasks.load(self.table.task, seed=self.table.base)
        if (found := task.fingerprints["base network"]) != self.table.base_network:
            raise ValueError(f"task: the table was made of another network, {self.table.base_network}; here it is {found}.")
        return task

    @cached_property
    def live(self) -> Simulator:
        """The simulator that runs networks and takes the same steps."""
        target: dict[str, Any] = {self.game.target: self.game.reduction}
        return Simulator(self.task, **target, step_ratio=self._step_ratio, levels=self.table.levels, ranking="initial")

    def live_state(self, state: TabularState) -> PruningState:
        """The same state of the live simulator."""
        now, full = self.live.initial(), self.live.graph.widths
        ranks = self.live.scorer.ranks(now.network)
        for each in state.trajectory()[1:]:
            mask = ranks >= np.repeat(full - each.widths, full)
            now = now.pruned(Architecture(self.live.graph, mask), np.array(each.carry), each.action)
        return now

    @property
    def group_features(self) -> np.ndarray:
        return self.table.group_features

    @property
    def group_links(self) -> np.ndarray:
        return links(self.table.macs_form)

    @property
    def name(self) -> str:
        return f"{self.table.task}-{self.table.base}" if self.table.base else self.table.task

    def network(self, state: TabularState) -> PrunedNetwork:
        """The network is cut out of the original one, which is trained if need be."""
        return self.live.network(self.live_state(state))
