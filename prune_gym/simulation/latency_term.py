"""How long a network takes on a device, as a part of formulas: ``accuracy - 0.1 * latency("cpu.json")``."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prune_gym.scoring.latency_model import LatencyModel, read_latency_model
from prune_gym.simulation.terms import Formula, Transition


@dataclass(frozen=True, repr=False)
class Latency(Formula):
    """What the network after a step takes over what the original one takes, about 1 for the original one itself.

    Args:
        path: of a file that ``python -m prune_gym.benchmark.rewards latency`` wrote. It is read once, when the formula is made;
            two formulas of one path are equal.

    Raises FileNotFoundError for no file, ValueError for another one, and when the formula is called for another network than the
    one that was timed, or for scores without widths.
    """

    path: str
    model: LatencyModel = field(init=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "model", read_latency_model(Path(self.path)))

    def value(self, transition: Transition) -> Any:
        widths = transition.after.widths
        if widths is None:
            raise ValueError(f"{self}: expected scores that hold the widths of networks, got {transition.after}.")
        return self.model.share(widths)

    def __str__(self) -> str:
        return f"latency({json.dumps(self.path, ensure_ascii=False)})"
