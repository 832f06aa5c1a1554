"""Entering networks into the zoo.

The groups of a network are given as text, one per line: the name (of its first layer), the number of units, and where it is
not one filter of one layer per unit, ``x`` and the filters per unit, a colon and the layers. ``mixed`` ends the line of a
group that is normalised or reduced across its channels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from prune_gym import ChannelGraph

Shape = tuple[int, ...]
Group = tuple[str, int, int, tuple[str, ...], bool]  # name, units, filters per unit, layers, mixed


@dataclass(frozen=True)
class Entry:
    name: str
    build: Callable[[], nn.Module]
    shapes: tuple[Shape, ...]  # of the inputs, without the batch
    groups: tuple[Group, ...]


NETWORKS: dict[str, Entry] = {}


def network(groups: str, *shapes: Shape) -> Callable[[Callable[[], nn.Module]], Callable[[], nn.Module]]:
    """Enter a function that builds a network into the zoo."""

    def enter(build: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
        expected = tuple(_group(line) for line in groups.strip().splitlines())
        NETWORKS[build.__name__] = Entry(build.__name__, build, shapes or ((3, 8, 8),), expected)
        return build

    return enter


def _group(line: str) -> Group:
    left, _, right = line.partition(":")
    name, width, *per_unit = left.split()
    layers = [word for word in right.split() if word != "mixed"] or [name.partition("#")[0]]
    filters = next((int(word[1:]) for word in per_unit if word.startswith("x")), len(layers))
    return name, int(width), filters, tuple(layers), "mixed" in line.split()


def groups_of(graph: ChannelGraph) -> tuple[Group, ...]:
    return tuple((g.name, g.width, g.filters_per_unit, g.layers, g.mixed) for g in graph.groups)
