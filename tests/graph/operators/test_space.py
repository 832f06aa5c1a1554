"""Operators that work within every channel."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import zoo
from torch import Tensor, nn

from prune_gym import compact, trace


@torch.no_grad()
def test_a_window_of_one_number_for_all_dimensions_slides_along_channels() -> None:
    def run(net: Any, x: Tensor) -> Tensor:
        x = torch.cat([net.fc(x)[:, None, None, :]] * 3, 2)
        return net.head(F.avg_pool2d(x, [3], [1]).flatten(1))

    model = zoo.prepare(zoo.Net(run, fc=nn.Linear(4, 9), head=nn.Linear(7, 2)))
    x = zoo.inputs(((4,),))
    graph = trace(model, x)
    assert zoo.groups_of(graph) == (("fc", 7, 1, ("fc",), True),)  # the first and the last one stay
    small = compact(model, graph, graph.architecture([np.array([1, 0, 1, 1, 0, 0, 1], bool)]), form="program")
    by_hand = zoo.Net(run, fc=nn.Linear(4, 6), head=nn.Linear(4, 2)).double()
    by_hand.load_state_dict({
        "fc.weight": model.fc.weight[[0, 1, 3, 4, 7, 8]], "fc.bias": model.fc.bias[[0, 1, 3, 4, 7, 8]],
        "head.weight": model.head.weight[:, [0, 2, 3, 6]], "head.bias": model.head.bias,
    })  # fmt: skip
    assert zoo.relative_error(small(*x), by_hand(*x)) < 1e-12


def test_channels_that_an_unshuffle_lays_out_may_go() -> None:
    def run(net: Any, x: Tensor) -> Tensor:
        return net.head(zoo.mean(F.pixel_unshuffle(net.a(x), 2)))

    model = zoo.prepare(zoo.Net(run, a=zoo.conv(3, 5), head=nn.Linear(20, 2)))
    graph = trace(model, zoo.inputs(((3, 8, 8),)))
    assert zoo.groups_of(graph) == (("a", 5, 1, ("a",), False),)
    (columns,) = (piece for piece in graph.groups[0].slices if piece.tensor == "head.weight")
    assert columns.indices.tolist() == np.arange(20).reshape(5, 4).tolist()
