"""The numbers of channels that modules keep in attributes, such as ``in_channels``, corrected after their tensors were cut."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from prune_gym.graph.program import BatchSize, Count, Program

Shape = tuple[int, ...]
Change = tuple[int, int]  # a number of channels before and after; equal where none was cut


@dataclass(frozen=True)
class Correction:
    """An attribute that was recognised as a number of channels, and changed."""

    module: str
    attribute: str
    before: Any
    after: Any


def layer_sizes(layer: nn.Module, before: Shape, after: Shape) -> dict[str, Any]:
    """What the attributes of one of PyTorch's layers, or of a subclass, must be where its weight had the shape ``before`` and
    now has the shape ``after``. Empty for other modules and for layers without a weight."""
    if not after:
        return {}
    match layer:
        case _ConvTransposeNd():  # (in, out / groups, ...)
            groups = after[0] if 1 < layer.groups == layer.in_channels else layer.groups
            return {"in_channels": after[0], "out_channels": after[1] * groups, "groups": groups}
        case _ConvNd():  # (out, in / groups, ...)
            depthwise = 1 < layer.groups == layer.in_channels
            groups = layer.groups * after[0] // before[0] if depthwise else layer.groups
            return {"in_channels": after[1] * groups, "out_channels": after[0], "groups": groups}
        case nn.Linear():
            return {"in_features": after[1], "out_features": after[0]}
        case nn.Bilinear():
            return {"in1_features": after[1], "in2_features": after[2], "out_features": after[0]}
        case nn.Embedding() | nn.EmbeddingBag():
            return {"num_embeddings": after[0], "embedding_dim": after[1]}
        case _NormBase():  # batch norms and instance norms
            return {"num_features": after[0]}
        case nn.LayerNorm() | nn.RMSNorm():
            return {"normalized_shape": after}
        case nn.GroupNorm():
            groups = after[0] if layer.num_groups == layer.num_channels else layer.num_groups
            return {"num_channels": after[0], "num_groups": groups}
        case nn.PReLU():
            return {"num_parameters": after[0]}
        case nn.RNNBase() | nn.RNNCellBase():  # (gates x hidden, in), of the first layer
            return {"input_size": after[1], "hidden_size": layer.hidden_size * after[0] // before[0]}
    return {}


def correct_sizes(model: nn.Module, narrowed: nn.Module, program: Program, kept: np.ndarray) -> list[Correction]:
    """Correct the attributes of ``narrowed``, a copy of ``model`` whose tensors were cut to the units ``kept``.

    Those of PyTorch's layers and of their subclasses are known (:func:`layer_sizes`). Any other is recognised by its value, and
    returned, in case it was something else:

    - An integer, if it equals a size of the module's own tensors or in a call that the module itself makes, or else a size of
      the layers in it, and all of these that it equals became the same. Where those of the layers differ, it is the one that
      is a multiple of a size in the module's calls before and after, as a split into equal parts has it. Else the name decides:
      ``in_...`` is what the first layer reads, ``out_...`` what the last one makes, ``num_features`` what the last one reads.
    - A list or tuple, if it equals the sizes in such a call, as a split or a view has them, or else number by number.
    """
    twins = dict(narrowed.named_modules())
    known = {path: layer_sizes(module, _shape(module), _shape(twins[path])) for path, module in model.named_modules()}
    sizes = _collect(model, twins, known, program, kept)
    corrections = []
    for path, twin in twins.items():
        skipped = _INTERNAL | _settings(twin) | known[path].keys()
        for attribute, value in vars(twin).items():
            after = None if attribute in skipped else _corrected(attribute, value, sizes[path])
            if after is not None and after != value:
                corrections.append(Correction(path, attribute, value, after))
    for path, attributes in known.items():
        for attribute, value in attributes.items():
            setattr(twins[path], attribute, value)
    for correction in corrections:
        setattr(twins[correction.module], correction.attribute, correction.after)
    return corrections


# ------------------------------------------------------------------------------------------ what is known of a module


@dataclass
class _Sizes:
    """The numbers of channels in a module, as far as they are known."""

    own: list[Change] = field(default_factory=list)  # of its tensors, and in the calls that it makes itself
    lists: list[tuple[tuple, tuple]] = field(default_factory=list)  # in these calls: the sizes of a split, of a view
    within: list[Change] = field(default_factory=list)  # of its tensors and those of the modules in it
    inputs: list[Change] = field(default_factory=list)  # of the layers in it, in their order
    outputs: list[Change] = field(default_factory=list)


def _collect(
    model: nn.Module, twins: Mapping[str, nn.Module], known: Mapping[str, dict[str, Any]], program: Program, kept: np.ndarray
) -> dict[str, _Sizes]:
    sizes = {path: _Sizes() for path in twins}
    for path, module in model.named_modules():
        layer = {name: (getattr(module, name), value) for name, value in known[path].items() if isinstance(value, int)}
        changes = [change for name, change in layer.items() if "groups" not in name]
        if not known[path]:
            changes = [change for a, b in _tensors(module, twins[path]) for change in zip(a.shape, b.shape, strict=True)]
        sizes[path].own += changes
        parts = path.split(".") if path else []
        for place in (sizes[".".join(parts[:n])] for n in range(len(parts) + 1)):
            place.within += changes
            place.inputs += [change for name, change in layer.items() if name.startswith("in")]
            place.outputs += [change for name, change in layer.items() if name.startswith("out")]
    everything = np.ones_like(kept)
    for node in program.nodes:
        for argument in [*node.args, *node.kwargs.values()] if node.module in sizes else []:  # none is known of a saved one
            numbers = argument if isinstance(argument, list) else [argument]
            if any(isinstance(number, Count) for number in numbers):
                before, after = ([_number(number, units) for number in numbers] for units in (everything, kept))
                sizes[node.module].own += [pair for pair in zip(before, after, strict=True) if isinstance(pair[0], int)]
                sizes[node.module].lists.append((tuple(before), tuple(after)))
    return sizes


def _tensors(module: nn.Module, narrowed: nn.Module) -> Iterator[tuple[Tensor, Tensor]]:
    """What a module itself holds, before and after."""
    for before, after in ((module._parameters, narrowed._parameters), (module._buffers, narrowed._buffers)):
        for name, tensor in before.items():
            twin = after[name]
            if tensor is not None and twin is not None:
                yield tensor, twin


def _shape(layer: nn.Module) -> Shape:
    """The shape of its weight, also where PyTorch computes it from another parameter; of its statistics if it has none."""
    tensors: dict[str, Any] = {**layer._buffers, **layer._parameters}
    for name, parts in getattr(layer, "parametrizations", {}).items():
        tensors[name] = getattr(parts, "original", getattr(parts, "original1", None))
    for name in ("weight", "weight_orig", "weight_v", "weight_ih", "weight_ih_l0", "running_mean"):
        if isinstance(tensors.get(name), Tensor):
            return tuple(tensors[name].shape)
    return ()


def _number(argument: Any, kept: np.ndarray) -> Any:
    number = argument.at(kept) if isinstance(argument, Count) else argument
    return number.multiple if isinstance(number, BatchSize) else number


# --------------------------------------------------------------------------------------------- which attributes are meant

_INTERNAL = frozenset(vars(nn.Module()))


def _settings(module: nn.Module) -> set[str]:
    """The attributes that PyTorch's own classes define, such as a kernel size; only these two may be numbers of channels."""
    from_torch = (cls for cls in type(module).__mro__ if cls.__module__.startswith("torch.nn."))
    return {name for cls in from_torch for name in getattr(cls, "__constants__", ())} - {"normalized_shape", "unflattened_size"}


def _corrected(attribute: str, value: Any, sizes: _Sizes) -> Any:
    """What ``value`` has become; None where that is not known."""
    if type(value) in (list, tuple, torch.Size):
        if any(type(number) is not int for number in value):  # such as the tensors of a recurrent layer
            return None
        became = {after for before, after in sizes.lists if before == tuple(value)}
        if len(became) == 1:
            return type(value)(became.pop())
        numbers = [_became(number, sizes.own) for number in value]
        return None if None in numbers else type(value)(numbers)
    if type(value) is not int:
        return None
    if any(before == value for before, _ in sizes.own):
        return _became(value, sizes.own)
    by_name: Sequence[Change] = []
    if attribute.startswith("in"):
        by_name = sizes.inputs
    elif attribute.startswith("out"):
        by_name = sizes.outputs[::-1]
    elif attribute in ("num_features", "head_hidden_size"):
        by_name = sizes.inputs[::-1]
    if (after := _became(value, sizes.within)) is not None:
        return after
    split = {after for before, after in sizes.within if before == value and _splits_into((value, after), sizes.own)}
    return split.pop() if len(split) == 1 else next((after for before, after in by_name if before == value), None)


def _splits_into(whole: Change, parts: Sequence[Change]) -> bool:
    """Whether some part fits into a whole as often after the cut as before."""
    return any(a != b and whole[0] % b == 0 and whole[0] // b * a == whole[1] for b, a in parts)


def _became(number: int, changes: Sequence[Change]) -> int | None:
    """What a size has become, if all changes of that size agree."""
    became = {after for before, after in changes if before == number}
    return became.pop() if len(became) == 1 else None
