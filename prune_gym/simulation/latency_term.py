"""How long a network takes on a device, as a part of formulas: ``accuracy - 0.1 * latency("cpu.json")``."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from prune_gym.scoring.latency_model import LatencyModel, read_latency_model
from prune_gym.simulation.terms import Formula, Transition


@dataclass(frozen=True, repr=False)
class Latency(Formula):
    """What the network after a step takes over what the original one takes, about 1 for the original one itself.

    Args:
        path: of a file that ``python -m prune_gym.benchmark.rewards latency`` wrote, read once, when the formula is made; the
            formula's text has the absolute path.
        digest: of what must be in the file, as the formula's text has it; empty for whatever is there. Formulas are equal if
            their digests are.

    Raises FileNotFoundError for no file, ValueError for another one, or if its content has changed; and when the formula is
    called for another network than the one that was timed, or for scores without widths.
    """

    path: str = field(compare=False)
    digest: str = ""
    model: LatencyModel = field(init=False, compare=False)

    def __post_init__(self) -> None:
        path = Path(self.path).expanduser().resolve()
        model = read_latency_model(path)
        if self.digest not in ("", model.digest):
            raise ValueError(f"{path}: expected the times of digest {self.digest}, and it holds others ({model.digest}).")
        for name, value in {"path": str(path), "digest": model.digest, "model": model}.items():
            object.__setattr__(self, name, value)

    def value(self, transition: Transition) -> Any:
        widths = transition.after.widths
        if widths is None:
            raise ValueError(f"{self}: expected scores that hold the widths of networks, got {transition.after}.")
        return self.model.share(widths)

    def check_widths(self, argument: str, widths: np.ndarray) -> None:
        if not np.array_equal(widths, self.model.widths):
            raise ValueError(
                f"{argument}: expected times of the network that is pruned, whose groups are {widths.tolist()} wide; "
                f"those in {self.path} are of one with {self.model.widths.tolist()}."
            )

    def __str__(self) -> str:
        return f"latency({json.dumps(self.path, ensure_ascii=False)}, {json.dumps(self.digest)})"
