"""How much each step removes, from nothing to the target. Pure arithmetic on counts; nothing here knows a network."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from prune_gym.simulation.block_world import BlockGame
    from prune_gym.simulation.space import PruningSpace

EXACT = "largest_remainder"  # the rounding that meets a budget exactly wherever it can be met


def step_budget(space: PruningSpace | BlockGame, step_ratio: float) -> int:
    """What a step removes, at least one: ``floor(step_ratio * total)`` filters, which is M of the paper; MACs and parameters are
    rounded up, so that no step is left over for a handful of them."""
    wanted = step_ratio * space.total
    return max(1, int(wanted + 1e-9) if space.target == "sparsity" else ceil(wanted - 1e-9))  # 0.29 * 100 is less than 29


def target_budget(total: int, reduction: float) -> int:
    """What a reduction removes of so many in all: ``ceil(reduction * total)``, at least one."""
    return max(1, ceil(reduction * total - 1e-9))  # 0.07 * 100 is a little more than 7


@dataclass(frozen=True)
class Schedule:
    """The plan of an episode. ``removed`` is always the number of filters that are gone, or of MACs or parameters if these are
    counted; ``steps`` is the number of the steps so far.

    Attributes:
        target: what is gone at the end of an episode, >= 1.
        per_step: what a step removes, >= 1; the last one removes what is left.
        rounding: how steps become whole units, see :func:`prune_gym.allocate`.
    """

    target: int
    per_step: int
    rounding: str = EXACT

    @property
    def steps(self) -> int:
        """The steps of an episode; fewer if shared units make steps remove more than planned."""
        return -(-self.target // self.per_step)

    def goal(self, steps: int) -> int:
        """What is to be gone after the next step."""
        return min(self.per_step * (steps + 1), self.target)

    def goals(self, steps: np.ndarray) -> np.ndarray:
        """:meth:`goal` for many states (N,)."""
        return np.minimum(self.per_step * (steps + 1), self.target)

    def budget(self, removed: int, steps: int) -> int:
        """What the next step is to remove, at least one. It makes up for what rounding kept the steps before from
        removing, so that an episode has as many steps as planned."""
        return max(1, self.goal(steps) - removed)

    def is_last(self, steps: int) -> bool:
        """Whether the next step is to reach the target."""
        return self.goal(steps) == self.target

    def rounding_at(self, steps: int) -> str:
        """How the next step is rounded: the last one exactly, as there is none after it to make up for anything."""
        return EXACT if self.is_last(steps) else self.rounding

    def is_over(self, removed: int) -> bool:
        return removed >= self.target

    def progress(self, removed: Any) -> Any:
        """How much of the way to the target is done, in [0, 1]; for a number or an array."""
        return np.minimum(1.0, removed / self.target)

    def steps_left(self, removed: int, steps: int) -> int:
        """Steps to the end of the episode; 0 at the end, at least 1 before it."""
        return 0 if self.is_over(removed) else max(1, self.steps - steps)
