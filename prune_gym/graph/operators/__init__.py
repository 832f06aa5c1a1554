"""How channel labels flow through ATen operators: one rule per operator, found by its name and never guessed.

A rule reads a :class:`Call`, says what goes together in a :class:`~prune_gym.graph.labels.LabelBook`, and returns the labels
of every dimension of every output. Labels of an input that the rule neither returns nor mentions are bound. Where an argument
depends on how many channels are kept, the rule replaces it by a :class:`Size` of labels, so that the recorded call runs at
every width.

To teach the tracer a new operator, write its rule in the module it belongs to and decorate it with ``@rule("name")``.
"""

from __future__ import annotations

from functools import cache

import torch

from prune_gym.graph.operators import mixing, products, selection, shapes, space
from prune_gym.graph.operators.call import RULES, BatchCount, Call, CostTerm, Rule, Size, Traced
from prune_gym.graph.operators.elementwise import pointwise
from prune_gym.graph.operators.zeros import labels_that_cannot_be_zeroed, zeros_stay

__all__ = [
    "OUT_OF_PLACE", "REPLACEMENTS", "BatchCount", "Call", "CostTerm", "Size", "Traced", "find_rule",
    "labels_that_cannot_be_zeroed", "mixing", "products", "selection", "shapes", "space", "zeros_stay",
]  # fmt: skip

REPLACEMENTS = {  # what rules record in place of what was dispatched
    "aten.batch_norm.default", "aten.layer_norm.default", "aten.group_norm.default", "aten.instance_norm.default",
    "aten.dropout.default", "aten.feature_dropout.default", "aten.alpha_dropout.default", "aten.feature_alpha_dropout.default",
    "aten.to.dtype", "aten.cdist.default", "aten.adaptive_avg_pool1d.default", "aten.adaptive_avg_pool2d.default",
    "aten.adaptive_avg_pool3d.default", "aten.split_with_sizes.default", "aten.unsafe_split_with_sizes.default",
    "aten.flatten.using_ints", "aten.unflatten.int", "aten.conv1d.default", "aten.conv2d.default", "aten.conv3d.default",
    "aten.conv_transpose1d.default", "aten.conv_transpose2d.input", "aten.conv_transpose3d.input",
}  # fmt: skip

OUT_OF_PLACE = {  # what is recorded in place of operators that give a tensor another shape in place, which no file may hold
    "aten.transpose_.default": "aten.transpose.int", "aten.t_.default": "aten.t.default",
    "aten.unsqueeze_.default": "aten.unsqueeze.default", "aten.detach_.default": "aten.detach.default",
}  # fmt: skip


@cache
def find_rule(func: torch._ops.OpOverload) -> Rule | None:
    """The rule for an operator: by its name, in-place variants included, else the one for pointwise operators."""
    name = func._schema.name.removeprefix("aten::")
    if name == "view" and func._overloadname == "dtype":  # the same bytes as other numbers
        return None
    base = name.removesuffix("_")
    known = RULES.get(name) or RULES.get(base)
    if known is None:  # PyTorch tags pointwise operators, though not every in-place variant
        functional = getattr(getattr(torch.ops.aten, base, None), func._overloadname, func)
        if torch.Tag.pointwise in func.tags or torch.Tag.pointwise in functional.tags:
            known = pointwise
    return known
