"""The networks of torchvision, pruned: their own class where its forward pass allows it."""

from __future__ import annotations

import pytest
import torch
import torchvision
import zoo
from torch import nn
from zoo import random_architecture, relative_error

from prune_gym import FormError, PrunedNetwork, compact, mask, trace

# some of every family, at the smallest images they take
HANDFUL = {
    "densenet121": 32, "efficientnet_b0": 32, "googlenet": 32, "mnasnet0_5": 32, "mobilenet_v3_small": 32, "regnet_y_400mf": 32,
    "resnet18": 32, "resnext50_32x4d": 32, "shufflenet_v2_x0_5": 32, "squeezenet1_1": 48,
}  # fmt: skip
ALL = [n for n in torchvision.models.list_models(module=torchvision.models) if not n.startswith(("vit", "swin", "maxvit"))]


EVERYDAY = ("mnasnet0_5", "mobilenet_v3_small", "resnet18", "shufflenet_v2_x0_5", "squeezenet1_1")


@pytest.mark.parametrize("name", [n if n in EVERYDAY else pytest.param(n, marks=pytest.mark.slow) for n in HANDFUL])
def test_networks_of_every_family(name: str) -> None:
    check(name, HANDFUL[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", ALL)
def test_every_network(name: str) -> None:
    check(name, {"alexnet": 64, "inception_v3": 75}.get(name, 48))


def check(name: str, size: int) -> None:
    options = {"aux_logits": False, "init_weights": False} if name in ("googlenet", "inception_v3") else {}
    model = zoo.prepare(torchvision.models.get_model(name, weights=None, num_classes=10, **options))
    images = zoo.inputs(((3, size, size),))
    graph = trace(model, images)
    architecture = random_architecture(graph, 0)
    with torch.no_grad():
        original = model(*images)
        assert relative_error(compact(model, graph, graph.full(), form="program")(*images), original) < 1e-9
        expected = compact(model, graph, architecture, form="program")(*images)
        assert relative_error(original, expected) > 1e-3
        if not any(group.mixed for group in graph.groups):
            assert relative_error(expected, mask(model, graph, architecture)(*images)) < 1e-9
    cost = graph.cost(architecture)
    for form in ("program", "model"):
        try:
            network = compact(model, graph, architecture, form=form)
        except FormError as error:  # it halves its channels, and the two halves are not equally wide any more
            assert name.startswith("shufflenet")
            assert "(InvertedResidual)" in str(error)  # noqa: PT017
            continue
        assert type(network) is (type(model) if form == "model" else PrunedNetwork)
        with torch.no_grad():
            assert relative_error(network(*images), expected) < 1e-9
        assert (cost.macs, cost.params) == (zoo.macs(network, images), zoo.parameters(network))
        again = trace(network, images)
        assert [(g.name, g.layers) for g in again.groups] == [(g.name, g.layers) for g in graph.groups]
        assert again.widths.tolist() == architecture.widths.tolist()
        assert network.state_dict().keys() == model.state_dict().keys()
        train_one_step(network, images[0])
        del network  # the largest have 640 million parameters


def train_one_step(network: nn.Module, images: torch.Tensor) -> None:
    network.train()
    loss = nn.functional.cross_entropy(network(images.repeat(2, 1, 1, 1)), torch.arange(4))
    loss.backward()
    assert all(parameter.grad is not None for parameter in network.parameters())
    torch.optim.SGD(network.parameters(), lr=1e-3).step()
