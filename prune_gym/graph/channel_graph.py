"""The channel graph of a network, an architecture of it, and what an architecture costs."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from torch import Tensor

from prune_gym.graph.cost import CONVENTIONS, Cost, CostModel
from prune_gym.graph.program import Named, Program, Value
from prune_gym.graph.tables import graph_table, group_table


@dataclass(frozen=True, eq=False)
class Slice:
    """What a group's units own of one tensor: unit u owns the indices ``indices[u]`` of dimension ``dim``."""

    tensor: str
    dim: int
    indices: np.ndarray  # (width, indices per unit)


@dataclass(frozen=True, eq=False)
class PrunableLayer:
    """The output channels of one prunable layer: ``units[c]`` is the unit (numbered over all groups) of filter c of
    dimension ``dim`` of the weight ``tensor``; -1 where the filter always stays. In a transposed convolution with groups, an
    index of that dimension stands for several filters, ``filters_per_index``."""

    layer: str
    tensor: str
    dim: int
    units: np.ndarray
    filters_per_index: int = 1


@dataclass(frozen=True)
class BoundLayer:
    """A layer of which ``filters`` of all its ``width`` filters always stay, and the first ``reason`` why: what they reach, or
    the operator whose rule says so."""

    layer: str
    filters: int
    width: int
    reason: str


@dataclass(frozen=True, eq=False)
class ChannelGroup:
    """The prunable layers that share units, and those units.

    A residual stage is a good example: ``conv2`` of every block and the layer that feeds the first block add into one
    stream, so channel 3 of all of them goes at once. With three such layers of 16 channels the group has ``width`` 16,
    three ``layers`` and ``filters_per_unit`` 3; its ``slices`` list, for every one of the 16 units, the rows of those
    three weights, the entries of the norms behind them, and the input columns of every layer that reads the stream.

    Attributes:
        name: the first of its layers in forward order (``"name#2"`` if a second group starts at the same layer).
        width: number of units.
        layers: names of its prunable layers, in forward order.
        filters_per_unit: filters (output channels of prunable layers) that one unit holds.
        mixed: whether some operator computes across its channels (layer norm, group norm, a mean over channels), so
            that a zeroed channel is not the same as an absent one.
        slices: what goes with a unit, tensor by tensor.
        first_unit: the number of its first unit; units are numbered over all groups.
        mixed_by: the first operator that computes across its channels, and its module; empty where there is none.

    ``print(group)`` shows its slices as a table.
    """

    name: str
    width: int
    layers: tuple[str, ...]
    filters_per_unit: int
    mixed: bool
    first_unit: int = 0
    tensor_units: Mapping[str, tuple[np.ndarray | None, ...]] = field(default_factory=dict)  # of the whole graph
    mixed_by: str = ""

    @cached_property
    def slices(self) -> tuple[Slice, ...]:
        found = []
        for tensor, per_dim in self.tensor_units.items():
            for dim, units in enumerate(per_dim):
                if units is None:
                    continue
                mine = np.flatnonzero((units >= self.first_unit) & (units < self.first_unit + self.width))
                if len(mine):
                    by_unit = mine[np.argsort(units[mine], kind="stable")]
                    found.append(Slice(tensor, dim, by_unit.reshape(self.width, -1)))
        return tuple(found)

    def __repr__(self) -> str:
        sizes = f"width={self.width}, layers={len(self.layers)}, filters_per_unit={self.filters_per_unit}"
        return f"ChannelGroup({self.name!r}, {sizes})"

    def __str__(self) -> str:
        return group_table(self)


@dataclass(frozen=True, eq=False)
class ChannelGraph:
    """Which channels of a network can be removed, what goes with them, and what is left then. Made by :func:`trace`.

    Attributes:
        groups: the prunable groups in forward order.
        prunable_layers: one entry each, in forward order.
        program: the network's forward pass, with channel counts left open.
        units: for every tensor with prunable channels, the unit of each index of each dimension (None: all stay).
        shapes: of all parameters, buffers and captured constants of the original network, by name.
        constants: tensors that the forward pass uses without registering them.
        module_outputs: for every call of a module, in the order in which they end, its name, the number of nodes of the program
            before that, and the values that it returns (None: one that the program does not hold).
        bound_layers: the layers with filters that always stay, and why.
        example: the arguments and keyword arguments it was traced with, their tensors without data: on the meta device.

    ``print(graph)`` shows the groups as a table.
    """

    groups: tuple[ChannelGroup, ...]
    prunable_layers: tuple[PrunableLayer, ...]
    program: Program
    units: Mapping[str, tuple[np.ndarray | None, ...]]
    shapes: Mapping[str, tuple[int, ...]]
    constants: Mapping[str, Tensor]
    cost_model: CostModel
    module_outputs: tuple[tuple[str, int, tuple[Value | Named | None, ...]], ...] = ()
    bound_layers: tuple[BoundLayer, ...] = ()
    example: tuple[list[Any], dict[str, Any]] = field(default_factory=lambda: ([], {}))

    def __str__(self) -> str:
        return graph_table(self)

    def __repr__(self) -> str:
        return f"ChannelGraph({len(self.groups)} groups, {self.n_units} units, {self.n_filters} filters)"

    @cached_property
    def widths(self) -> np.ndarray:
        """Units per group of the original network, int64 (groups,)."""
        return np.array([group.width for group in self.groups], np.int64)

    @cached_property
    def filters_per_unit(self) -> np.ndarray:
        return np.array([group.filters_per_unit for group in self.groups], np.int64)

    @cached_property
    def group_filters(self) -> np.ndarray:
        """Filters per group of the original network."""
        return self.widths * self.filters_per_unit

    @cached_property
    def layer_filters(self) -> np.ndarray:
        """Output channels of every prunable layer that go with each group, int64 (layers, groups)."""
        group_of_unit = np.repeat(np.arange(len(self.groups)), self.widths)
        return np.stack(
            [
                layer.filters_per_index * np.bincount(group_of_unit[layer.units[layer.units >= 0]], minlength=len(self.groups))
                for layer in self.prunable_layers
            ]
        )

    @cached_property
    def starts(self) -> np.ndarray:
        """The number of the first unit of every group, and at the end the number of units."""
        return np.concatenate([[0], np.cumsum(self.widths)])

    @property
    def n_units(self) -> int:
        return int(self.starts[-1])

    @property
    def n_filters(self) -> int:
        """Filters of the original network that can be removed."""
        return int(self.group_filters.sum())

    @property
    def max_sparsity(self) -> float:
        """The channel sparsity when one unit is left in every group."""
        return float((self.widths - 1) @ self.filters_per_unit / max(self.n_filters, 1))

    @cached_property
    def fingerprint(self) -> str:
        """The same for every graph of the same network, however often it is traced: of the groups, of the tensors' shapes and
        of which unit owns what of them, but of no weight."""
        hashed = hashlib.blake2b(repr([(g.name, g.width, g.filters_per_unit) for g in self.groups]).encode(), digest_size=16)
        for name, per_dim in sorted(self.units.items()):
            hashed.update(f"{name} {self.shapes.get(name)}".encode())
            for units in per_dim:
                hashed.update(b"none" if units is None else np.ascontiguousarray(units, np.int64).tobytes())
        return hashed.hexdigest()

    def check_shapes(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Raise ValueError unless these are the shapes of all parameters and buffers of the network of this graph, by name."""
        found = {**{name: self.shapes[name] for name in self.constants}, **shapes}
        for name in sorted(found.keys() | self.shapes.keys()):
            if found.get(name) != self.shapes.get(name):
                raise ValueError(
                    f"model: expected the network that the graph was traced from, but {name!r} has shape {found.get(name)} "
                    f"instead of {self.shapes.get(name)}; trace this model anew."
                )

    def full(self) -> Architecture:
        """The architecture of the original network."""
        return Architecture(self, np.ones(self.n_units, bool))

    def architecture(self, kept: Sequence[np.ndarray]) -> Architecture:
        """The architecture that keeps ``kept[g][u]`` (bool) of every unit u of every group g.

        Raises TypeError, or ValueError if the arrays do not fit the groups, are not boolean, or leave a group without a unit.
        """
        if not isinstance(kept, Sequence | np.ndarray):
            raise TypeError(f"kept: expected one boolean array for each of {len(self.groups)} groups, got {type(kept).__name__}.")
        if len(kept) != len(self.groups):
            raise ValueError(f"kept: expected one boolean array for each of {len(self.groups)} groups, got {len(kept)}.")
        arrays = []
        for group, given in zip(self.groups, kept, strict=True):
            try:
                array = np.asarray(given)
            except (ValueError, TypeError, RuntimeError) as error:  # lists of several lengths, tensors on another device
                raise ValueError(
                    f"kept: expected a boolean array of shape ({group.width},) for group {group.name!r}, but {error}"
                ) from error
            arrays.append(array)
            if array.shape != (group.width,) or array.dtype != bool:
                raise ValueError(
                    f"kept: expected a boolean array of shape ({group.width},) for group {group.name!r}, "
                    f"got {array.dtype} of shape {array.shape}."
                )
            if not array.any():
                raise ValueError(f"kept: group {group.name!r} would lose all its {group.width} units; keep at least one.")
        return Architecture(self, np.concatenate([*arrays, np.zeros(0, bool)]))

    def cost(self, architecture: Architecture, convention: str = "macs") -> Cost:
        """MACs per image and parameters of an architecture; see :meth:`costs`."""
        if not isinstance(architecture, Architecture):
            raise TypeError(f"architecture: expected an Architecture, got {type(architecture).__name__}.")
        cost = self.costs(architecture.widths[None], convention)
        return Cost(int(cost.macs[0]), int(cost.params[0]))

    def costs(self, widths: np.ndarray, convention: str = "macs") -> Cost:
        """Costs of many architectures at once, from their widths alone, an integer array (N, groups).

        ``convention="macs"`` counts convolutions and linear layers without bias. ``"paper"`` gives the "FLOPs" of the
        RL-Pruner paper, that of the thop package: these MACs, plus 4 per element entering a batch norm, one per output of
        an average pooling, and area + 1 per output of an adaptive one.
        """
        widths = np.asarray(widths)
        if widths.ndim != 2 or widths.shape[1] != len(self.groups) or not np.issubdtype(widths.dtype, np.integer):
            raise ValueError(
                f"widths: expected an integer array (N, {len(self.groups)}), got {widths.dtype} of shape {widths.shape}."
            )
        if ((widths < 1) | (widths > self.widths)).any():
            raise ValueError("widths: expected every width between 1 and that of the original network.")
        if convention not in CONVENTIONS:
            raise ValueError(f"convention: expected one of {', '.join(CONVENTIONS)}, got {convention!r}.")
        model, numbers = self.cost_model, widths.astype(np.float64)
        form = model.macs if convention == "macs" else model.paper_flops
        return Cost(model.evaluate(form, numbers), model.evaluate(model.params, numbers))


@dataclass(frozen=True, eq=False)
class Architecture:
    """A pruned network, as the units that it keeps of the original one: ``mask`` holds one bool per unit."""

    graph: ChannelGraph
    mask: np.ndarray

    def __post_init__(self) -> None:
        if not isinstance(self.mask, np.ndarray):
            raise TypeError(f"mask: expected a boolean array, got {type(self.mask).__name__}; see graph.architecture.")
        if self.mask.dtype != bool or self.mask.shape != (self.graph.n_units,):
            raise ValueError(
                f"mask: expected a boolean array ({self.graph.n_units},), got {self.mask.dtype} of shape {self.mask.shape}; "
                "see graph.architecture."
            )
        self.mask.flags.writeable = False

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Architecture) or not np.array_equal(self.mask, other.mask):
            return False
        return other.graph is self.graph or other.graph.fingerprint == self.graph.fingerprint

    def __hash__(self) -> int:
        return hash(self.digest)

    def __repr__(self) -> str:
        return f"Architecture(widths={self.widths.tolist()}, channel_sparsity={self.channel_sparsity:.4f})"

    @property
    def kept(self) -> tuple[np.ndarray, ...]:
        """Which units of each group are kept: one boolean array per group."""
        return tuple(np.split(self.mask, self.graph.starts[1:])[:-1])

    @cached_property
    def widths(self) -> np.ndarray:
        """Kept units per group, int64 (groups,)."""
        total = np.concatenate([[0], np.cumsum(self.mask)])
        widths = np.diff(total[self.graph.starts]).astype(np.int64)
        widths.flags.writeable = False
        return widths

    @cached_property
    def digest(self) -> str:
        """A fingerprint of the kept units, the same on every machine."""
        return hashlib.blake2b(np.packbits(self.mask).tobytes(), digest_size=16).hexdigest()

    @property
    def channel_sparsity(self) -> float:
        """Removed filters over filters of the original network, in [0, 1]."""
        removed = (self.graph.widths - self.widths) @ self.graph.filters_per_unit
        return float(removed / max(self.graph.n_filters, 1))
