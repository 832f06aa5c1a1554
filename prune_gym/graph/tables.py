"""``print(graph)`` and ``print(group)``: what belongs together, as plain text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from prune_gym.graph.channel_graph import ChannelGraph, ChannelGroup

LONGEST_LIST = 36  # characters of a cell that lists names
LONGEST_NAME = 32


def graph_table(graph: ChannelGraph) -> str:
    """One line per group, and below it the layers that stay. The shares of MACs and parameters are what would go if all units of
    the group went, as a fraction of the network's; what lies between two groups counts in both."""
    full = graph.full()
    cost = graph.cost(full)
    counts = ", ".join([_count(len(graph.groups), "group"), _count(graph.n_units, "unit"), _count(graph.n_filters, "filter")])
    title = f"{counts}, {cost.macs:,} MACs, {cost.params:,} parameters"
    rows = []
    for g, group in enumerate(graph.groups):
        without = full.widths.astype(np.float64)[None].copy()
        without[0, g] = 0
        model = graph.cost_model
        macs, params = (int(model.evaluate(form, without)[0]) for form in (model.macs, model.params))
        rows.append([
            _shortened(group.name, LONGEST_NAME), str(group.width), str(group.filters_per_unit), str(len(group.slices)),
            _share(cost.macs - macs, cost.macs), _share(cost.params - params, cost.params), "yes" if group.mixed else "",
            _listed(group.layers),
        ])  # fmt: skip
    header = ["group", "width", "filters/unit", "slices", "MACs", "params", "mixed", "layers"]
    parts = [title, _table(header, rows, right={1, 2, 3, 4, 5})]
    if graph.bound_layers:
        bound = [[_shortened(b.layer, LONGEST_NAME), f"{b.filters} of {b.width}", b.reason] for b in graph.bound_layers]
        parts.append(_table(["stays", "filters", "because of"], bound, right={1}))
    return "\n\n".join(parts)


def group_table(group: ChannelGroup) -> str:
    """One line per slice: the tensor, the dimension, and how many of its indices go with one unit."""
    title = f"group {group.name}: {_count(group.width, 'unit')} of {_count(group.filters_per_unit, 'filter')}"
    lines = [title, f"layers: {', '.join(group.layers)}"]
    if group.mixed:
        lines.append(f"mixed: {group.mixed_by} computes across its channels, so zeroed is not the same as removed")
    rows = [[piece.tensor, str(piece.dim), str(piece.indices.shape[1])] for piece in group.slices]
    return "\n".join([*lines, "", _table(["tensor", "dim", "indices/unit"], rows, right={1, 2})])


def _count(n: int, thing: str) -> str:
    return f"{n} {thing}{'' if n == 1 else 's'}"


def _share(part: int, whole: int) -> str:
    return f"{part / max(whole, 1):.1%}"


def _shortened(name: str, length: int) -> str:
    """A long name without its middle."""
    if len(name) <= length:
        return name
    head = (length - 3) // 2
    return f"{name[:head]}...{name[len(name) - (length - 3 - head) :]}"


def _listed(names: Sequence[str]) -> str:
    """As many names as fit into a cell, at least one, and how many more there are."""
    shown = [_shortened(names[0], LONGEST_LIST)]
    for name in names[1:]:
        if len(", ".join([*shown, name])) > LONGEST_LIST:
            return f"{', '.join(shown)}, +{len(names) - len(shown)}"
        shown.append(name)
    return ", ".join(shown)


def _table(header: list[str], rows: list[list[str]], right: set[int]) -> str:
    """Columns as wide as their longest cell, two spaces apart; those in ``right`` are aligned on the right."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        padded = (cell.rjust(w) if i in right else cell.ljust(w) for i, (cell, w) in enumerate(zip(cells, widths, strict=True)))
        return "  ".join(padded).rstrip()

    return "\n".join([line(header), line(["-" * w for w in widths]), *map(line, rows)])
