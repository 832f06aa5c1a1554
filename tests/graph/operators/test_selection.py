"""Operators that take some channels or join several tensors."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import zoo
from torch import Tensor, nn

from prune_gym import compact, trace

ALONG_SPACE = {
    "sort": lambda x: x.sort(3)[0],
    "topk": lambda x: x.topk(5, 2)[0],
    "kthvalue": lambda x: x.kthvalue(2, 3, keepdim=True)[0],
    "kthvalue without its dimension": lambda x: x.kthvalue(2, 3)[0].unsqueeze(3),
    "roll": lambda x: x.roll((1, 2), (2, 3)),
    "cumprod": lambda x: x.cumprod(2),
}


@torch.no_grad()
@pytest.mark.parametrize("name", ALONG_SPACE)
def test_channels_may_go_where_places_are_ordered(name: str) -> None:
    def run(net: Any, x: Tensor) -> Tensor:
        return net.head(zoo.mean(ALONG_SPACE[name](net.a(x))))

    model = zoo.prepare(zoo.Net(run, a=zoo.conv(3, 6), head=nn.Linear(6, 2)))
    graph = trace(model, zoo.inputs(((3, 8, 8),)))
    assert zoo.groups_of(graph) == (("a", 6, 1, ("a",), False),)


@torch.no_grad()
def test_channels_stay_where_several_tables_take_entries_at_once() -> None:
    rows, columns = torch.tensor([0, 3, 5]), torch.tensor([2, 2, 7])

    def run(net: Any, x: Tensor) -> Tensor:
        return net.head(net.a(x)[:, :, rows, columns].flatten(1))

    model = zoo.prepare(zoo.Net(run, a=zoo.conv(3, 6), head=nn.Linear(18, 2)))
    x = zoo.inputs(((3, 8, 8),))
    graph = trace(model, x)
    assert graph.groups == ()
    assert zoo.relative_error(compact(model, graph, graph.full(), form="program")(*x), model(*x)) == 0


@torch.no_grad()
def test_channels_among_the_images_stay_where_images_are_split() -> None:
    def run(net: Any, x: Tensor) -> Tensor:
        parts = net.a(x).view(-1, 1, 8, 8).split(len(x))
        return net.head(zoo.mean(sum(net.b(part) for part in parts)))

    model = zoo.prepare(zoo.Net(run, a=zoo.conv(3, 6), b=zoo.conv(1, 4), head=nn.Linear(4, 2)))
    x = zoo.inputs(((3, 8, 8),))
    graph = trace(model, x)
    assert zoo.groups_of(graph) == (("b", 4, 1, ("b",), False),)
    assert zoo.relative_error(compact(model, graph, graph.full(), form="program")(*x), model(*x)) < 1e-12


@pytest.mark.parametrize(
    ("split", "op"),
    [
        (lambda x: x.chunk(2, 1), "aten.split_with_sizes.default"),
        (lambda x: x.unsafe_chunk(2, 1), "aten.unsafe_split_with_sizes.default"),
    ],
)
def test_what_may_not_be_written_to_may_not_be_in_the_program_either(split: Any, op: str) -> None:
    """PyTorch refuses to change the results of a split while it computes gradients, but for those of an unsafe one."""

    def run(net: Any, x: Tensor) -> Tensor:
        a, b = split(net.a(x))
        return net.head(zoo.mean(a * b))

    model = zoo.prepare(zoo.Net(run, a=zoo.conv(3, 6), head=nn.Linear(3, 2)))
    network = compact(model, graph := trace(model, zoo.inputs(((3, 8, 8),))), graph.full(), form="program")
    assert [node.op for node in network.program.nodes if "split" in node.op] == [op]
