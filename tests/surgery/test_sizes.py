"""The numbers of channels that modules keep in attributes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import zoo
from torch import Tensor, nn
from zoo import conv, random_architecture, relative_error

from prune_gym import compact, trace


def test_the_sizes_of_layers_are_corrected() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.PReLU(8),
        nn.Conv2d(8, 16, 3, padding=1, groups=8), nn.GroupNorm(4, 16), nn.Conv2d(16, 12, 1, groups=2), nn.GroupNorm(12, 12),
        nn.ConvTranspose2d(12, 12, 2, groups=12), nn.InstanceNorm2d(12), nn.ConvTranspose2d(12, 6, 2, groups=2),
        nn.BatchNorm2d(6, affine=False, track_running_stats=False), nn.GroupNorm(6, 6, affine=False),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LayerNorm(6), nn.Linear(6, 5), nn.RMSNorm(5), nn.BatchNorm1d(5),
        nn.Linear(5, 2),
    )  # fmt: skip
    graph = trace(zoo.prepare(model), torch.empty(1, 3, 8, 8, dtype=torch.float64))
    small = compact(model, graph, random_architecture(graph, 0, 0.5), form="model")
    shapes = {name: tuple(tensor.shape) for name, tensor in small.named_parameters()}
    stem = shapes["0.weight"][0]
    inner, up = shapes["5.weight"][0], 2 * shapes["9.weight"][1]
    assert 0 < stem < 8
    assert 0 < inner < 12
    assert 0 < up < 6
    assert (small[0].in_channels, small[0].out_channels, small[0].groups) == (3, stem, 1)
    assert small[1].num_features == small[2].num_parameters == stem
    assert (small[3].in_channels, small[3].out_channels, small[3].groups) == (stem, 2 * stem, stem)
    assert (small[4].num_channels, small[4].num_groups) == (2 * stem, 4)
    assert (small[5].in_channels, small[5].out_channels, small[5].groups) == (2 * stem, inner, 2)
    assert (small[6].num_channels, small[6].num_groups) == (inner, inner)
    assert (small[7].in_channels, small[7].out_channels, small[7].groups) == (inner, inner, inner)
    assert small[8].num_features == inner
    assert (small[9].in_channels, small[9].out_channels, small[9].groups) == (inner, up, 2)
    assert small[10].num_features == up
    assert (small[11].num_channels, small[11].num_groups) == (up, up)
    assert small[14].normalized_shape == (up,)
    hidden = shapes["15.weight"][0]
    assert (small[15].in_features, small[15].out_features) == (up, hidden)
    assert small[16].normalized_shape == (hidden,)
    assert small[17].num_features == hidden
    assert (small[18].in_features, small[18].out_features) == (hidden, 2)
    # attributes that equal a width by chance stay
    assert small[0].kernel_size == (3, 3)
    assert model[0].out_channels == 8


def test_attributes_of_other_modules_are_corrected() -> None:
    """As timm's modules and a user's own keep them; and what only looks like a width stays."""

    class Split(nn.Module):
        def __init__(self, c: int, rest: int):
            super().__init__()
            self.in_chs, self.c, self.sizes = c + rest, c, [c, rest]
            self.conv, self.mix = conv(c, c, groups=c), conv(c + rest, c + rest, 1)
            self.out_chs = c + rest

        def forward(self, x: Tensor) -> Tensor:
            a, b = x[:, : self.c], x.split(self.sizes, 1)[1]
            return self.mix(torch.cat([self.conv(a), b], 1))

    class Whole(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.heads = 3
            self.stem = conv(3, 12)
            self.split = Split(5, 7)
            self.last = conv(12, 9)
            self.num_features = 9
            self.rows = nn.Unflatten(1, (9, 1))
            self.fc = nn.Linear(9, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = F.avg_pool2d(self.last(self.split(self.stem(x))), 8).flatten(1)
            return self.fc(self.rows(x).reshape(-1, self.num_features))

    model = zoo.prepare(Whole())
    images = zoo.inputs(((3, 8, 8),))
    graph = trace(model, images)
    for seed in range(3):
        architecture = random_architecture(graph, seed, 0.4)
        small = compact(model, graph, architecture, form="model")
        part, rest, last = (
            small.split.conv.in_channels,
            small.stem.out_channels - small.split.conv.in_channels,
            small.last.out_channels,
        )
        assert part < 5
        assert last < 9
        assert (small.split.c, small.split.sizes) == (part, [part, rest])
        assert (small.split.in_chs, small.split.out_chs) == (part + rest, small.split.mix.out_channels)
        assert (small.num_features, small.rows.unflattened_size, small.heads) == (last, (last, 1), 3)
        assert (model.split.c, model.split.sizes, model.num_features) == (5, [5, 7], 9)


def test_a_size_of_a_modules_own_tensors_is_corrected() -> None:
    class Scale(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale, self.channels, self.nothing = zoo.parameter(1, 6, 1, 1), 6, None
            self.register_buffer("unset", None)

        def forward(self, x: Tensor) -> Tensor:
            return (x * self.scale).view(-1, self.channels * 64)

    model = zoo.prepare(nn.Sequential(conv(3, 6), Scale(), nn.Linear(6 * 64, 2)))
    graph = trace(model, zoo.inputs(((3, 8, 8),)))
    small = compact(model, graph, random_architecture(graph, 0), form="model")
    assert (small[1].scale.shape, small[1].channels) == ((1, 4, 1, 1), 4)


def test_a_name_says_which_of_several_equal_widths_is_meant() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = conv(8, 8), conv(8, 8)
            self.in_chs = self.out_chs = self.num_features = 8

        def forward(self, x: Tensor) -> Tensor:
            return self.last(F.relu(self.first(x)))

    model = zoo.prepare(nn.Sequential(conv(3, 8), Named(), conv(8, 2)))
    graph = trace(model, zoo.inputs(((3, 8, 8),)))
    architecture = graph.architecture([np.arange(8) < width for width in (5, 6, 7)])
    small = compact(model, graph, architecture, form="model")[1]
    assert (small.in_chs, small.num_features, small.out_chs) == (5, 6, 7)


def test_a_width_that_two_layers_share_is_the_one_that_is_split() -> None:
    """Both have 12 channels, of which other numbers are left; three equal parts are made of those of ``q``."""

    class Parts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.v, self.q, self.dim = conv(3, 12), conv(3, 12), 12

        def forward(self, x: Tensor) -> Tensor:
            a, b, c = self.q(x).split(self.dim // 3, 1)
            return torch.cat([self.v(x), a + b + c], 1)

    model = zoo.prepare(nn.Sequential(Parts(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 2)))
    graph = trace(model, zoo.inputs(((3, 8, 8),)))
    assert [(group.name, group.width, group.filters_per_unit) for group in graph.groups] == [("0.q", 4, 3), ("0.v", 12, 1)]
    architecture = graph.architecture([np.array([True, False, True, False]), np.arange(12) < 9])
    small = compact(model, graph, architecture, form="model")
    assert (small[0].v.out_channels, small[0].q.out_channels, small[0].dim) == (9, 6, 6)


def test_a_number_that_is_no_width_gets_its_value_back() -> None:
    """The repetitions equal the width of the layer in the module, and are used as they are."""

    class Repeated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = conv(6, 6)
            self.times = 6

        def forward(self, x: Tensor) -> Tensor:
            for _ in range(self.times):
                x = self.conv(x)
            return x

    model = zoo.prepare(nn.Sequential(conv(3, 6), Repeated(), nn.Flatten(), nn.Linear(6 * 64, 2)))
    graph = trace(model, torch.empty(1, 3, 8, 8, dtype=torch.float64))
    small = compact(model, graph, random_architecture(graph, 0), form="model")
    assert small[1].times == 6
    assert small[1].conv.in_channels == 4


@torch.no_grad()
@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM", "GRUCell"])
def test_recurrent_layers(kind: str) -> None:
    """They keep their tensors in a list as well, which is no list of sizes."""

    class Rows(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.layer, self.head = conv(3, 5), getattr(nn, kind)(5, 4), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            steps = self.stem(x).mean(3).permute(2, 0, 1)
            return self.head(self.layer(steps[0]) if "Cell" in kind else self.layer(steps)[0][-1])

    model = zoo.prepare(Rows())
    images = zoo.inputs(((3, 4, 4),))
    graph = trace(model, images)
    architecture = graph.architecture([np.arange(group.width) < group.width - 1 for group in graph.groups])
    small = compact(model, graph, architecture, form="model")
    assert (small.layer.input_size, small.layer.hidden_size) == (4, 3)
    assert relative_error(small(*images), compact(model, graph, architecture, form="program")(*images)) < 1e-9


def test_an_option_around_the_module_at_fault_gets_its_value_back() -> None:
    """The number of a branch equals a width; with another number a layer gets more channels than it takes."""

    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.branch = 4
            self.stem, self.halves, self.fc = conv(3, 4), Halves(), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = self.halves(self.stem(x)).mean((2, 3))
            return self.fc(torch.cat([x, x], 1) if self.branch == 4 else x)

    class Halves(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.width = 4
            self.conv = conv(4, 8)

        def forward(self, x: Tensor) -> Tensor:
            a, b = self.conv(x).split(self.width, 1)
            return a + b

    model = zoo.prepare(Branches())
    graph = trace(model, torch.empty(1, 3, 8, 8, dtype=torch.float64))
    kept = [np.arange(group.width) < 3 - i for i, group in enumerate(graph.groups)]
    small = compact(model, graph, graph.architecture(kept), form="model")
    assert (small.branch, small.halves.width) == (4, 2)
