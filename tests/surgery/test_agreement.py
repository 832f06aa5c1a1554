"""The comparison of a smaller model with the traced program: what it tries both with must tell them apart."""

from __future__ import annotations

import torch
import zoo
from torch import Tensor, nn
from zoo import conv, random_architecture

from prune_gym import compact, trace


class Repeated(nn.Module):
    """The number of repetitions equals the width, and is first taken for it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.times = conv(6, 6), 6

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(self.times):
            x = self.conv(x)
        return x


def test_weights_of_zero_are_tried_with_other_values() -> None:
    """What comes of the repetitions is multiplied with zero in the model itself."""
    model = zoo.prepare(nn.Sequential(conv(3, 6), Repeated(), conv(6, 2, bias=False))).float()
    nn.init.zeros_(model[2].weight)
    graph = trace(model, torch.zeros(1, 3, 8, 8))
    small = compact(model, graph, random_architecture(graph, 0), form="model")
    assert small[1].times == 6


def test_whole_numbers_in_the_output_are_compared_too() -> None:
    def run(net: zoo.Net, x: Tensor) -> tuple[Tensor, Tensor]:
        logits = net.head(zoo.mean(net.a(x)))
        return logits, logits.argmax(1)

    model = zoo.prepare(zoo.Net(run, a=conv(3, 6), head=nn.Linear(6, 4)))
    images = zoo.inputs(((3, 8, 8),))
    graph = trace(model, images)
    architecture = random_architecture(graph, 0)
    small = compact(model, graph, architecture, form="model")
    assert small(*images)[1].equal(compact(model, graph, architecture, form="program")(*images)[1])
