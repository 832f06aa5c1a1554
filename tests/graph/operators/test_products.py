"""Matrix products: what a bias, and what either operand, adds where a channel is zeroed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
import zoo
from torch import Tensor, nn

from prune_gym import trace


@pytest.mark.parametrize(("function", "mixed"), [(torch.sin, False), (torch.cos, True)])
def test_a_sum_behind_a_product_is_mixed_where_its_bias_is_not_zero(function: Any, mixed: bool) -> None:
    """The bias of a zeroed channel is the sine of zero, or its cosine."""

    def run(net: Any, x: Tensor) -> Tensor:
        return net.head(F.linear(zoo.mean(x), net.fc.weight, function(net.fc.bias)).sum(1, keepdim=True))

    graph = trace(zoo.prepare(zoo.Net(run, fc=nn.Linear(3, 5), head=nn.Linear(1, 2))), torch.ones(1, 3, 8, 8).double())
    assert zoo.groups_of(graph) == (("fc", 5, 1, ("fc",), mixed),)
