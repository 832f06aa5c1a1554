"""The layerwise game: one group after the other chooses how much it keeps, and the network is scored at the end.

He et al., *AMC: AutoML for model compression and acceleration on mobile devices*, ECCV 2018.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from prune_gym.arguments import check_number
from prune_gym.envs.pruning import PruningEnv
from prune_gym.envs.tabular import TabularEnv
from prune_gym.graph.features import min_max
from prune_gym.simulation.rewards import VectorReward
from prune_gym.simulation.schedule import target_budget
from prune_gym.simulation.space import nearest
from prune_gym.simulation.target import Target


class LayerwiseEnv(gymnasium.Env[np.ndarray, np.ndarray]):
    """An agent goes through the groups in forward order and says how much of each stays.

    **Action**: ``Box(0, 1, (1,), float32)``, the ratio of units that the next group keeps. It becomes the nearest width that the
    group may have, and is bounded from above: with all later groups at their least width the target must be within reach. So
    every episode ends at the target, or beyond it.

    **Observation**: ``Box(0, 1, (10,), float32)``, AMC's state of the next group: its place; of its first layer whether it is
    linear, input and output channels, stride, kernel; its weights, all of these from 0 to 1 over the groups; what is gone, as a
    fraction of the original network; what later groups can still lose; and the ratio that the last group kept. A group may span
    layers and lie between others, so what it and later groups cost is counted on the whole network, not layer by layer. With
    ``targets`` the fraction to remove comes first, (11,), as CACP has it.

    **Reward**: 0, but at the end that of the environment within, for the step from the original network to the final one.

    **Episode**: one step for every group, then it terminates. Only the final network is scored: one evaluation.

    **Info**: ``widths`` of the network so far, with later groups at full width, and ``scored``, whether it was scored; if so, at
    the start and the end, all that the environment within says of it.

    Attributes:
        pruning: the environment within, which scores, counts evaluations and compute, and knows the best network.
        target: the fraction to remove in this episode, of filters, MACs or parameters as the target of ``pruning``.

    Args:
        pruning: the pruning environment whose networks, target, reward and yardstick count. Its step ratio and rounding do not,
            nor does its ``ranking``: units go by their importance in the original network, and nothing is trained on the way.
        targets: the lowest and the highest of targets that are drawn uniformly, in (0, 1), for half of the episodes; the others
            have that of ``pruning``, which is the only one by default. ``reset(options={"target": 0.6})`` chooses one. A final
            network only counts as found if it meets the target of ``pruning``.

    Raises TypeError for anything but a pruning environment and for targets that are no two numbers, ValueError for targets out of
    range or out of reach and for a vector reward.
    """

    metadata: dict[str, Any] = PruningEnv.metadata

    def __init__(self, pruning: PruningEnv, targets: tuple[float, float] | None = None):
        if not isinstance(pruning, PruningEnv):
            raise TypeError(f"pruning: expected a PruningEnv, got {type(pruning).__name__}.")
        if isinstance(pruning.reward, VectorReward):
            raise ValueError("reward: expected one that is a number, got 'vector'.")
        self.pruning, self.targets = pruning, targets
        self._space, self._full = pruning.simulator.space, pruning.graph.widths
        if targets is not None:
            self._check_targets(targets)
        features = pruning.simulator.group_features
        self._static = min_max(np.column_stack([np.arange(len(features)), features]))
        self.action_space = spaces.Box(0.0, 1.0, (1,), np.float32)
        size = self._static.shape[1] + 3 + (targets is not None)
        self.observation_space = spaces.Box(0.0, 1.0, (size,), np.float32)
        self.target = 0.0
        self._goal = pruning.simulator.schedule.target
        self._widths, self._next, self._kept = self._full, len(self._full), 0.0  # no episode has begun

    def _check_targets(self, targets: tuple[float, float]) -> None:
        if not isinstance(targets, tuple | list) or len(targets) != 2:
            raise TypeError(f"targets: expected two numbers, the lowest and the highest, got {targets!r}.")
        low, high = targets
        check_number("targets", low, "(0, 1)")
        check_number("targets", high, "(0, 1)")
        largest = self._space.largest / self._space.total
        if not low <= high <= largest:
            raise ValueError(f"targets: expected low <= high <= {largest:.4f}, the largest in reach, got {targets}.")

    @property
    def render_mode(self) -> str | None:  # type: ignore[override]
        """That of the environment within."""
        return self.pruning.render_mode

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        """Back to the original network, and to the first group; ``seed`` seeds what targets are drawn from. Raises ValueError for
        a target in the options that is out of range, or where there is no choice."""
        super().reset(seed=seed)
        self.pruning.reset(seed=seed)
        schedule = self.pruning.simulator.schedule
        self.target, self._goal = schedule.target / self._space.total, schedule.target
        chosen = (options or {}).get("target")
        if self.targets is not None:
            if chosen is not None:
                check_number("target", chosen, f"[{self.targets[0]}, {self.targets[1]}]")
            elif self.np_random.random() < 0.5:
                chosen = float(self.np_random.uniform(*self.targets))
            if chosen is not None:
                self.target = chosen
                self._goal = min(target_budget(self._space.total, chosen), self._space.largest)  # as 1 / 3 * 3 may be above 1
        elif chosen is not None:
            raise ValueError(f"options: this environment has one target, {self.target:.4f}; make it with targets=(low, high).")
        self._widths, self._next, self._kept = self._full.copy(), 0, 1.0
        return self._observe(), self._info(scored=True)

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Cut the next group. Raises RuntimeError before the first reset and after the end, ValueError for an action that is not
        one number in [0, 1]; the environment is then as it was."""
        if self._next == len(self._full):
            raise RuntimeError("step: no episode is under way; call reset() first.")
        ratio = _check_ratio(action)
        group, self._widths = self._next, self._widths.copy()
        self._widths[group] = self.width(ratio)
        self._kept = self._widths[group] / self._full[group]
        self._next += 1
        if self._next < len(self._full):
            costs = {} if self.pruning.cost is None else {"cost": 0.0}
            return self._observe(), 0.0, False, False, self._info(scored=False) | costs
        target = None if self.targets is None else Target(self.pruning.simulator.target.kind, self.target)
        preview = self.pruning.prune_to(self._widths, target)
        costs = {} if preview.cost is None else {"cost": preview.cost}
        return self._observe(), preview.reward, True, False, self._info(scored=True) | costs

    def width(self, ratio: float) -> int:
        """The width that the next group keeps for a ratio: the nearest that it may have, the larger of two, but no more than the
        target allows."""
        group = self._next
        allowed = self._space.allowed[group]
        wanted = nearest(allowed, ratio * self._full[group])
        candidates = np.tile(np.concatenate([self._widths[:group], self._space.lowest[group:]]), (len(allowed), 1))
        candidates[:, group] = allowed
        within = np.flatnonzero(self._space.removed(candidates) >= self._goal)  # the narrowest always is
        return int(allowed[min(wanted, within[-1])])

    def render(self) -> Any:
        """As of the environment within, which shows the last network that was scored."""
        return self.pruning.render()

    def _observe(self) -> np.ndarray:
        group = min(self._next, len(self._full) - 1)
        later = np.concatenate([self._widths[: group + 1], self._space.lowest[group + 1 :]])
        gone, most = (int(self._space.removed(widths)) / self._space.total for widths in (self._widths, later))
        head = [] if self.targets is None else [self.target]
        return np.clip([*head, *self._static[group], gone, most - gone, self._kept], 0, 1).astype(np.float32)

    def _info(self, scored: bool) -> dict[str, Any]:
        return (self.pruning.info() if scored else {"widths": self._widths.copy()}) | {"scored": scored}


def _check_ratio(action: Any) -> float:
    array = np.asarray(action)
    if array.shape != (1,) or array.dtype.kind not in "fiu":
        raise ValueError(f"action: expected one number, shape (1,); got {array.dtype} of shape {array.shape}.")
    if not 0 <= array[0] <= 1:  # NaN is not
        raise ValueError(f"action: expected a ratio in [0, 1], got {array[0]}.")
    return float(array[0])


def live(task: str, targets: tuple[float, float] | None = None, **settings: Any) -> LayerwiseEnv:
    """The layerwise game on networks that run; ``settings`` are those of :class:`prune_gym.envs.PruningEnv`."""
    return LayerwiseEnv(PruningEnv(task, **settings), targets)


def tabular(table: str, targets: tuple[float, float] | None = None, **settings: Any) -> LayerwiseEnv:
    """The same on a table; ``settings`` are those of :class:`prune_gym.envs.tabular.TabularEnv`."""
    return LayerwiseEnv(TabularEnv(table, **settings), targets)


for _maker in (live, tabular):
    setattr(_maker, "metadata", LayerwiseEnv.metadata)  # noqa: B010  # Gymnasium looks for it on what it calls
