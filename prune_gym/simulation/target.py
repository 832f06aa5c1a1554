"""What an episode is to remove."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from prune_gym.arguments import check_number
from prune_gym.scoring.evaluation import Score
from prune_gym.simulation.space import UNITS

REMOVED = {"sparsity": "channel_sparsity", "macs_reduction": "flops_reduction", "params_reduction": "params_reduction"}
DIGITS = 9  # of fractions that are compared


class Target(NamedTuple):
    """``kind`` is ``"sparsity"``, ``"macs_reduction"`` or ``"params_reduction"``, ``reduction`` a fraction of the original
    network's filters, MACs or parameters."""

    kind: str
    reduction: float

    def removed(self, score: Score) -> Any:
        """The fraction that is gone of what the target counts, to :data:`DIGITS`; of scores of arrays, an array."""
        return np.round(getattr(score, REMOVED[self.kind]), DIGITS)

    @property
    def required(self) -> float:
        """The fraction that has to go, to as many digits, so that what meets the target has ``removed(score) >= required``."""
        return float(np.round(self.reduction, DIGITS))


def the_target(sparsity: float | None, macs_reduction: float | None, params_reduction: float | None) -> Target:
    """The one target that is given. Raises ValueError unless it is one, in (0, 1)."""
    targets = zip(UNITS, (sparsity, macs_reduction, params_reduction), strict=True)
    given = {name: value for name, value in targets if value is not None}
    if len(given) != 1:
        raise ValueError(f"target: expected one of {', '.join(UNITS)}, got {' and '.join(given) or 'none'}.")
    ((name, value),) = given.items()
    check_number(name, value, "(0, 1)")
    return Target(name, float(value))
