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
