"""Cutting tensors down and putting them back, and what compact and mask refuse."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from architectures import traced
from torch import nn
from zoo import conv, random_architecture

from prune_gym import Architecture, ChannelGraph, compact, mask, trace
from prune_gym.surgery.slicing import like, named_tensors, scatter_tensors, slice_tensors


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


def test_a_group_without_a_unit() -> None:
    """An architecture that was made directly is checked like one from graph.architecture."""
    model, graph = pair()
    whole = graph.full().mask
    nothing_left = whole.copy()
    nothing_left[4:9] = False
    for operate in (compact, mask):
        with pytest.raises(ValueError, match=r"architecture: group '2' would lose all its 5 units; keep at least one"):
            operate(model, graph, Architecture(graph, nothing_left))
    one_left = whole.copy()
    one_left[5:9] = False
    assert compact(model, graph, Architecture(graph, one_left))[2].out_channels == 1


def test_another_network_of_the_same_names_and_widths() -> None:
    """What a unit holds decides, not what its group is called."""

    wide = trace(nn.Sequential(conv(3, 4), conv(4, 2, 1)), torch.empty(1, 3, 8, 8))
    narrow = trace(nn.Sequential(conv(3, 4), conv(4, 2, 3)), torch.empty(1, 3, 8, 8))
    assert [(g.name, g.width) for g in wide.groups] == [(g.name, g.width) for g in narrow.groups]
    with pytest.raises(ValueError, match="got one of another"):
        compact(nn.Sequential(conv(3, 4), conv(4, 2, 1)), wide, narrow.full())


# ------------------------------------------------------------------------------------------------- there and back


def test_cut_and_put_back() -> None:
    """By hand: rows 1 and 3 of a matrix and column 0 go, and come back changed; what was cut away keeps its values."""
    _, graph = pair()
    architecture = graph.architecture([np.array([1, 0, 1, 0], bool), np.array([0, 1, 1, 1, 1], bool)])
    units = {"matrix": (np.array([0, 1, 2, 3]), np.array([4, 5, -1])), "row": (None, np.array([0, 4])), "none": (None,)}
    tensors = {
        "matrix": torch.arange(12.0).view(4, 3), "row": torch.tensor([[1.0, 2.0]]), "none": torch.ones(2), "other": torch.ones(1),
    }  # fmt: skip
    small = slice_tensors(tensors, units, architecture)
    assert small["matrix"].tolist() == [[1, 2], [7, 8]]
    assert small["row"].tolist() == [[1]]
    assert small["none"] is tensors["none"]  # what loses nothing is not copied
    assert small["other"] is tensors["other"]
    back = scatter_tensors(tensors, {name: 10 * tensor for name, tensor in small.items()}, units, architecture)
    assert back["matrix"].tolist() == [[0, 10, 20], [3, 4, 5], [6, 70, 80], [9, 10, 11]]
    assert back["row"].tolist() == [[10, 2]]
    assert back["other"].tolist() == [10]
    assert tensors["matrix"].tolist() == torch.arange(12.0).view(4, 3).tolist()  # neither changes what it was given
    back["none"].zero_()
    assert small["none"].tolist() == [1, 1]


CUT = (
    "plain", "residual", "grouped", "transposed_grouped", "transposed_depthwise", "shared_weights", "shuffle_of_halves",
    "shuffle_with_groups", "unet", "squeeze_and_excitation", "convnext",
)  # fmt: skip


@pytest.mark.parametrize("name", CUT)
def test_cutting_is_undone_by_putting_back(name: str) -> None:
    model, _, graph = traced(name)
    architecture = random_architecture(graph, 0, 0.5)
    tensors = named_tensors(model, graph)
    small = slice_tensors(tensors, graph.units, architecture)
    assert any(small[key].shape != tensor.shape for key, tensor in tensors.items())
    assert all(
        torch.equal(back, tensors[key]) for key, back in scatter_tensors(tensors, small, graph.units, architecture).items()
    )
    zeros = {key: torch.zeros_like(tensor) for key, tensor in tensors.items()}
    again = slice_tensors(scatter_tensors(zeros, small, graph.units, architecture), graph.units, architecture)
    assert all(torch.equal(again[key], tensor) for key, tensor in small.items())


def test_a_network_with_constants_of_its_own_keeps_them() -> None:
    """A pruned network holds them as buffers, which may have become of another type than the graph's."""
    model, _, graph = traced("unregistered_tensors")
    network = compact(model, graph, graph.full(), form="program").half()
    tensors = named_tensors(network, graph)
    assert graph.constants.keys() < tensors.keys()
    assert all(tensors[name] is network.get_buffer(name) for name in graph.constants)


def test_like() -> None:
    parameter = nn.Parameter(torch.ones(3), requires_grad=False)
    parameter.tag = "mine"
    new = like(parameter, torch.zeros(2))
    assert type(new) is nn.Parameter
    assert (new.tolist(), new.requires_grad, new.tag) == ([0, 0], False, "mine")
    assert like(nn.Parameter(torch.ones(1)), torch.zeros(1)).requires_grad
    buffer = like(torch.ones(3), torch.zeros(2))
    assert type(buffer) is torch.Tensor
    assert not buffer.requires_grad
