"""Folded networks compute what the unfolded ones do, with fewer operators."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
import zoo
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from zoo import random_architecture, relative_error

from prune_gym import ChannelGraph, compact, models, trace
from prune_gym.scoring.folding import Inference, fold
from prune_gym.surgery.slicing import named_tensors, slice_tensors


def folded(model: nn.Module, images: list[Tensor]) -> tuple[ChannelGraph, Inference]:
    graph = trace(model, images)
    return graph, fold(graph, named_tensors(model, graph))


def agrees(model: nn.Module, images: list[Tensor], seed: int) -> None:
    graph, network = folded(model, images)
    for architecture in (graph.full(), random_architecture(graph, seed)):
        tensors = slice_tensors(network.tensors, network.units, architecture)
        with torch.no_grad():
            output = network.program.at(architecture.mask).run(tensors, [x.clone() for x in images])
            assert relative_error(output, compact(model, graph, architecture, form="program")(*images)) < 1e-9


def norms(network: Inference) -> int:
    return sum(node.op == "aten.batch_norm.default" for node in network.program.nodes)


@pytest.mark.parametrize("name", zoo.NETWORKS)
def test_the_function_stays(name: str) -> None:
    agrees(zoo.built(name), zoo.inputs(zoo.NETWORKS[name].shapes), seed=0)


@settings(max_examples=30)
@given(
    st.lists(st.tuples(st.sampled_from(zoo.KINDS), st.integers(0, 4), st.integers(0, 3)), max_size=5),
    st.booleans(),
    st.integers(0, 99),
)
def test_the_function_of_random_networks_stays(recipe: list[tuple[str, int, int]], flatten: bool, seed: int) -> None:
    agrees(zoo.prepare(zoo.random_network(recipe, flatten), seed), zoo.inputs(((3, 4, 4),)), seed)


@pytest.mark.parametrize(("name", "left"), [("vgg19", 0), ("resnet20", 0), ("googlenet", 0), ("mobilenet_v3_large", 1)])
def test_every_norm_behind_a_convolution_goes(name: str, left: int) -> None:
    """The one that is left is behind the linear layer of MobileNetV3's head."""
    model = models.create(name).eval()
    _, network = folded(model, [torch.zeros(1, 3, 32, 32)])
    assert norms(network) == left
    assert sum("running_mean" in tensor for tensor in network.tensors) == left


def test_norms_before_a_convolution_stay() -> None:
    _, network = folded(models.create("densenet121").eval(), [torch.zeros(1, 3, 32, 32)])
    convolutions_of_layers = 6 + 12 + 24 + 16
    assert norms(network) > convolutions_of_layers  # the first norm of every layer reads a concatenation


class Awkward(nn.Module):
    """Norms that must stay, or that fold only if care is taken."""

    def __init__(self, kind: str):
        super().__init__()
        self.kind = kind
        self.first, self.last = nn.Conv2d(3, 6, 3, padding=1), nn.Linear(6, 4)
        self.a, self.b = nn.BatchNorm2d(6), nn.BatchNorm2d(6, affine=False)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        y = self.first(x)
        match self.kind:
            case "read twice":
                y = self.a(y) + y
            case "called twice":  # one convolution, two norms
                y = self.a(y) + self.b(self.first(x.flip(3)))
            case "input changed in between":
                x = x.mul_(2)
                y = self.a(y) + x.mean()
            case "output changed in between":
                y = self.a(y.relu_())
            case "statistics of the batch":
                y = F.batch_norm(y, None, None, self.a.weight, self.a.bias, training=True)
            case "also an output":
                return self.last(self.a(y).relu().mean((2, 3))), y
        return self.last(y.relu().mean((2, 3)))


@pytest.mark.parametrize(
    ("kind", "left"),
    [
        ("read twice", 1),
        ("called twice", 0),
        ("input changed in between", 0),
        ("output changed in between", 1),
        ("statistics of the batch", 1),
        ("also an output", 1),
    ],
)
def test_awkward_norms(kind: str, left: int) -> None:
    model, images = zoo.prepare(Awkward(kind)), zoo.inputs(((3, 8, 8),))
    agrees(model, images, seed=1)
    assert norms(folded(model, images)[1]) == left


@pytest.mark.parametrize(("layer", "left"), [(zoo.conv(4, 6, groups=2), 0), (nn.ConvTranspose2d(4, 6, 3), 1)])
def test_norms_behind_grouped_convolutions_go_and_behind_transposed_ones_stay(layer: nn.Module, left: int) -> None:
    model = zoo.prepare(nn.Sequential(zoo.conv(3, 4), layer, nn.BatchNorm2d(6), zoo.conv(6, 2)))
    agrees(model, zoo.inputs(((3, 8, 8),)), seed=1)
    assert norms(folded(model, zoo.inputs(((3, 8, 8),)))[1]) == left


def test_norms_of_what_no_single_operator_made_stay() -> None:
    """The image, and the parts of a split."""

    def run(net: zoo.Net, x: Tensor) -> Tensor:
        a, b = net.conv(net.first(x)).split((2, 4), 1)
        return net.last((net.a(a).mean(1, keepdim=True) + net.b(b)).relu().mean((2, 3)))

    model = zoo.prepare(zoo.Net(
        run, first=nn.BatchNorm2d(3), conv=zoo.conv(3, 6), a=nn.BatchNorm2d(2), b=nn.BatchNorm2d(4), last=nn.Linear(4, 2),
    ))  # fmt: skip
    images = zoo.inputs(((3, 8, 8),))
    agrees(model, images, seed=1)
    assert norms(folded(model, images)[1]) == 3


def test_nothing_is_changed_in_place() -> None:
    model, images = zoo.prepare(Awkward("called twice")), zoo.inputs(((3, 8, 8),))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    graph, _ = folded(model, images)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert any(node.op == "aten.batch_norm.default" for node in graph.program.nodes)
