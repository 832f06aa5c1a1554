"""EagleEye's random search: widths are drawn until they meet the target, and each of them is scored once.

Li et al., *EagleEye: fast sub-net evaluation for efficient neural network pruning*, 2020. What makes it work there is that
candidates are scored with new batch-norm statistics, which is the environment's ``fidelity="recalibrated"``, its default.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

import numpy as np

from prune_gym.agents.budgeted_env import BudgetedEnv
from prune_gym.agents.configured_agent import ConfiguredAgent
from prune_gym.arguments import Within, check_settings
from prune_gym.simulation.space import at_least

DRAWN_AT_ONCE = 4096
MOST_DRAWN = 2**20  # one after the other of which none is accepted


@dataclass(frozen=True)
class EagleEyeConfig:
    """Settings of EagleEye's search."""

    low: Annotated[float, Within("[0, 1)")] = 0.1
    """Least fraction of its units that a group keeps. The default is ours, with it 50, 75 and 90% of the MACs of usual
    networks can go. To remove 25, 50 and 75% of ResNet-50's, the released code has 0.6, 0.3 and 0.2."""
    tolerance: Annotated[float, Within("[0, 1)")] = 0.005
    """How much more than the target widths may remove to be accepted, as a fraction of the filters, MACs or parameters of the
    original network, whichever the target counts."""

    def __post_init__(self) -> None:
        check_settings(self)


class EagleEyeAgent(ConfiguredAgent[EagleEyeConfig]):
    """Draws the fraction of its units that each group keeps uniformly between ``low`` and 1, again and again until the widths
    meet the target closely; then the network is pruned to these widths at once and scored, for one evaluation.

    ``learn`` raises ValueError where no such widths are found, and ends early where no more are.
    """

    config_type = EagleEyeConfig
    at_once = True

    def search(self, env: BudgetedEnv) -> None:
        for widths in self.candidates():
            env.reset()
            env.prune_to(widths)

    def candidates(self) -> Iterator[np.ndarray]:
        """Accepted widths, int64 (groups,), each of them once, as long as some are found. If none are, it raises ValueError."""
        simulator, full = self.pruning_env.simulator, self.pruning_env.graph.widths
        space, target = simulator.space, simulator.schedule.target
        low, tolerance = self.config.low, self.config.tolerance
        seen: set[bytes] = set()
        in_vain = 0
        while in_vain < MOST_DRAWN:
            fractions = self.rng.uniform(low, 1, (DRAWN_AT_ONCE, len(full)))
            widths = at_least(space.allowed, fractions * full)
            gone = space.removed(widths)
            accepted = (gone >= target) & (gone <= target + tolerance * space.total)
            new = {key: each for each in widths[accepted] if (key := each.tobytes()) not in seen}  # in the order of the draws
            seen |= new.keys()
            in_vain = 0 if new else in_vain + DRAWN_AT_ONCE
            yield from new.values()
        if not seen:
            raise ValueError(
                f"low: expected fractions of which some lead to the target, {target / space.total:.4f} of the {space.unit}, "
                f"or to {tolerance} more; {MOST_DRAWN} draws from {low} to 1 did not. Choose another low, or a higher tolerance."
            )
