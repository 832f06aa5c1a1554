"""Versions of the weights as the recipes that made them: a few hundred bytes each, comparable, known before any training.

Post-training gives a network a new version of its weights. What it gives is a function of the network that is trained (the
student), of the one that teaches it, and of whether it is the training at the end, so these are the recipe.
:mod:`prune_gym.simulation.weight_store` makes tensors of it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

from prune_gym.graph.channel_graph import Architecture, ChannelGraph


@dataclass(frozen=True, eq=False)
class Weights:
    """A version of the weights of all units: the original one, or what the post-training of a network by a teacher gives.

    Attributes:
        version: a fingerprint; empty for the original weights.
    """

    student: Network | None = None
    teacher: Network | None = None
    final: bool = False
    """Whether it is the training at the end, where that differs from the others."""
    version: str = field(init=False)

    def __post_init__(self) -> None:
        # now, and not when it is asked for: a recipe within a recipe within a recipe would be too deep for a recursion
        recipe = "" if self.student is None or self.teacher is None else f"{self.student.key} {self.teacher.key}"
        recipe += " final" if self.final else ""
        object.__setattr__(self, "version", recipe and hashlib.blake2b(recipe.encode(), digest_size=16).hexdigest())

    def base(self, graph: ChannelGraph) -> Architecture:
        """The network that has these weights and of which no unit was removed since they were trained."""
        return graph.full() if self.student is None else self.student.architecture

    def __repr__(self) -> str:
        return f"Weights({self.version or 'original'!r})"  # without the recipes within the recipe


ORIGINAL = Weights()


@dataclass(frozen=True, eq=False)
class Network:
    """A pruned network: which units it keeps, and with which weights."""

    architecture: Architecture
    weights: Weights = ORIGINAL

    @property
    def key(self) -> str:
        """A fingerprint."""
        return f"{self.weights.version}:{self.architecture.digest}"
