"""From labels to groups: what a trace recorded, resolved into a :class:`~prune_gym.graph.channel_graph.ChannelGraph`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import numpy as np

from prune_gym.graph.channel_graph import BoundLayer, ChannelGraph, ChannelGroup, PrunableLayer
from prune_gym.graph.cost import CostModel
from prune_gym.graph.labelling import Labelled, describe
from prune_gym.graph.labels import BOUND, Labels
from prune_gym.graph.operators import Size
from prune_gym.graph.program import BatchSize, Count, Program


def resolve(labelled: Labelled) -> ChannelGraph:
    """The channel graph of a labelled forward pass: components of labels become units, and units that look alike groups."""
    layers = _prunable_layers(labelled)
    component, first_made = _components(labelled, layers)

    # Units: components that hold a filter and are not bound, in the order in which the forward pass makes them.
    found = np.flatnonzero(first_made >= 0)
    found = found[np.argsort(first_made[found])]

    # Groups: units with the same fingerprint, in the order of their first unit.
    _, first, group = np.unique(_signatures(labelled, component)[found], return_index=True, return_inverse=True)
    group = np.argsort(np.argsort(first))[group]
    by_group = np.argsort(group, kind="stable")
    group_of_unit = group[by_group]
    widths = np.bincount(group_of_unit, minlength=len(first))
    unit_of_component = np.full(len(component), -1)
    unit_of_component[found[by_group]] = np.arange(len(found))
    unit_of_label = unit_of_component[component]

    filters = []
    for name, tensor, dim, times, labels in layers:
        units = unit_of_label[labels]
        if (units >= 0).any():
            filters.append(PrunableLayer(name, tensor, dim, units, times))
    units, known = {}, {}  # type: ignore[var-annotated]
    for name, traced in labelled.named.items():
        found_units = [_units_or_none(unit_of_label, labels) for labels in traced.labels]
        # one array for all dimensions with the same units, so that what follows from it is worked out once
        per_dim = tuple(None if array is None else known.setdefault(array.tobytes(), array) for array in found_units)
        if any(array is not None for array in per_dim):
            units[name] = per_dim
    groups = _groups(widths, group_of_unit, filters, units, unit_of_label, labelled.book.mixed)
    cost_model = _cost_model(labelled, units, unit_of_label, group_of_unit, widths)
    return ChannelGraph(
        groups, tuple(filters), _count(labelled, unit_of_label), units, labelled.shapes, labelled.constants, cost_model,
        labelled.module_outputs, _bound_layers(labelled, layers, unit_of_label),
    )  # fmt: skip


def _components(labelled: Labelled, layers: list[tuple[str, str, int, int, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """The component of every label, and for every component the place of the first of its filters, -1 if it has none or is
    bound. Costs are quadratic forms of the widths, so where three sizes of one product or parameter vary, the third stays."""
    book = labelled.book
    products: list[Sequence[np.ndarray]] = [layer.factors for layer in (*labelled.layers, *labelled.paper_flops)]
    products += [[k for k in traced.labels if k is not None] for traced in labelled.named.values()]
    products = [labels for labels in products if len(labels) > 2]
    while True:
        component = book.components()
        made = np.concatenate([component[labels] for *_, labels in layers] + [np.zeros(0, component.dtype)])
        first_made = np.full(len(component), -1)
        first_made[made[::-1]] = np.arange(len(made))[::-1]
        first_made[component[BOUND]] = -1
        third = [
            labels for factors in products for labels in [k for k in factors if first_made[component[k]].max(initial=-1) >= 0][2:]
        ]
        if not third:
            return component, first_made
        book.begin_rule("a cost would be a product of three widths")
        for labels in third:
            book.bind(labels)


def _units_or_none(unit_of_label: np.ndarray, labels: Labels) -> np.ndarray | None:
    """The units of one dimension of a tensor; the labels of a dimension are consecutive."""
    if labels is None or len(labels) == 0:
        return None
    units = unit_of_label[labels[0] : labels[-1] + 1]
    return units if units.max() >= 0 else None


def _prunable_layers(labelled: Labelled) -> list[tuple[str, str, int, int, np.ndarray]]:
    """(name, weight, output dimension, filters per index of it, their labels) of every weight in forward order, one that is
    used twice once."""
    seen: dict[tuple[str, int], tuple[int, np.ndarray]] = {}
    for layer in labelled.layers:
        if layer.filters is None:
            continue
        owner = labelled.book.owner(layer.filters)
        if owner is not None:
            labels = labelled.named[owner[0]].labels[owner[1]]
            if labels is not None:
                seen.setdefault(owner, (layer.filters_per_index, labels))
    return [(_layer_name(tensor), tensor, dim, times, labels) for (tensor, dim), (times, labels) in seen.items()]


def _layer_name(tensor: str) -> str:
    """``"features.0.weight"`` -> ``"features.0"``, also where PyTorch computes the weight from a parameter of another name;
    a parameter of any other name is a layer of its own."""
    plain, parametrized, _ = tensor.partition(".parametrizations.")
    module, _, leaf = plain.rpartition(".")
    if parametrized:
        return f"{module}.{leaf}" if module else leaf
    return module if leaf in ("weight", "weight_orig", "weight_v") and module else tensor


def _signatures(labelled: Labelled, component: np.ndarray) -> np.ndarray:
    """A fingerprint per component of how often it occurs in each dimension of each tensor and in each slice.

    Units with equal fingerprints are interchangeable: they hold filters of the same layers and are read by the same ones.
    The fingerprint is a sum of one random 64-bit number per dimension (Zobrist hashing), so it needs no sorting.
    """
    columns = [labels for traced in labelled.named.values() for labels in traced.labels if labels is not None]
    columns += labelled.book.cuts
    columns += [labels for layer in labelled.layers if layer.filters is None for labels in layer.factors]
    keys = np.random.default_rng(0).integers(1, 2**63, len(columns), dtype=np.uint64)
    signature = np.zeros(len(component), np.uint64)
    if columns:
        labels = np.concatenate([column.ravel() for column in columns])
        np.add.at(signature, component[labels], np.repeat(keys, [column.size for column in columns]))
    return signature


def _groups(
    widths: np.ndarray,
    group_of_unit: np.ndarray,
    filters: list[PrunableLayer],
    units: Mapping[str, tuple[np.ndarray | None, ...]],
    unit_of_label: np.ndarray,
    mixed: list[tuple[np.ndarray, Any]],
) -> tuple[ChannelGroup, ...]:
    layers: list[list[str]] = [[] for _ in widths]
    n_filters = np.zeros(len(widths), np.int64)
    for entry in filters:
        counts = np.bincount(group_of_unit[entry.units[entry.units >= 0]], minlength=len(widths))
        for group in np.flatnonzero(counts):
            layers[group].append(entry.layer)
        n_filters += counts * entry.filters_per_index

    mixers: list[str] = [""] * len(widths)
    for labels, reason in mixed:
        touched = unit_of_label[labels]
        for group in np.unique(group_of_unit[touched[touched >= 0]]):
            mixers[group] = mixers[group] or describe(reason)

    starts = np.cumsum(widths) - widths
    names: dict[str, int] = {}
    groups = []
    for g, width in enumerate(widths.tolist()):
        first = layers[g][0]
        names[first] = names.get(first, 0) + 1
        name = first if names[first] == 1 else f"{first}#{names[first]}"
        per_unit = int(n_filters[g]) // width
        groups.append(ChannelGroup(name, width, tuple(layers[g]), per_unit, bool(mixers[g]), int(starts[g]), units, mixers[g]))
    return tuple(groups)


def _bound_layers(
    labelled: Labelled, layers: list[tuple[str, str, int, int, np.ndarray]], unit_of_label: np.ndarray
) -> tuple[BoundLayer, ...]:
    """The layers with filters that stay."""
    reason_of = labelled.book.reasons()
    found = []
    for name, _, _, times, labels in layers:
        stays = labels[unit_of_label[labels] < 0]
        if len(stays):
            found.append(BoundLayer(name, len(stays) * times, len(labels) * times, describe(reason_of(stays))))
    return tuple(found)


def _count(labelled: Labelled, unit_of_label: np.ndarray) -> Program:
    """The program, its sizes in labels replaced by counts of units."""

    def resolved(leaf: Any) -> Any:
        if not isinstance(leaf, Size):
            return leaf
        labels = labelled.book.one_image(leaf.labels)
        units = unit_of_label[labels]
        per_image = len(labels) < len(leaf.labels)
        if (units >= 0).any():
            return Count(units, per_image)
        return BatchSize(len(units)) if per_image else len(units)

    return labelled.program.with_arguments(labelled.sized, resolved)


def _cost_model(
    labelled: Labelled,
    units: Mapping[str, tuple[np.ndarray | None, ...]],
    unit_of_label: np.ndarray,
    group_of_unit: np.ndarray,
    widths: np.ndarray,
) -> CostModel:
    sizes: dict[tuple[int, ...], int] = {(1, *[0] * len(widths)): 0}  # size 0 is the constant 1

    seen: dict[int, int] = {}

    def size_of(labels: np.ndarray) -> int:
        """The row of (offset, slope per group) that gives the number of kept channels among labels, 0 if all of them stay."""
        known = seen.get(id(labels))
        if known is None:
            among = unit_of_label[labels]
            if not len(among) or among.max() < 0:
                seen[id(labels)] = 0
                return 0
            counts = np.bincount(group_of_unit[among[among >= 0]], minlength=len(widths))
            slope, rest = np.divmod(counts, np.maximum(widths, 1))
            if rest.any():
                raise RuntimeError("trace: the units of a group do not occur equally often in a tensor; this is a bug.")
            row = (len(among) - int(counts.sum()), *slope.tolist())
            known = seen[id(labels)] = sizes.setdefault(row, len(sizes))
        return known

    def term(coefficient: int, factors: Sequence[np.ndarray]) -> tuple[int, int, int]:
        """A product of sizes, of which at most two vary."""
        variable = []
        for labels in factors:
            size = size_of(labels)
            if size:
                variable.append(size)
            else:
                coefficient *= len(labels)
        a, b = [*variable, 0, 0][:2]
        return coefficient, a, b

    macs = [term(layer.macs, layer.factors) for layer in labelled.layers]
    extra = [term(layer.macs, layer.factors) for layer in labelled.paper_flops]
    params = []
    for name in labelled.parameters:
        labels = labelled.named[name].labels if name in units else []
        varying = [k for k, array in zip(labels, units.get(name, ()), strict=True) if k is not None and array is not None]
        rest = prod(labelled.shapes[name]) // max(prod(map(len, varying)), 1)
        params.append(term(rest, varying))

    table = np.array(list(sizes), np.float64)
    forms = [_form(terms, len(table)) for terms in (macs, macs + extra, params)]
    return CostModel(table[:, 1:], table[:, 0], *forms)


def _form(terms: list[tuple[int, int, int]], n: int) -> np.ndarray:
    form = np.zeros((n, n))
    for coefficient, a, b in terms:
        form[a, b] += coefficient
    return form
