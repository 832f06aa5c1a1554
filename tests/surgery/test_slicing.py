"""Cutting tensors down and putting them back, and what compact and mask refuse."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from zoo import conv

from prune_gym import ChannelGraph, compact, mask, trace


def pair() -> tuple[nn.Module, ChannelGraph]:
    model = nn.Sequential(conv(3, 4), nn.ReLU(), conv(4, 5), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 2))
    return model, trace(model, torch.empty(1, 3, 8, 8))


@pytest.mark.parametrize("operate", [compact, mask])
def test_a_model_that_is_not_the_one_traced(operate: Callable[..., nn.Module]) -> None:
    model, graph = pair()
    wider = nn.Sequential(conv(3, 6), nn.ReLU(), conv(6, 5), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 2))
    with pytest.raises(ValueError, match=r"model: expected the network .*'0.bias' has shape \(6,\) instead of \(4,\).*trace"):
        operate(wider, graph, graph.full())
    with pytest.raises(ValueError, match=r"'0.bias' has shape None instead of \(4,\)"):
        operate(nn.Sequential(conv(3, 4, bias=False), *list(model)[1:]), graph, graph.full())
    with pytest.raises(ValueError, match=r"'6.bias' has shape \(2,\) instead of None"):
        operate(nn.Sequential(*model, nn.Linear(2, 2)), graph, graph.full())
    with pytest.raises(TypeError, match=r"model: expected a torch.nn.Module, got OrderedDict"):
        operate(model.state_dict(), graph, graph.full())


@pytest.mark.parametrize("operate", [compact, mask])
def test_an_architecture_of_another_graph(operate: Callable[..., nn.Module]) -> None:
    model, graph = pair()
    other = trace(nn.Sequential(conv(3, 9), conv(9, 2)), torch.empty(1, 3, 8, 8))
    with pytest.raises(ValueError, match=r"architecture: expected one of this graph, got one of another"):
        operate(model, graph, other.full())
    with pytest.raises(TypeError, match=r"architecture: expected an Architecture, got tuple"):
        operate(model, graph, graph.full().kept)
    # a second trace of the same network gives the same units
    operate(model, graph, trace(model, torch.empty(2, 3, 8, 8)).full())
