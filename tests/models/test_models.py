"""The networks: what they cost, to the last integer, what they compute, and how they are asked for."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import prune_gym
from prune_gym import ChannelGraph, models
from prune_gym.models.resnet import PadShortcut

# parameters, MACs, and "FLOPs" in the convention of the RL-Pruner paper, for 32x32 images
PAPER = {
    ("vgg19", 100): (39_327_652, 417_415_168, 418_627_584),
    ("resnet56", 100): (861_620, 125_753_600, 127_932_736),
    ("resnet56", 10): (855_770, 125_747_840, 127_926_976),
    ("densenet121", 100): (7_048_548, 888_442_880, 907_932_672),
    ("googlenet", 100): (6_402_564, 531_976_192, 535_662_592),
    ("mobilenet_v3_large", 100): (4_025_832, 7_053_200, 7_472_064),
}
DIGITS = ("digits_vgg", "digits_resnet", "digits_mobilenet")


@cache
def network(name: str, num_classes: int | None = None) -> nn.Module:
    """A random network in evaluation mode, with the batch statistics of four images in its norms: with those that it is
    born with, the signal would fade on the way through a deep one and everything computed would look alike."""
    torch.manual_seed(0)
    model = models.create(name, num_classes)
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None
    with torch.no_grad():
        model.train()(images(name, 4))
    for norm in norms:
        norm.momentum = 0.1
    return model.eval()


@cache
def graph(name: str, num_classes: int | None = None) -> ChannelGraph:
    return prune_gym.trace(network(name, num_classes), images(name, 1))


def images(name: str, n: int) -> Tensor:
    shape = (1, 8, 8) if name in DIGITS else (3, 32, 32)
    return torch.randn(n, *shape, generator=torch.Generator().manual_seed(1))


def streams(name: str) -> list[tuple[str, int, int]]:
    """Groups of more than one layer: name, width, number of layers."""
    return [(group.name, group.width, len(group.layers)) for group in graph(name).groups if len(group.layers) > 1]


# ------------------------------------------------------------------------------------------------ costs


@pytest.mark.parametrize(("name", "num_classes"), PAPER)
def test_costs_are_those_of_the_paper(name, num_classes):
    params, macs, flops = PAPER[name, num_classes]
    g = graph(name, num_classes)
    assert g.cost(g.full()) == prune_gym.Cost(macs, params)
    assert g.cost(g.full(), convention="paper") == prune_gym.Cost(flops, params)
    assert sum(p.numel() for p in network(name, num_classes).parameters()) == params


@pytest.mark.parametrize(("depth", "params"), [(20, 269_722), (32, 464_154), (44, 658_586), (56, 853_018), (110, 1_727_962)])
def test_option_a_has_the_parameters_of_the_original_resnets(depth, params):
    """0.27M, 0.46M, 0.66M, 0.85M and 1.7M in table 6 of He et al. 2016, for ten classes."""
    assert sum(p.numel() for p in models.create(f"resnet{depth}_a", 10).parameters()) == params


@pytest.mark.parametrize("name", models.names())
def test_cost_counts_all_parameters(name):
    g = graph(name)
    assert g.cost(g.full()).params == sum(p.numel() for p in network(name).parameters())


# ------------------------------------------------------------------------------------------------ what they compute


@pytest.mark.parametrize("name", models.names())
def test_every_network_classifies_and_traces(name):
    x = images(name, 2)
    with torch.no_grad():
        y = network(name)(x)
    assert y.shape == (2, 10 if name in DIGITS else 100)
    assert y.isfinite().all()
    assert not torch.allclose(y[0], y[1])
    prunable = [m for m in network(name).modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert len(graph(name).prunable_layers) == len(prunable) - 1  # all but the layer that makes the output


@pytest.mark.parametrize("name", [*DIGITS, "resnet20", "resnet20_a", "mobilenet_v3_large"])
def test_pruned_by_surgery_is_pruned_by_zeros(name):
    g, x = graph(name), images(name, 3)
    rng = np.random.default_rng(0)
    kept = [rng.permutation(group.width) < max(1, group.width // 2) for group in g.groups]
    architecture = g.architecture(kept)
    with torch.no_grad():
        small = prune_gym.compact(network(name), g, architecture)(x)
        torch.testing.assert_close(small, prune_gym.mask(network(name), g, architecture)(x))


@pytest.mark.parametrize("name", [*DIGITS, "resnet20_a", "mobilenet_v3_large", "googlenet", "densenet121"])
def test_gradients_reach_every_parameter(name):
    model = models.create(name).train()
    model(images(name, 3)).square().mean().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_pad_shortcut_subsamples_and_pads_channels_with_zeros():
    x = torch.randn(2, 16, 6, 6)
    y = PadShortcut(16, 32)(x)
    assert y.shape == (2, 32, 3, 3)
    assert torch.equal(y[:, 8:24], x[:, :, ::2, ::2])
    assert not y[:, :8].any()
    assert not y[:, 24:].any()


def test_option_a_has_no_parameters_in_its_shortcuts():
    blocks = [f"layer{i}.{j}.{part}" for i in (1, 2, 3) for j in range(3) for part in ("conv1", "bn1", "conv2", "bn2")]
    modules = {name.rpartition(".")[0] for name in network("resnet20_a").state_dict()}
    assert modules == {"conv1", "bn1", "linear", *blocks}


# ------------------------------------------------------------------------------------------------ groups


def test_groups_of_resnets():
    """One stream per stage. Option A carries a stage's channels into the middle of the next stage's stream, so those go
    together with it, and a group of the wider stage holds only the channels that it adds."""
    assert streams("resnet20") == [("conv1", 16, 4), ("layer2.0.conv2", 32, 4), ("layer3.0.conv2", 64, 4)]
    assert streams("resnet20_a") == [("conv1", 16, 10), ("layer2.0.conv2", 16, 6), ("layer3.0.conv2", 32, 3)]
    single = [group.name for group in graph("resnet20_a").groups if len(group.layers) == 1]
    assert single == [f"layer{i}.{j}.conv1" for i in (1, 2, 3) for j in range(3)]


def test_groups_of_digits_vgg():
    g = graph("digits_vgg")
    assert [group.width for group in g.groups] == [16, 32, 48, 48, 64, 64, 64, 128]
    assert all(len(group.layers) == 1 for group in g.groups)
    assert g.groups[-1].name == "classifier.0"


def test_groups_of_digits_resnet():
    g = graph("digits_resnet")
    assert [(group.width, group.layers) for group in g.groups] == [
        (16, ("conv1", "layer1.0.conv2")),
        (16, ("layer1.0.conv1",)),
        (48, ("layer2.0.conv1",)),
        (48, ("layer2.0.conv2", "layer2.0.shortcut.conv")),
        (96, ("layer3.0.conv1",)),
        (96, ("layer3.0.conv2", "layer3.0.shortcut.conv")),
    ]


def test_groups_of_digits_mobilenet():
    """An inverted residual has one group for its expanded channels (expansion, depthwise, excitation) and one inside the
    squeeze; what it adds to the stream belongs to the stream."""
    g = graph("digits_mobilenet")
    expected = [(16, ("stem.conv", "blocks.0.skip.0.conv"))]
    for i, width in enumerate((48, 144, 144)):
        block = f"blocks.{i}"
        expected.append((width, (f"{block}.expand.conv", f"{block}.depthwise.conv", f"{block}.squeeze.expand")))
        expected.append((width // 4, (f"{block}.squeeze.reduce.conv",)))
        if i == 0:
            stream = ("blocks.0.project.conv", "blocks.0.skip.1.conv", "blocks.1.project.conv", "blocks.2.project.conv")
            expected.append((48, stream))
    expected += [(192, ("head.0.conv",)), (128, ("classifier.0",))]
    assert [(group.width, group.layers) for group in g.groups] == expected


# ------------------------------------------------------------------------------------------------ create


@pytest.mark.parametrize("name", [*DIGITS, "resnet20", "resnet20_a", "mobilenet_v3_large", "googlenet"])
def test_classes_and_channels_are_honoured(name):
    model = models.create(name, num_classes=7, in_channels=2).eval()
    size = 8 if name in DIGITS else 32
    assert model(torch.zeros(1, 2, size, size)).shape == (1, 7)


@pytest.mark.parametrize("name", [*DIGITS, "resnet20", "resnet20_a", "mobilenet_v3_large", "torchvision/resnet18"])
def test_create_is_determined_by_the_seed(name):
    def state(seed: int) -> dict[str, Tensor]:
        torch.manual_seed(seed)
        return models.create(name).state_dict()

    first, again, other = state(3), state(3), state(4)
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


def test_torchvision():
    model = models.create("torchvision/resnet18", num_classes=7).eval()
    assert model.conv1.kernel_size == (7, 7)
    assert model(torch.zeros(1, 3, 64, 64)).shape == (1, 7)
    assert prune_gym.trace(model, torch.zeros(1, 3, 64, 64)).groups


@pytest.mark.filterwarnings("error")
def test_torchvision_without_auxiliary_heads():
    with torch.device("meta"):
        model = models.create("torchvision/googlenet", num_classes=7)
    assert model(torch.zeros(2, 3, 64, 64, device="meta")).shape == (2, 7)


@pytest.mark.parametrize(
    ("name", "close"),
    [
        ("resnet65", "resnet56"),
        ("vgg_19", "vgg19"),
        ("digit_vgg", "digits_vgg"),
        ("torchvision/resnet81", "torchvision/resnet18"),
        ("torchvison/resnet18", "torchvision/<name>"),
    ],
)
def test_unknown_name(name, close):
    with pytest.raises(ValueError) as error:
        models.create(name)
    message = str(error.value)
    assert message.startswith("name: ")
    assert repr(name) in message
    assert f"Did you mean {close!r}?" in message
    assert all(known in message for known in ([] if name.startswith("torchvision/") else models.names()))


def test_transformers_are_not_offered():
    with pytest.raises(ValueError, match="'torchvision/vit_b_16'"):
        models.create("torchvision/vit_b_16")


@pytest.mark.parametrize("argument", ["num_classes", "in_channels"])
@pytest.mark.parametrize("value", [0, -3, 2.5, True, "10"])
def test_bad_numbers(argument, value):
    with pytest.raises((ValueError, TypeError), match=f"{argument}: expected an integer >= 1, got {value!r}"):
        models.create("resnet20", **{argument: value})


def test_torchvision_wants_three_channels():
    with pytest.raises(ValueError, match=r"in_channels: expected 3 .* got 1"):
        models.create("torchvision/resnet18", in_channels=1)
