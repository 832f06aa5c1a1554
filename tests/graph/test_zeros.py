"""Where a removed channel may be zeroed instead, as what computes with it gives zero again."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import zoo
from torch import Tensor, nn

from prune_gym import compact, mask, trace

STAY = {
    "clamp above a negative number": lambda x: x.clamp(min=-0.1),
    "clamp above zero": lambda x: x.clamp(min=0),
    "clamp below zero": lambda x: x.clamp(max=0),
    "clamp between": lambda x: x.clamp(-0.2, 0.3),
    "a positive power": lambda x: x.pow(2),
    "a product with anything": lambda x: x * (x.detach() * 0 + 2 + x.mean((2, 3), keepdim=True).cos()),
    "a division by a number": lambda x: x / 3,
    "zero padding": lambda x: F.pad(x, (1, 1)),
    "a cast": lambda x: x.float().double(),
    "a pooling": lambda x: F.avg_pool2d(x, 2),
}
CHANGE = {
    "clamp above a positive number": lambda x: x.clamp(min=0.1),
    "clamp below a negative number": lambda x: x.clamp(max=-0.1),
    "a power of zero": lambda x: x.abs().pow(0),
    "a sum with a number": lambda x: x + 1,
    "a sum with something else": lambda x: x + torch.ones_like(x),
    "a sum with copies of what they add up to": lambda x: x + x.sum(1, keepdim=True).expand_as(x),
    "padding with ones": lambda x: F.pad(x, (1, 1), value=1.0),
    "cosine": lambda x: x.cos(),
    "sigmoid": lambda x: x.sigmoid(),
    "softplus": F.softplus,
}


def summed(function: Any) -> nn.Module:
    def run(net: Any, x: Tensor) -> Tensor:
        return net.head(zoo.mean(net.last(function(net.a(x)).sum(1, keepdim=True))))

    return zoo.prepare(zoo.Net(run, a=zoo.conv(3, 6), last=zoo.conv(1, 4), head=nn.Linear(4, 3)))


@torch.no_grad()
@pytest.mark.parametrize(("name", "mixed"), [*((name, False) for name in STAY), *((name, True) for name in CHANGE)])
def test_a_sum_over_channels_is_mixed_unless_zeros_stay(name: str, mixed: bool) -> None:
    model = summed((STAY | CHANGE)[name])
    x = torch.randn(2, 3, 8, 8).double()
    graph = trace(model, x)
    assert [(group.name, group.mixed) for group in graph.groups] == [("a", mixed), ("last", False)]
    architecture = zoo.random_architecture(graph, 0)
    if not mixed:
        error = zoo.relative_error(mask(model, graph, architecture)(x), compact(model, graph, architecture, form="program")(x))
        assert error < 1e-12
        assert not math.isnan(error)


NOT_OF_ZERO = {
    "one over it": (lambda x: 1 / x, True),
    "something over it": (lambda x: x.detach().cos() / x, True),
    "a negative power": (lambda x: x.pow(-2), True),
    "a root below the bar": (lambda x: x.abs().rsqrt(), True),
    "a logarithm": (lambda x: x.abs().log(), True),
    "over a number": (lambda x: x / 2, False),
    "a power": (lambda x: x.abs().pow(0.5), False),
    "one over something else": (lambda x: 1 / (x.abs() + 1), False),
}


@pytest.mark.parametrize("name", NOT_OF_ZERO)
def test_channels_of_which_zero_gives_no_finite_number_are_mixed(name: str) -> None:
    """They go, and cannot be zeroed instead: times the zeros of the layer behind them they would be no number."""
    function, mixed = NOT_OF_ZERO[name]
    model = zoo.prepare(zoo.Net(lambda net, x: net.head(zoo.mean(function(net.a(x)))), a=zoo.conv(3, 6), head=nn.Linear(6, 3)))
    graph = trace(model, torch.zeros(1, 3, 8, 8).double())
    assert zoo.groups_of(graph) == (("a", 6, 1, ("a",), mixed),)
