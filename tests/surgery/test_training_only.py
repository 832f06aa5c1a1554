"""Layers that only the training mode runs, such as auxiliary heads, are narrowed with the channels that they read."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
import zoo
from torch import Tensor, nn
from zoo import conv, mean, random_architecture, relative_error

from prune_gym import compact, mask, trace


class WithAuxiliaryHead(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.bn, self.last, self.head = conv(3, 8), nn.BatchNorm2d(8), conv(8, 6), nn.Linear(6, 3)
        self.aux = nn.Sequential(conv(8, 5), nn.ReLU(), nn.AvgPool2d(4), nn.Flatten(), nn.Linear(20, 3))

    def forward(self, x: Tensor) -> Any:
        x = F.relu(self.bn(self.stem(x)))
        logits = self.head(mean(F.relu(self.last(x))))
        return (logits, self.aux(x)) if self.training else logits


@torch.no_grad()
def test_an_auxiliary_head_reads_fewer_channels() -> None:
    """It computes what it does for the masked model, whose removed channels are zero."""
    model, images = zoo.prepare(WithAuxiliaryHead()), zoo.inputs(((3, 8, 8),))
    graph = trace(model, images)
    assert [group.name for group in graph.groups] == ["stem", "last"]
    architecture = random_architecture(graph, 0)
    small = compact(model, graph, architecture, form="model")
    assert (small.aux[0].in_channels, small.aux[0].out_channels) == (architecture.widths[0], 5)
    assert model.aux[0].weight.shape == (5, 8, 3, 3)
    masked = mask(model, graph, architecture)
    assert relative_error(small.train()(*images), masked.train()(*images)) < 1e-9
    program = compact(model, graph, architecture, form="program")  # which never runs it
    assert program.state_dict()["aux.0.weight"].shape == (5, 8, 3, 3)


def test_an_auxiliary_head_that_joins_channels() -> None:
    """In training mode channel i goes with channel i + 4, so not every architecture of the evaluation mode fits."""

    class Doubled(WithAuxiliaryHead):
        def forward(self, x: Tensor) -> Any:
            x = F.relu(self.bn(self.stem(x)))
            logits = self.head(mean(F.relu(self.last(x))))
            return (logits, self.aux(x + x[:, : x.shape[1] // 2].repeat(1, 2, 1, 1))) if self.training else logits

    model = Doubled().eval()
    graph = trace(model, torch.empty(1, 3, 8, 8))
    first, second = np.ones(8, bool), np.ones(6, bool)
    first[0] = False
    with pytest.warns(UserWarning, match=r"'aux.0.weight' and what else only the training mode of Doubled uses was not cut"):
        small = compact(model, graph, graph.architecture([first, second]), form="model")
    assert small.aux[0].in_channels == 8
    assert small(torch.ones(1, 3, 8, 8)).shape == (1, 3)
    first[4] = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        small = compact(model, graph, graph.architecture([first, second]), form="model")
    assert [x.shape for x in small.train()(torch.ones(2, 3, 8, 8))] == [(2, 3), (2, 3)]


def test_a_training_mode_that_cannot_be_traced() -> None:
    class Decomposed(WithAuxiliaryHead):
        def forward(self, x: Tensor) -> Any:
            if self.training:
                x = x + torch.linalg.qr(x)[0]
            return super().forward(x)

    model = Decomposed().eval()
    graph = trace(model, torch.empty(1, 3, 8, 8))
    with pytest.warns(UserWarning, match=r"cannot be followed \(trace: operator aten.linalg_qr.*form='program'"):
        compact(model, graph, random_architecture(graph, 0), form="model")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        compact(model, graph, graph.full(), form="model")
        compact(model, graph, random_architecture(graph, 0), form="program")


def test_layers_that_nothing_uses_stay() -> None:
    class Unused(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.spare = conv(3, 6), conv(6, 2), conv(6, 6)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(F.relu(self.a(x)))

    model = Unused().eval()
    graph = trace(model, torch.empty(1, 3, 8, 8))
    small = compact(model, graph, random_architecture(graph, 0), form="model")
    assert (small.spare.in_channels, small.spare.weight.shape) == (6, (6, 6, 3, 3))
    assert small.spare.weight.data_ptr() != model.spare.weight.data_ptr()


@pytest.mark.slow
@pytest.mark.parametrize(("name", "size"), [("googlenet", 64), ("inception_v3", 299)])
def test_the_auxiliary_heads_of_torchvision(name: str, size: int) -> None:
    model = torchvision.models.get_model(name, weights=None, num_classes=10, init_weights=False)
    graph = trace(model, torch.empty(1, 3, size, size))
    small = compact(model, graph, random_architecture(graph, 0), form="model").train()
    outputs = [x for x in small(torch.randn(2, 3, size, size)) if x is not None]
    assert {x.shape for x in outputs} == {(2, 10)}
    torch.stack(outputs).sum().backward()
    assert all(parameter.grad is not None for parameter in small.parameters())
