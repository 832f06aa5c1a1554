"""Parts of which the networks of the zoo are made."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


class Net(nn.Module):
    """Members by name, and a function of the network and its inputs as its forward pass."""

    def __init__(self, run: Callable[..., Any], **members: Any):
        super().__init__()
        for name, member in members.items():
            setattr(self, name, member)
        self.run = run

    def forward(self, *images: Tensor) -> Any:
        return self.run(self, *images)


def conv(inputs: int, outputs: int, kernel: int = 3, **options: Any) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, **{"padding": kernel // 2, **options})


def parameter(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(shape))


def mean(x: Tensor) -> Tensor:
    return x.mean((2, 3))
