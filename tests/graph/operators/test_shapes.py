"""Operators that move, merge and split dimensions."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import zoo
from torch import Tensor, nn

from prune_gym import compact, trace


@torch.no_grad()
def test_flipped_channels_go_with_those_at_the_other_end() -> None:
    def run(net: Any, x: Tensor) -> Tensor:
        x = net.a(x)
        return net.head(zoo.mean(x + x.flip(1)))

    model = zoo.prepare(zoo.Net(run, a=zoo.conv(3, 6), head=nn.Linear(6, 2)))
    x = zoo.inputs(((3, 8, 8),))
    graph = trace(model, x)
    assert zoo.groups_of(graph) == (("a", 3, 2, ("a",), False),)
    small = compact(model, graph, graph.architecture([np.array([True, False, True])]), form="program")
    assert small.get_parameter("a.weight").equal(model.a.weight[[0, 2, 3, 5]])


def test_channels_that_a_program_splits_are_split_when_it_is_traced_again() -> None:
    """There the part of the view that carries them is marked."""

    def run(net: Any, x: Tensor) -> Tensor:
        parts = net.a(x).view(len(x), 3, 4, 8, 8)
        return net.head(zoo.mean(parts.amax(1)))

    model = zoo.prepare(zoo.Net(run, a=zoo.conv(3, 12), head=nn.Linear(4, 2)))
    x = zoo.inputs(((3, 8, 8),))
    graph = trace(model, x)
    network = compact(model, graph, graph.architecture([np.array([True, False, True, True])]), form="program")
    assert "aten.unflatten.int" in [node.op for node in network.program.nodes]
    again = trace(network, x)
    (filters,) = (piece for piece in again.groups[0].slices if piece.tensor == "a.weight")
    assert filters.indices.tolist() == [[0, 3, 6], [1, 4, 7], [2, 5, 8]]
