"""What removed channels leave undone is made up for by those that stay: least squares, in closed form, without labels.

A consumer (:mod:`prune_gym.scoring.consumers`) multiplies a weight matrix ``W`` with vectors ``x`` of inputs: patches of an
image, or rows. Without its removed inputs ``R`` it computes less than before; the weights of its kept inputs ``K`` (a constant 1
among them, for the bias) are corrected so that the outputs on calibration images come as near as possible to what they were:

    W'_K = W_K + W_R G_RK (G_KK + r I)^-1,        G = E[x x^T],

with ``r`` a small fraction of the mean diagonal of G, and not less than what rounding can do to G. The Gram matrices are those of
the network before pruning, so that they are computed once for all architectures, and the correction is a function of the mask
alone: some small linear systems, no forward pass (:meth:`Compensation.compensate`). :func:`compensate_sequentially` takes the
inputs from the network as it is pruned and corrected so far instead, which is better and takes two forward passes for every
architecture.

The same matrices say what a unit is worth (optimal brain surgeon): :meth:`Compensation.removal_errors`.

Where a layer is wide, patches would make large matrices. There the removed *channels* are predicted from the kept ones, pixel by
pixel, and one prediction serves all places of the kernel.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prune_gym.graph.channel_graph import Architecture, ChannelGraph
from prune_gym.graph.program import Named, Program, is_kept
from prune_gym.scoring.aliasing import renew, written_tensors
from prune_gym.scoring.calibration import check_images
from prune_gym.scoring.consumers import Call, Consumer, find_consumers
from prune_gym.scoring.weight_matrix import WeightMatrix
from prune_gym.surgery.compact import compact
from prune_gym.surgery.slicing import check_architecture, named_tensors, scatter_tensors, slice_tensors

RIDGE = 1e-3  # r, as a fraction of the mean diagonal of a Gram matrix
MASKS_AT_ONCE = 64  # whose corrections are solved as one batch ...
BATCH_NUMBERS = 2**25  # ... unless its systems were to take more than a quarter of a GB
ROUNDING = 4  # errors of a Gram matrix, in units of rounding of its trace


class Compensation:
    """Corrections for everything that can be cut out of one network.

    Args:
        graph: the channel graph of the network.
        tensors: its tensors by name, at the shapes of the graph.
        images: calibration images (N, C, H, W), as the network takes them.
        base: the network that the corrections make up for, an architecture of the graph; by default all of it.
    """

    @torch.inference_mode()
    def __init__(self, graph: ChannelGraph, tensors: Mapping[str, Tensor], images: Tensor, base: Architecture | None = None):
        self.graph = graph
        self.base = graph.full() if base is None else base
        self._tensors = tensors
        small = slice_tensors(tensors, graph.units, self.base)
        units = _sliced_units(graph, self.base)
        self.matrices = [WeightMatrix(consumer, small[consumer.weight], units) for consumer in find_consumers(graph)]
        self._images = images

    @cached_property
    def grams(self) -> list[Tensor]:
        """The Gram matrix of every consumer, (groups, columns, columns), computed when it is first needed."""
        small = slice_tensors(self._tensors, self.graph.units, self.base)
        with torch.inference_mode():
            return _gram_matrices(self.graph.program.at(self.base.mask), small, self.matrices, self._images)

    @property
    def is_read(self) -> np.ndarray:
        """Which units some consumer reads, bool (units,); those that the base does not have count as read."""
        read = ~self.base.mask
        for matrix in self.matrices:
            read[matrix.columns[matrix.columns >= 0]] = True
        return read

    @torch.inference_mode()
    def compensate(self, architecture: Architecture) -> dict[str, Tensor]:
        """The tensors of the pruned network, with corrected weights, biases and running means. Raises ValueError for an
        ``architecture`` that keeps a unit which the base does not have."""
        _check_within(architecture, self.base)
        small = slice_tensors(self._tensors, self.graph.units, architecture)
        for matrix, gram in zip(self.matrices, self.grams, strict=True):
            kept = matrix.kept_columns(architecture)
            if kept.all():
                continue
            stay, go = (torch.from_numpy(np.flatnonzero(each)).to(gram.device) for each in (kept, ~kept))
            missing = matrix.rows_of(architecture)[:, :, go] @ gram[:, go][:, :, stay]  # W_R G_RK
            matrix.add(small, _solve(gram[:, stay][:, :, stay], missing, _ridge(gram, matrix)))
        return small

    def compensate_masked(self, masks: np.ndarray) -> Iterator[dict[str, Tensor]]:
        """The same at the shapes of the graph, for networks whose removed units are to be zeroed: for each of the masks, bool
        (M, units), all corrected tensors. No shape in here depends on the masks, and the systems of many masks are one batch.
        With ``m`` 1 for kept and 0 for removed columns, a system is ``m G m + (1 - m) + r I``; solutions are 0 where ``m`` is.
        """
        numbers = [gram.numel() + matrix.values.numel() for matrix, gram in zip(self.matrices, self.grams, strict=True)]
        at_once = min(MASKS_AT_ONCE, max(1, BATCH_NUMBERS // max(numbers, default=1)))
        for start in range(0, len(masks), at_once):
            yield from self._compensate_masked(masks[start : start + at_once])

    @torch.inference_mode()
    def _compensate_masked(self, masks: np.ndarray) -> list[dict[str, Tensor]]:
        before = slice_tensors(self._tensors, self.graph.units, self.base)
        small = [dict(before) for _ in masks]
        for matrix, gram in zip(self.matrices, self.grams, strict=True):
            columns = np.stack([is_kept(matrix.columns, mask) for mask in masks])
            kept = torch.from_numpy(columns).to(gram.device, torch.float64)[:, None]  # (masks, 1, columns)
            system = (gram * kept[..., None, :] * kept[..., None]).add_(torch.diag_embed(1 - kept))
            removed = (1 - kept)[..., None, : matrix.values.shape[2]]
            missing = (matrix.values * removed) @ gram[:, : removed.shape[-1]].double() * kept[..., None, :]
            for tensors, correction in zip(small, _solve(system, missing, _ridge(gram, matrix)), strict=True):
                matrix.add(tensors, correction)
        found = []
        for tensors in small:
            whole = scatter_tensors(self._tensors, tensors, self.graph.units, self.base)
            found.append({name: whole[name] for name in tensors if tensors[name] is not before[name]})
        return found

    @torch.inference_mode()
    def removal_errors(self, architecture: Architecture, small: Mapping[str, Tensor]) -> np.ndarray:
        """For every unit the squared error of the consumers' outputs that is left when it is removed from the network of
        ``architecture`` with the tensors ``small``, and the units that stay make up for it: ``W_B ((G^-1)_BB)^-1 W_B^T`` for its
        columns ``B``, as a fraction of each consumer's power ``W G W^T``, summed over the consumers. Outputs count as they are
        behind a batch norm that follows at once. Float64 (units,); 0 for units that are not there, and for those that no consumer
        reads.

        Hassibi and Stork, *Second order derivatives for network pruning: optimal brain surgeon*, 1992.
        """
        errors = np.zeros(self.graph.n_units)
        for matrix, gram in zip(self.matrices, self.grams, strict=True):
            kept = matrix.kept_columns(architecture)
            stay = torch.from_numpy(np.flatnonzero(kept)).to(gram.device)
            weights = matrix.of(self._scaled(matrix.consumer, small))
            here = gram[:, stay][:, :, stay]
            inverse = torch.cholesky_inverse(_factor(here, _ridge(gram, matrix)))
            inputs = weights.shape[2]  # without the constant
            power = torch.einsum("gri,gij,grj->", weights, here[:, :inputs, :inputs].double(), weights)
            owners = matrix.columns[kept][:inputs]
            for unit_columns in _by_size(owners):
                columns = torch.from_numpy(unit_columns.indices).to(gram.device)  # (units, size)
                block = inverse[:, columns[:, :, None], columns[:, None, :]]  # (groups, units, size, size)
                removed = weights[:, :, columns]  # (groups, rows, units, size)
                lost = torch.einsum("grus,guts,grut->u", removed, torch.linalg.inv(block), removed)
                errors[unit_columns.units] += (lost / power.clamp(min=torch.finfo(power.dtype).tiny)).cpu().numpy()
        return errors

    def _scaled(self, consumer: Consumer, small: Mapping[str, Tensor]) -> Tensor:
        """The weight of a consumer times the scale of the batch norm behind its first call, float64."""
        weight = small[consumer.weight].double()
        norm = consumer.calls[0].norm
        if norm is None:
            return weight
        _, scale, _, _, variance, _, _, epsilon, *_ = self.graph.program.nodes[norm].args
        factor = torch.ones(len(weight), dtype=torch.float64, device=weight.device)
        if isinstance(variance, Named):
            factor = (small[variance.name].double() + epsilon).rsqrt()
        if isinstance(scale, Named):
            factor = factor * small[scale.name]
        return weight * factor.view(-1, *[1] * (weight.ndim - 1))


class SolvingCost:
    """Multiplications of the linear systems of a graph: a Cholesky factor of k columns takes k^3 / 6, an inverse k^3 / 3 more, a
    solution k^2 for every row."""

    def __init__(self, graph: ChannelGraph):
        self._matrices = [
            WeightMatrix(consumer, torch.empty(graph.shapes[consumer.weight], device="meta"), graph.units)
            for consumer in find_consumers(graph)
        ]

    def compensating(self, architecture: Architecture, base: Architecture) -> int:
        """Of :meth:`Compensation.compensate`."""
        total = 0
        for matrix in self._matrices:
            kept, before = matrix.kept_columns(architecture), matrix.kept_columns(base)
            stay, go = int(kept.sum()), int((before & ~kept).sum())
            if go:
                rows = matrix.row_count(architecture)
                total += matrix.consumer.groups * (stay**3 // 6 + rows * stay * (stay + go))
        return total

    def removal_errors(self, architecture: Architecture) -> int:
        """Of :meth:`Compensation.removal_errors`."""
        total = 0
        for matrix in self._matrices:
            stay = int(matrix.kept_columns(architecture).sum())
            total += matrix.consumer.groups * (stay**3 // 2 + matrix.row_count(architecture) * stay**2)
        return total


@torch.inference_mode()
def compensate_sequentially(
    graph: ChannelGraph,
    tensors: Mapping[str, Tensor],
    images: Tensor,
    architecture: Architecture,
    base: Architecture | None = None,
) -> dict[str, Tensor]:
    """The tensors of a pruned network, corrected from the first layer to the last: the outputs of every consumer come as near as
    possible to those in the network ``base``, given the inputs that it gets from the layers before it, which are pruned and
    corrected already. Arguments as of :class:`Compensation`. Raises ValueError for an ``architecture`` that keeps a unit which
    the base does not have."""
    base = graph.full() if base is None else base
    _check_within(architecture, base)
    consumers = find_consumers(graph)
    units, large = _sliced_units(graph, base), slice_tensors(tensors, graph.units, base)
    matrices = [WeightMatrix(consumer, large[consumer.weight], units) for consumer in consumers]
    targets: dict[int, tuple[Tensor, tuple[int, ...]]] = {}

    def record(position: int, arguments: list) -> None:
        for matrix in matrices:
            call = matrix.consumer.calls[0]
            if call.position == position:
                inputs = matrix.inputs(call, arguments)
                wanted = inputs if matrix.by_channel else inputs @ matrix.rows_of(architecture).mT
                targets[position] = wanted, matrix.places(call, arguments)

    written = written_tensors(graph.program)
    graph.program.at(base.mask).run(renew(large, written), [images], before_call=record)
    cut = slice_tensors(tensors, graph.units, architecture)
    small = renew(cut, written)
    by_position = {call.position: (matrix, call) for matrix in matrices for call in matrix.consumer.calls}

    def correct(position: int, arguments: list) -> None:
        """Solve for a consumer at its first call, and hand the corrected weight to all of its calls."""
        if position not in by_position:
            return
        matrix, call = by_position[position]
        kept = matrix.kept_columns(architecture)
        if kept.all():
            return
        target, places = targets.pop(position, (None, None))
        if target is not None and places == matrix.places(call, arguments):  # else its places are channels that were removed
            inputs = _with_constant(matrix.inputs(call, arguments, kept), matrix)
            wanted = target.mT @ inputs / inputs.shape[1]
            if matrix.by_channel:
                wanted = matrix.rows_of(architecture) @ wanted
            gram = inputs.mT @ inputs / inputs.shape[1]
            present = matrix.of(small[matrix.consumer.weight])
            matrix.add(small, _solve(gram, wanted - present @ gram[:, : present.shape[2]], _ridge(gram, matrix)))
        _replace(arguments, call, program, small, matrix.consumer.weight)

    program = graph.program.at(architecture.mask)
    program.run(small, [images], before_call=correct)
    return small | {name: cut[name] for name in written if name in cut}


def _check_within(architecture: Architecture, base: Architecture) -> None:
    if (architecture.mask & ~base.mask).any():
        raise ValueError("architecture: expected one that keeps no unit which its base does not have.")


def compensate(
    model: nn.Module, graph: ChannelGraph, architecture: Architecture, images: Tensor, form: str = "auto"
) -> nn.Module:
    """The pruned network of :func:`prune_gym.compact`, with weights, biases and running means that make up for what was
    removed: layer by layer, so that every layer's outputs come as near as they can to those of ``model``. No training and no
    labels; see :func:`compensate_sequentially`. It works for whatever chose the channels, another library too.

    Args:
        model: the network before pruning, that of ``graph``. It is not modified.
        architecture: which units to keep.
        images: some hundred calibration images (N, C, H, W), as the model takes them, on its device.
        form: as of :func:`prune_gym.compact`.

    Raises TypeError or ValueError for a bad argument, as ``compact`` does, and for images that the model cannot take.
    """
    tensors = named_tensors(model, graph)
    check_architecture(architecture, graph)
    check_images(tensors, graph, images)
    small = compensate_sequentially(graph, tensors, images, architecture)
    with torch.inference_mode(False):
        weights = scatter_tensors(tensors, {name: tensor.clone() for name, tensor in small.items()}, graph.units, architecture)
        return compact(model, graph, architecture, form, weights)


def _replace(arguments: list, call: Call, program: Program, tensors: Mapping[str, Tensor], weight: str) -> None:
    """Put the corrected weight and bias among the arguments of a call."""
    for place, argument in enumerate(program.nodes[call.position].args):
        if isinstance(argument, Named):
            arguments[place] = tensors[argument.name]
    if not isinstance(program.nodes[call.position].args[call.weight], Named):  # a linear layer's, which is transposed
        arguments[call.weight] = tensors[weight].mT.expand_as(arguments[call.weight])


def _sliced_units(graph: ChannelGraph, base: Architecture) -> dict[str, tuple[np.ndarray | None, ...]]:
    """The units of the tensors' indices in the network of ``base``."""
    return {
        name: tuple(None if owners is None else owners[is_kept(owners, base.mask)] for owners in per_dim)
        for name, per_dim in graph.units.items()
    }


# ------------------------------------------------------------------------------------------------------- Gram matrices


def _gram_matrices(
    program: Program, tensors: Mapping[str, Tensor], matrices: Sequence[WeightMatrix], images: Tensor
) -> list[Tensor]:
    """E[x x^T] of every consumer, over its calls, (groups, columns, columns)."""
    by_position = {call.position: (i, call) for i, matrix in enumerate(matrices) for call in matrix.consumer.calls}
    sums: dict[int, Tensor] = {}
    counts: dict[int, int] = dict.fromkeys(range(len(matrices)), 0)

    def add(position: int, arguments: list) -> None:
        if position not in by_position:
            return
        i, call = by_position[position]
        inputs = _with_constant(matrices[i].inputs(call, arguments), matrices[i])
        gram = inputs.mT @ inputs
        sums[i] = sums[i] + gram if i in sums else gram
        counts[i] += inputs.shape[1]

    program.run(renew(tensors, written_tensors(program)), [images], before_call=add)
    return [sums[i] / counts[i] for i in range(len(matrices))]


def _with_constant(inputs: Tensor, matrix: WeightMatrix) -> Tensor:
    return F.pad(inputs, (0, 1), value=1.0) if matrix.constant else inputs


# ------------------------------------------------------------------------------------------------------- linear systems


def _ridge(gram: Tensor, matrix: WeightMatrix) -> Tensor:
    """``r`` for a Gram matrix, over its inputs without the constant; not less than what rounding can leave of its zero
    eigenvalues."""
    diagonal = gram.diagonal(dim1=1, dim2=2)
    inputs = diagonal[:, :-1] if matrix.constant else diagonal
    rounding = ROUNDING * torch.finfo(gram.dtype).eps * diagonal.sum(1).max()
    return torch.maximum(RIDGE * inputs.mean(), rounding).double()


def _factor(gram: Tensor, ridge: Tensor) -> Tensor:
    """The Cholesky factor of ``G + r I`` in double precision."""
    system = gram.double()
    system.diagonal(dim1=-2, dim2=-1).add_(ridge + torch.finfo(torch.float64).tiny)  # more than zero, also for dead inputs
    return torch.linalg.cholesky(system)


def _solve(gram: Tensor, missing: Tensor, ridge: Tensor) -> Tensor:
    """``missing (G + r I)^-1``, for matrices (..., rows, columns)."""
    return torch.cholesky_solve(missing.double().mT, _factor(gram, ridge)).mT


@dataclass(frozen=True)
class _UnitColumns:
    """Units with as many columns each: their numbers (units,), and the columns (units, size)."""

    units: np.ndarray
    indices: np.ndarray


def _by_size(owners: np.ndarray) -> list[_UnitColumns]:
    """The columns of the units that own some, units of the same size together."""
    order = np.argsort(owners, kind="stable")
    order = order[owners[order] >= 0]
    units, starts, sizes = np.unique(owners[order], return_index=True, return_counts=True)
    return [
        _UnitColumns(units[sizes == size], order[starts[sizes == size][:, None] + np.arange(size)]) for size in np.unique(sizes)
    ]
