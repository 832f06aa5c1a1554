"""Why an operator cannot be traced, and what to do about it."""

from __future__ import annotations

import torch

_DETECTION = ("nms", "roi_align", "roi_pool", "ps_roi_align", "ps_roi_pool", "nonzero", "masked_select", "unique", "_unique2")


DEPENDS_ON_VALUES = (
    "the size of its result depends on values, as in the post-processing of a detection network; trace a module of your own that "
    "holds the backbone and head only."
)


def advice(func: torch._ops.OpOverload) -> str:
    """Why an operator cannot be traced, and what to do about it."""
    name = func._schema.name.partition("::")[2]
    if name in ("_local_scalar_dense", "item", "is_nonzero", "equal"):
        return (
            "has no rule for channel labels: Python reads a tensor's value there (.item(), float(x), an `if` or `assert` on a "
            "tensor), which a trace cannot follow; remove the check, or compute with tensors only."
        )
    if name in _DETECTION or torch.Tag.dynamic_output_shape in func.tags:
        return f"has no rule for channel labels: {DEPENDS_ON_VALUES}"
    if torch.Tag.nondeterministic_seeded in func.tags or name.startswith(("rand", "normal", "bernoulli", "uniform")):
        return (
            "has no rule for channel labels: it draws random numbers, also in evaluation mode; draw them outside of the model "
            "and pass them as an input, or draw only `if self.training`."
        )
    if func.namespace in ("c10d", "_c10d_functional"):
        return (
            "has no rule for channel labels: it talks to other processes; trace the network inside of DistributedDataParallel, "
            "model.module."
        )
    if name == "deform_conv2d":
        return (
            "has no rule for channel labels: a deformable convolution reads its input at places that other channels say; put an "
            "ordinary convolution in its place and train it, or trace the parts before and behind it as models of their own."
        )
    if "fake_quant" in name or "fused_moving_avg_obs" in name or func.namespace in ("quantized", "quantized_decomposed"):
        return (
            "has no rule for channel labels: the model is prepared for quantisation; prune the floating-point model first, then "
            "quantise the pruned one."
        )
    return (
        "has no rule for channel labels; add one to prune_gym/graph/operators, or rewrite that part of the forward pass with "
        "known operators."
    )
