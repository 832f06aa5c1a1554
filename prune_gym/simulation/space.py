"""What may be pruned, how far, and in what unit that is counted: the widths that groups may have, and what is gone at a width."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from fnmatch import fnmatchcase
from functools import cached_property
from math import ceil
from typing import TYPE_CHECKING, Any

import numpy as np

from prune_gym.arguments import check_choice, check_integer, check_number
from prune_gym.surgery.widths import unit_steps

if TYPE_CHECKING:
    from prune_gym.graph.channel_graph import ChannelGraph, ChannelGroup

UNITS = {"sparsity": "filters", "macs_reduction": "MACs", "params_reduction": "parameters"}  # target -> what it counts
MinWidth = float | Mapping[str, float]


@dataclass(frozen=True, eq=False)
class PruningSpace:
    """The widths that the groups of a graph may have, and the unit of budgets and targets.

    Args:
        graph: the channel graph.
        target: what budgets count: ``"sparsity"`` filters, ``"macs_reduction"`` MACs, ``"params_reduction"`` parameters.
        min_width: units that every group keeps at least, a whole number from 1 on or a fraction of its width in (0, 1); or a
            mapping of names or patterns as in ``exclude`` to such numbers, of which the first that fits a group counts.
        exclude: groups that keep all their units, by the name of the group or of one of its layers, or a pattern
            (``"layer1.*"``, see :mod:`fnmatch`).
        round_to: a group that loses units keeps a multiple of this many channels in each of its layers.
        levels: every group is cut into so many blocks, as equal as whole units allow, and keeps some of them, at least one; None
            allows any width. Not with ``round_to``.

    Attributes:
        allowed: the widths that each group may have, rising; its own is the last. int64 arrays.
        lowest: the least width of every group, int64 (groups,).

    Raises TypeError or ValueError for a bad argument; for a name or pattern that fits no group, with those that are similar.
    """

    graph: ChannelGraph
    target: str = "sparsity"
    min_width: MinWidth = 1
    exclude: Sequence[str] = ()
    round_to: int = 1
    levels: int | None = None
    allowed: tuple[np.ndarray, ...] = field(init=False, repr=False)
    lowest: np.ndarray = field(init=False, repr=False)

    def __post_init__(self) -> None:
        check_choice("target", self.target, UNITS)
        check_integer("round_to", self.round_to, 1)
        if (
            isinstance(self.exclude, str)
            or not isinstance(self.exclude, Sequence)
            or not all(isinstance(one, str) for one in self.exclude)
        ):
            raise TypeError(f"exclude: expected a sequence of names or patterns, got {self.exclude!r}.")
        if self.levels is not None:
            check_integer("levels", self.levels, 1)
            if self.round_to > 1:
                raise ValueError(
                    f"levels: expected levels or multiples of channels, got levels {self.levels} and round_to {self.round_to}."
                )
        excluded = self._fitting("exclude", self.exclude)
        allowed = tuple(
            widths[widths >= (widths[-1] if stays else least)]
            for widths, least, stays in zip(self._blocks(), self._least_widths(), excluded, strict=True)
        )
        object.__setattr__(self, "allowed", allowed)
        object.__setattr__(self, "lowest", np.array([widths[0] for widths in allowed], np.int64))

    def _blocks(self) -> list[np.ndarray]:
        """The widths of each group that are whole numbers of blocks, rising, and its own."""
        if self.levels is None:
            steps = unit_steps(self.graph, self.round_to)
            return [np.append(np.arange(step, width, step), width) for width, step in zip(self.graph.widths, steps, strict=True)]
        return [np.unique(-(-width * np.arange(1, self.levels + 1) // self.levels)) for width in self.graph.widths]

    def _fitting(self, argument: str, patterns: Sequence[str]) -> np.ndarray:
        """Which groups fit one of the patterns, bool (groups,). Raises ValueError for a pattern that none fits."""
        fits = np.zeros(len(self.graph.groups), bool)
        for pattern in patterns:
            mine = np.array([_fits(group, pattern) for group in self.graph.groups], bool)
            if not mine.any():
                names = [group.name for group in self.graph.groups]
                close = get_close_matches(pattern, names, 1)
                hint = f" Did you mean {close[0]!r}?" if close else f" Groups: {', '.join(names)}."
                raise ValueError(f"{argument}: no group and no layer of one fits {pattern!r}.{hint}")
            fits |= mine
        return fits

    def _least_widths(self) -> np.ndarray:
        given = self.min_width
        if not isinstance(given, Mapping):
            return np.array([_least("min_width", given, group.width) for group in self.graph.groups], np.int64)
        self._fitting("min_width", list(given))
        least = []
        for group in self.graph.groups:
            number = next((number for pattern, number in given.items() if _fits(group, pattern)), 1)
            least.append(_least("min_width", number, group.width))
        return np.array(least, np.int64)

    @property
    def unit(self) -> str:
        """What is counted, in the plural."""
        return UNITS[self.target]

    @cached_property
    def total(self) -> int:
        """What the original network has of it."""
        if self.target == "sparsity":
            return self.graph.n_filters
        full = self.graph.cost(self.graph.full())
        return full.macs if self.target == "macs_reduction" else full.params

    @cached_property
    def largest(self) -> int:
        """How much of it can go."""
        return int(self.removed(self.lowest))

    def removed(self, widths: np.ndarray) -> np.ndarray:
        """How much is gone at widths (..., groups), which need not be whole; int64 (...,)."""
        if self.target == "sparsity":
            return (self.graph.widths - widths) @ self.graph.filters_per_unit
        model = self.graph.cost_model
        form = model.macs if self.target == "macs_reduction" else model.params
        rows = np.reshape(widths, (-1, len(self.graph.groups))).astype(np.float64)
        return (self.total - model.evaluate(form, rows)).reshape(np.shape(widths)[:-1])

    def levels_at(self, widths: np.ndarray) -> np.ndarray:
        """How many blocks the groups can lose at widths that they may have, int64 (..., groups)."""
        return levels_at(self.allowed, widths)

    def widths_at(self, levels: np.ndarray) -> np.ndarray:
        """The widths of groups that can lose so many blocks, int64 (..., groups)."""
        return self._by_level[np.arange(len(self.allowed)), levels]

    @cached_property
    def _by_level(self) -> np.ndarray:
        return by_level(self.allowed)

    def at_least(self, widths: np.ndarray) -> np.ndarray:
        """The smallest widths that groups may have, and that are not below these real numbers; int64 (..., groups)."""
        return self._look_up(self._tables[0], np.ceil(widths - 1e-9))

    def at_most(self, widths: np.ndarray) -> np.ndarray:
        """The largest widths that groups may have, and that are not above these real numbers; int64 (..., groups)."""
        return self._look_up(self._tables[1], np.floor(widths + 1e-9))

    def next_below(self, widths: np.ndarray) -> np.ndarray:
        """The widths of the groups after each has lost its next block of units, a single one where any width is allowed; the same
        where a group has nothing to lose. For int64 arrays (..., groups)."""
        below = self._look_up(self._tables[1], widths - 1)
        return np.where(below < widths, below, widths)

    def next_above(self, widths: np.ndarray, limit: np.ndarray) -> np.ndarray:
        """The widths of the groups when each gets its last block back, but none more than ``limit``; int64 (groups,)."""
        return np.where(widths < limit, np.minimum(self._look_up(self._tables[0], widths + 1), limit), widths)

    def _look_up(self, table: np.ndarray, widths: np.ndarray) -> np.ndarray:
        return table[np.arange(len(self.allowed)), np.clip(widths, 0, table.shape[1] - 1).astype(np.int64)]

    @cached_property
    def _tables(self) -> tuple[np.ndarray, np.ndarray]:
        """The smallest allowed width that is not below, and the largest that is not above, each width of each group, or the
        nearest allowed one if there is none; int64 (groups, widest + 1)."""
        every = np.arange(int(self.graph.widths.max()) + 1)
        up = at_least(self.allowed, np.tile(every[:, None], len(self.allowed))).T
        down = [allowed[np.maximum(np.searchsorted(allowed, every, "right") - 1, 0)] for allowed in self.allowed]
        return up, np.stack(down)


def by_level(allowed: Sequence[np.ndarray]) -> np.ndarray:
    """The widths that groups may have, by group and level, int64 (groups, most levels); the last one again where a group has
    fewer."""
    most = max(map(len, allowed))
    return np.stack([np.pad(widths, (0, most - len(widths)), "edge") for widths in allowed])


def at_least(allowed: Sequence[np.ndarray], widths: np.ndarray) -> np.ndarray:
    """The smallest widths that the groups may have, rising, and that are not below these real numbers (..., groups), or the
    largest one of a group that has none such; int64 (..., groups)."""
    table = by_level(allowed)
    return table[np.arange(len(allowed)), np.minimum(levels_at(allowed, widths), table.shape[1] - 1)]


def levels_at(allowed: Sequence[np.ndarray], widths: np.ndarray) -> np.ndarray:
    """The places of widths (..., groups) among those that the groups may have, rising; int64 (..., groups)."""
    return np.stack([np.searchsorted(its, mine) for its, mine in zip(allowed, np.moveaxis(widths, -1, 0), strict=True)], -1)


def nearest(allowed: np.ndarray, wanted: float) -> int:
    """The place of the number that is nearest to the wanted one among rising ones, the larger of two."""
    return len(allowed) - 1 - int(np.argmin(np.abs(allowed - wanted)[::-1]))


def _fits(group: ChannelGroup, pattern: str) -> bool:
    return any(fnmatchcase(name, pattern) for name in (group.name, *group.layers))


def _least(name: str, number: Any, width: int) -> int:
    """A number of units: a whole number as it is, but not more than there are, or a fraction of the width, rounded up."""
    check_number(name, number, "(0, inf)")
    if number >= 1 and number != int(number):
        raise ValueError(f"{name}: expected a fraction in (0, 1) or a whole number of units, got {number}.")
    return ceil(number * width - 1e-9) if number < 1 else min(int(number), width)
