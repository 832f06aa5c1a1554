"""The pruning environment on a table: the same spaces and steps as the live one, and no network that runs."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from prune_gym import tables
from prune_gym.envs.blocks import DEFAULT_REDUCTION
from prune_gym.envs.pruning import PruningEnv
from prune_gym.graph.channel_graph import Architecture
from prune_gym.simulation.rewards import Reward
from prune_gym.simulation.table import Table
from prune_gym.simulation.tabular import TabularSimulator
from prune_gym.simulation.yardsticks import Yardstick


class TabularEnv(PruningEnv):
    """A :class:`PruningEnv` whose groups lose whole blocks of units, the least important in the original network first, and whose
    accuracies are those of a table. It equals one with the table's ``levels``, ``ranking="initial"`` and the same other settings.

    The best that can be found is known: ``env.unwrapped.simulator.game``, a :class:`prune_gym.simulation.block_world.BlockGame`.

    Args:
        table: the accuracies of all architectures, or the name of a task whose table comes with the package; of its networks
            ``base`` chooses one, see :func:`prune_gym.tables.load`.
        sparsity, macs_reduction, params_reduction: the target, at most one of them, in (0, 1); by default 75% of the MACs.
        step_ratio, reward, reward_weights, yardstick, observation, render_mode, cost: as of :class:`PruningEnv`.

    Raises TypeError or ValueError for a bad argument, by its name.
    """

    simulator: TabularSimulator  # type: ignore[assignment]  # which takes the same steps, and knows no tensors

    def __init__(
        self,
        table: str | Table,
        sparsity: float | None = None,
        step_ratio: float = 0.05,
        reward: str | Reward = "paper",
        reward_weights: tuple[float, float, float] | None = None,
        yardstick: str | Yardstick = "accuracy",
        observation: str = "architecture",
        render_mode: str | None = None,
        macs_reduction: float | None = None,
        params_reduction: float | None = None,
        base: int = 0,
        cost: Reward | None = None,
    ):
        self._show(reward, reward_weights, yardstick, observation, render_mode, cost)
        if sparsity is macs_reduction is params_reduction is None:
            macs_reduction = DEFAULT_REDUCTION
        self._play(TabularSimulator(tables.find(table, base), sparsity, step_ratio, macs_reduction, params_reduction))

    @property
    def architecture(self) -> Architecture:
        """The architecture of the present state, of the original network, which is trained if need be."""
        state: Any = self._current("architecture")
        return self.simulator.live_state(state).architecture

    def regret(self, snapshot: Any) -> float:
        """How much less a network at the target is worth by the yardstick than the best one in which an episode may end; negative
        for a better one that is further beyond the target, as other games may find. Raises TypeError or ValueError for what is no
        state of this environment, ValueError for one that is not at the target."""
        simulator, state = self.simulator, self.simulator.attach(snapshot)
        if not simulator.is_terminal(state):
            raise ValueError("snapshot: expected a network at the target, got one on the way there.")
        return self._best_worth - self.yardstick(state.score, simulator.baseline)

    @cached_property
    def _best_worth(self) -> float:
        return self.simulator.game.best(self.yardstick)[1]
