"""Groups and costs where something is easily forgotten: the very first filter, and products in which some channels stay."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import zoo
from torch import Tensor, nn
from zoo import Net, conv, mean

from prune_gym import compact, mask, trace


def test_a_first_layer_of_one_filter_is_a_group() -> None:
    """Its only filter is the first of all units."""
    model = zoo.prepare(nn.Sequential(conv(3, 1), nn.GroupNorm(1, 1), conv(1, 4), nn.Flatten(), nn.Linear(256, 2)))
    graph = trace(model, zoo.inputs(((3, 8, 8),)))
    assert zoo.groups_of(graph) == (("0", 1, 1, ("0",), True), ("2", 4, 1, ("2",), False))
    assert [(piece.tensor, piece.dim, piece.indices.tolist()) for piece in graph.groups[0].slices] == [
        ("0.weight", 0, [[0]]), ("0.bias", 0, [[0]]), ("1.weight", 0, [[0]]), ("1.bias", 0, [[0]]), ("2.weight", 1, [[0]]),
    ]  # fmt: skip
    assert [bound.layer for bound in graph.bound_layers] == ["4"]


@torch.no_grad()
def test_a_selected_channel_is_found_when_the_first_one_is_gone() -> None:
    """The place of the second channel is the number of channels that are kept before it."""

    def run(net: Net, x: Tensor) -> Tensor:
        x = net.a(x)
        return net.head(mean(x * x[:, 1].unsqueeze(1).sigmoid()))

    model = zoo.prepare(Net(run, a=conv(3, 4), head=nn.Linear(4, 2)))
    x = zoo.inputs(((3, 8, 8),))
    graph = trace(model, x)
    assert [group.width for group in graph.groups] == [3]
    architecture = graph.architecture([np.array([False, True, True])])
    small = compact(model, graph, architecture, form="program")
    assert small.get_parameter("a.weight").equal(model.a.weight[1:])
    assert zoo.relative_error(small(*x), mask(model, graph, architecture)(*x)) < 1e-12


def test_a_parameter_without_an_entry_belongs_to_no_unit() -> None:
    def run(net: Net, x: Tensor) -> Tensor:
        return net.head(torch.cat([mean(net.a(x)), net.nothing], 1))

    model = zoo.prepare(Net(run, a=conv(3, 4), nothing=zoo.parameter(0), head=nn.Linear(4, 2)))
    graph = trace(model, zoo.inputs(((3, 8, 8),)))
    assert zoo.groups_of(graph) == (("a", 4, 1, ("a",), False),)
    assert "nothing" not in graph.units


def test_the_first_operator_that_mixes_a_group_is_named() -> None:
    def run(net: Net, x: Tensor) -> Tensor:
        x = net.a(x)
        return net.head(mean(net.last(x.softmax(1) + x.amax(1, keepdim=True))))

    graph = trace(zoo.prepare(Net(run, a=conv(3, 4), last=conv(4, 4), head=nn.Linear(4, 2))), zoo.inputs(((3, 8, 8),)))
    assert [group.mixed_by for group in graph.groups] == ["aten._softmax in the model itself", ""]


@pytest.mark.parametrize(("alone", "groups"), [(slice(0, 1), [("c", 5), ("b", 5)]), (slice(1, 6), [("c", 1), ("b", 5)])])
def test_a_third_size_of_a_product_stays_also_where_another_varies_only_in_part(alone: slice, groups: list) -> None:
    """Some channels of ``c`` are read by themselves and stay. The product of the matrices made of ``a`` and ``b``, and of ``b``
    and ``c``, has three sizes all the same; one of them must not vary, lest the cost of a layer have three factors."""

    def run(net: Net, x: Tensor) -> Tensor:
        x = mean(x)
        c, a, b = net.c(x), net.a(x), net.b(x)
        product = torch.bmm(a.unsqueeze(2) * b.unsqueeze(1), b.unsqueeze(2) * c.unsqueeze(1))
        return product.sum((1, 2)).unsqueeze(1) + c[:, alone]

    model = zoo.prepare(Net(run, a=nn.Linear(3, 4), b=nn.Linear(3, 5), c=nn.Linear(3, 6)))
    x = zoo.inputs(((3, 8, 8),))
    graph = trace(model, x)
    assert [(group.name, group.width) for group in graph.groups] == groups
    architecture = zoo.random_architecture(graph, 0, 0.5)
    small = compact(model, graph, architecture, form="program")
    assert graph.cost(architecture).macs == zoo.macs(small, x)
