"""Whether the traced program computes what the model computes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from prune_gym.graph.channel_graph import ChannelGraph
from prune_gym.graph.program import leaves


class VerificationError(ValueError):
    """The traced program and the model give different outputs."""


@torch.no_grad()
def verify(model: nn.Module, graph: ChannelGraph, inputs: Tensor) -> None:
    """Compare the program at full width with the model in evaluation mode, for the batch ``inputs`` and for its first image.

    Raises VerificationError where they differ.
    """
    own = {name: tensor.detach().clone() for name, tensor in [*model.named_parameters(), *model.named_buffers()]}
    program = graph.program.at(graph.full().mask)
    was_training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        for batch in (inputs, inputs[:1]):
            found = program.run({**graph.constants, **own}, [batch])
            expected = torch.func.functional_call(model, dict(own), (batch.clone(),))
            for ours, theirs in zip(leaves(found), leaves(expected), strict=True):
                if isinstance(ours, Tensor) and not torch.allclose(ours, theirs, rtol=1e-4, atol=1e-5, equal_nan=True):
                    raise VerificationError(f"model: the traced program gives another output for a batch of {len(batch)}.")
    finally:
        for module, mode in was_training.items():
            module.training = mode
