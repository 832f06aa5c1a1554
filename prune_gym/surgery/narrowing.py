"""The model form of a pruned network: a copy of the model, of the same class, whose layers are narrower."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from prune_gym.graph.channel_graph import Architecture, ChannelGraph
from prune_gym.graph.copying import attribute_tensors, copy_model
from prune_gym.surgery.agreement import Disagreement, find_disagreement
from prune_gym.surgery.sizes import Correction, correct_sizes
from prune_gym.surgery.training_only import cut_training_only


class FormError(ValueError):
    """The model's own forward pass does not compute the pruned network, whichever sizes its modules have."""


def narrow(model: nn.Module, graph: ChannelGraph, architecture: Architecture, small: Mapping[str, Tensor]) -> nn.Module:
    """A copy of ``model`` with the tensors ``small``, by name, and with the sizes in its modules' attributes corrected.

    It is compared with the program on random images, see :func:`find_disagreement`. Where the two differ, attributes that were
    only recognised by their value get it back: those of the module at fault, or else of the nearest module around it that has
    some, or else all. Raises :class:`FormError` where it was not that. It names the module of the disagreement that showed latest
    in the forward pass, as earlier ones may have come from such an attribute.
    """
    small = {**small, **cut_training_only(model, graph, architecture, small)}
    registered = [*model.named_parameters(), *model.named_buffers()]
    twins = {id(tensor): small[name] for name, tensor in registered}
    narrowed = copy_model(model, twins | _cut_attributes(model, graph, small))
    program = graph.program.at(architecture.mask)
    constants = {name: small[name] for name in graph.constants}
    doubtful = correct_sizes(model, narrowed, graph.program, architecture.mask)
    furthest: Disagreement | None = None
    while (found := find_disagreement(narrowed, program, constants, graph.example)) is not None:
        if furthest is None or found.progress > furthest.progress:
            furthest = found
        if not doubtful:
            raise FormError(_message(model, furthest))
        undone = _nearest(doubtful, found.module) or doubtful
        for correction in undone:
            setattr(narrowed.get_submodule(correction.module), correction.attribute, correction.before)
        doubtful = [correction for correction in doubtful if correction not in undone]
    return narrowed


def _nearest(corrections: Sequence[Correction], path: str) -> list[Correction]:
    """The corrections in the module ``path``, or else in the nearest one around it that has some."""
    around = [c for c in corrections if f"{path}.".startswith(f"{c.module}." if c.module else "")]
    nearest = max((c.module for c in around), key=len, default="")
    return [c for c in around if c.module == nearest]


def _message(model: nn.Module, found: Disagreement) -> str:
    kind = type(model.get_submodule(found.module)).__name__
    where = f"module {found.module!r} ({kind})" if found.module else f"the forward pass of {kind}"
    return (
        f"{where} does not work at the widths of this architecture: {found.reason}. It may hold a number of channels, or need "
        "parts of the same size; take them from the shape of its input, or use form='program'."
    )


def _cut_attributes(model: nn.Module, graph: ChannelGraph, small: Mapping[str, Tensor]) -> dict[int, Tensor]:
    """Tensors that modules hold without registering them, cut like the constants of the graph that they are, by their ids."""
    cut: dict[int, Tensor] = {}
    left = {name: constant for name, constant in graph.constants.items() if name in graph.units}
    for tensor in attribute_tensors(model) if left else ():
        for name, constant in left.items():
            if tensor.dtype == constant.dtype and torch.equal(tensor.to(constant.device), constant):
                cut[id(tensor)] = small[name].clone()
                del left[name]
                break
    return cut
