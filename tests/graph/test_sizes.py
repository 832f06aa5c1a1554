"""Which sizes of a forward pass follow the batch, which are constants, and which image sizes a program takes."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import zoo
from torch import Tensor, nn

from prune_gym import compact, trace
from prune_gym.graph.operators import BatchCount
from prune_gym.graph.sizes import _upper_twins
from prune_gym.surgery.pruned_network import PrunedNetwork


class Then(nn.Module):
    """A convolution, a function in a module of its own, and another convolution."""

    def __init__(self, function: Any):
        super().__init__()
        self.first, self.second, self.third = nn.Conv2d(3, 4, 1), Function(function), nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.third(self.second(self.first(x)))


class Function(nn.Module):
    def __init__(self, function: Any):
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(x)


def small(model: nn.Module, size: int = 8) -> Any:
    graph = trace(model, torch.randn(4, 3, size, size, dtype=next(model.parameters()).dtype))
    return compact(model, graph, graph.full(), form="program")


# ------------------------------------------------------------------------------------------------ the batch

FOLLOWED = {
    "a multiple of a batch size of the trace": lambda x: x + 2042 + 2018,
    "a batch size of the trace": lambda x: x * 1021 - 1009,
    "the batch size": lambda x: x * len(x),
    "one more": lambda x: x / (x.shape[0] + 1),
    "one less": lambda x: x - (x.shape[0] - 1),
    "several times": lambda x: x * (3 * x.shape[0] - 2),
    "all numbers": lambda x: x * x.numel(),
    "from the end": lambda x: x[-len(x) :],
    "differences of neighbours": lambda x: torch.cat([x[:1], x[1:] - x[:-1]]),
    "a row more": lambda x: x * torch.ones(len(x) + 1, dtype=x.dtype)[1:][:, None, None, None],
    "merged without the first image": lambda x: torch.cat(
        [x[:1], (x[1:].reshape((len(x) - 1) * 4, 8, 8) * 2).view(len(x) - 1, 4, 8, 8)]
    ),
    "counted from zero": lambda x: x + torch.arange(len(x), dtype=x.dtype)[:, None, None, None],
    "images and channels in one": lambda x: x.reshape(len(x) * 4, 1, 8, 8).mul(2).reshape(len(x), 4, 8, 8),
}  # fmt: skip


@torch.no_grad()
@pytest.mark.parametrize("name", FOLLOWED)
def test_sizes_that_follow_the_batch(name: str) -> None:
    model = zoo.prepare(Then(FOLLOWED[name]))
    network = small(model)
    for n in (2, 3, 7):
        x = torch.randn(n, 3, 8, 8).double()
        assert zoo.relative_error(network(x), model(x)) < 1e-12


REFUSED = {
    "a root": lambda x: x * x.shape[0] ** 0.5,
    "a fraction": lambda x: x * (1000 / x.numel()),
    "a float": lambda x: x * float(len(x)),
    "half": lambda x: torch.cat([x[len(x) // 2 :], x[: len(x) // 2]]),
    "halves": lambda x: torch.cat(x.chunk(2, 0)[::-1]),
    "a square": lambda x: x * x.shape[0] ** 2,
    "pairs": lambda x: x * (x.shape[0] * (x.shape[0] - 1) // 2),
    "a rest": lambda x: x * (x.shape[0] % 3),
    "a limit": lambda x: x * min(len(x), 64),
    "a branch": lambda x: x + 1 if len(x) > 2 else x,
    "a branch of the same length": lambda x: x + 1 if len(x) > 2 else x * 2,
    "another tensor": lambda x: (x + 1, x + 2)[len(x) > 2],
    "a loop": lambda x: torch.stack([row * 2 for row in x]),
    "a table of its length": lambda x: x * torch.tensor([1.0] * len(x))[:, None, None, None],
    "a table of its values": lambda x: x * torch.tensor([len(x) / 2, 1.0, 1.0, 1.0])[:, None, None],
    "a string": lambda x: F.pad(x, (1, 1, 1, 1), mode="reflect" if len(x) > 2 else "replicate"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_sizes_that_cannot_be_followed_are_refused(name: str) -> None:
    with pytest.raises(
        ValueError, match=r"depends on the batch size in a way that cannot be followed.* module '(second|third)' "
    ):
        small(Then(REFUSED[name]))


def test_images_compared_with_each_other_are_refused() -> None:
    with pytest.raises(ValueError, match=r"module 'second', aten\.bmm.*shape \(1, n, n\) for a batch of n images"):
        small(Then(lambda x: x * torch.einsum("nchw,mchw->nm", x, x).mean()))


@torch.no_grad()
def test_sizes_in_the_output_follow_too() -> None:
    model = zoo.prepare(Function(lambda x: {"x": x * 2, "n": len(x), "before": len(x) - 1, "size": x.shape[2]}))
    graph = trace(model, torch.ones(4, 3, 8, 8))
    output = compact(model, graph, graph.full(), form="program")(torch.ones(7, 3, 8, 8))
    assert (output["n"], output["before"], output["size"]) == (7, 6, 8)


def test_a_forward_pass_for_one_batch_size_only_is_refused() -> None:
    with pytest.raises(ValueError, match=r"shape \(4, 3, 8, 8\), in module 'second', where the trace puts 2"):
        small(Then(lambda x: x.view(4, 4, 8, 8)))


def test_batch_sizes_of_a_trace_are_the_larger_of_twin_primes() -> None:
    assert list(itertools.islice(_upper_twins(1000), 5)) == [1021, 1033, 1051, 1063, 1093]


def test_a_batch_count_is_a_number() -> None:
    count = BatchCount(2044, 2, 2)
    assert count == 2044
    assert (count.multiple, count.offset) == (2, 2)


# ------------------------------------------------------------------------------------------------ the image


def convolutional(scale: Any = lambda x: x) -> nn.Module:
    return zoo.prepare(nn.Sequential(
        nn.Conv2d(3, 6, 3, 2, 1), nn.BatchNorm2d(6), nn.ReLU(), Function(scale), nn.Conv2d(6, 5, 3, padding=1),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 3),
    ))  # fmt: skip


ANY_SIZE = {
    "plain": lambda x: x,
    "twice as large": lambda x: F.interpolate(x, scale_factor=2.0, mode="nearest"),
    "halved": lambda x: F.max_pool2d(x, 2),
    "exactly halved": lambda x: F.pixel_shuffle(F.pixel_unshuffle(x, 2), 2),
    "flipped": lambda x: x.flip(-1),
    "smoothly twice as large": lambda x: F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True),
    "without a border": lambda x: x[:, :, 1:-1, 1:-1],
}


@torch.no_grad()
@pytest.mark.parametrize("name", ANY_SIZE)
def test_other_image_sizes_where_nothing_depends_on_them(name: str) -> None:
    model = convolutional(ANY_SIZE[name])
    network = small(model, 16)
    assert network.program.shapes == ((None, 3, None, None),)
    for shape in ((2, 3, 16, 16), (3, 3, 24, 40), (2, 3, 8, 64)):
        x = torch.randn(shape).double()
        assert zoo.relative_error(network(x), model(x)) < 1e-12


ONE_SIZE = {
    "interpolated to a size": lambda x: F.interpolate(F.max_pool2d(x, 2), size=x.shape[2:]),
    "coordinates": lambda x: x + torch.arange(x.shape[-1], dtype=x.dtype),
    "scaled": lambda x: x * x.shape[-1] ** -0.5,
    "a branch": lambda x: x if x.shape[-1] < 12 else F.max_pool2d(x, 2),
    "half of it": lambda x: x[..., : x.shape[-1] // 2],
    "padded to a multiple": lambda x: F.max_pool2d(F.pad(x, (0, -x.shape[3] % 4, 0, -x.shape[2] % 4)), 4),
    "windows": lambda x: x.view(-1, 6, x.shape[2] // 2, 2, x.shape[3]).amax(3),
    "what is left of it": lambda x: x.view(len(x), 6, -1, 4),
    "a fixed table": lambda x: x + torch.ones(8, dtype=x.dtype),
    "a constant": lambda x: x + torch.tensor([float(x.shape[3])], dtype=x.dtype),
}


@torch.no_grad()
@pytest.mark.parametrize("name", ONE_SIZE)
def test_other_image_sizes_are_refused_where_something_depends_on_them(name: str) -> None:
    model = convolutional(ONE_SIZE[name])
    network = small(model, 16)
    x = torch.randn(3, 3, 16, 16).double()
    assert zoo.relative_error(network(x), model(x)) < 1e-12
    for shape in ((3, 3, 24, 16), (3, 3, 16, 24), (3, 3, 17, 17)):
        with pytest.raises(ValueError, match=r"input 0: expected a tensor of shape \(any, 3, 16, 16\), as traced, got \(3, 3, "):
            network(torch.randn(shape).double())


def test_channels_features_and_dimensions_are_always_fixed() -> None:
    network = small(convolutional(), 16)
    for shape in ((3, 4, 16, 16), (3, 3, 16), (3, 1, 3, 16, 16)):
        with pytest.raises(ValueError, match=r"shape \(any, 3, any, any\), as traced"):
            network(torch.randn(shape).double())
    model = zoo.prepare(nn.Linear(6, 3))
    graph = trace(model, torch.ones(2, 6).double())
    with pytest.raises(ValueError, match=r"shape \(any, 6\), as traced, got \(2, 7\)"):
        compact(model, graph, graph.full(), form="program")(torch.ones(2, 7).double())


def test_all_inputs_are_checked() -> None:
    model = zoo.prepare(zoo.Net(lambda net, x, y, z: net.a(x) * y.mean() + z.sum(1)[:, None, None, None], a=zoo.conv(3, 4)))
    graph = trace(model, [torch.ones(2, 3, 8, 8).double(), torch.ones(5, 7).double(), torch.ones(2, 6).double()])
    assert graph.program.shapes == ((None, 3, None, None), (5, 7), (None, 6))
    network = compact(model, graph, graph.full(), form="program")
    x, y, z = torch.ones(4, 3, 9, 8).double(), torch.ones(5, 7).double(), torch.ones(4, 6).double()
    assert network(x, y, z).shape == (4, 4, 9, 8)
    with pytest.raises(ValueError, match=r"input 1: expected a tensor of shape \(5, 7\), as traced, got \(4, 7\)"):
        network(x, y[:4], z)
    with pytest.raises(ValueError, match=r"input 2: expected as many images as in input 0, 4, got 1"):
        network(x, y, z[:1])


@torch.no_grad()
def test_the_check_survives_export_with_a_dynamic_batch() -> None:
    model = convolutional(ONE_SIZE["windows"]).float()
    network = small(model, 16)
    exported = torch.export.export(
        network, (torch.randn(4, 3, 16, 16),), dynamic_shapes={"inputs": ({0: torch.export.Dim("n")},)}
    )
    x = torch.randn(7, 3, 16, 16)
    assert zoo.relative_error(exported.module()(x), model(x)) < 1e-5


# ------------------------------------------------------------------------------------------------ number types

CASTS = {
    "zeros": (lambda x: torch.cat([x, torch.zeros(len(x), 1, 8, 8, dtype=x.dtype)], 1)[:, :4], None),
    "cast to its own type": (lambda x: (x + torch.arange(8).to(x.dtype)).type(x.dtype), None),
    "as another": (lambda x: torch.arange(8).type_as(x) * x, None),
    "an explicit cast": (lambda x: (x.float() * 3).to(x.dtype), None),
    "an explicit type": (lambda x: (x.to(torch.float32).cumsum(-1)).to(x), None),
    "a type by name": (lambda x: x.to(dtype=torch.double).sin().to(x.dtype), None),
    "a sum in its own type": (lambda x: x * x.sum(1, keepdim=True, dtype=x.dtype), None),
    "in single precision": (lambda x: F.softmax(x, 1, dtype=torch.float32).to(x.dtype), torch.float32),
    "its smallest number": (lambda x: x.clamp(min=torch.finfo(x.dtype).eps), torch.float32),
}


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("name", CASTS)
def test_another_number_type(name: str, dtype: torch.dtype) -> None:
    """A program may change its type where it follows the network's; else it says so."""
    function, only = CASTS[name]
    model = zoo.prepare(Then(function)).float()
    network: PrunedNetwork = small(model)
    assert network.program.dtype is only
    x = torch.randn(3, 3, 8, 8)
    assert zoo.relative_error(network(x), model(x)) < 1e-6
    model, network, x = model.to(dtype), network.to(dtype), x.to(dtype)
    if only is None:
        output, expected = network(x), model(x)
        assert output.dtype is expected.dtype is dtype
        assert torch.equal(output, expected)
    else:
        with pytest.raises(ValueError, match=rf"input 0: expected torch.float32, as traced, got {dtype}"):
            network(x)


@torch.no_grad()
def test_an_explicit_cast_keeps_large_numbers_finite() -> None:
    model = zoo.prepare(Then(lambda x: (x.float() * 1e6 / 1e6).to(x.dtype))).float()
    network, x = small(model).half(), torch.randn(3, 3, 8, 8).half()
    assert network(x).isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_a_table_that_is_rounded_to_the_networks_type_follows_it(dtype: torch.dtype) -> None:
    model = Then(lambda x: x * torch.tensor([0.1, 0.2, 0.3, 0.7], dtype=x.dtype)[:, None, None]).to(dtype)
    assert trace(model, torch.zeros(2, 3, 8, 8, dtype=dtype)).program.dtype is None


INTEGERS = {
    "times a float": lambda x: x * (torch.arange(x.shape[-1]) * 0.3).long(),
    "a comparison times a float": lambda x: x * ((x > 0.1) * 0.5).bool(),
    "plus a float": lambda x: x * (torch.arange(8) + 0.9).long(),
    "times an integer": lambda x: x * (torch.arange(8) * 3).bool(),
    "sigmoid": lambda x: x + torch.sigmoid(torch.arange(8)).round().long(),
    "divided": lambda x: x + (torch.arange(8) / 3).long(),
    "relu of integers": lambda x: x + F.relu(torch.arange(8) - 4) * 0.5,
    "a boolean sum": lambda x: x + ((x > 0) + (x > 1)).long(),
}


@torch.no_grad()
@pytest.mark.parametrize("name", INTEGERS)
def test_types_of_arithmetic_on_integers(name: str) -> None:
    model = zoo.prepare(Then(INTEGERS[name]))
    x = torch.randn(3, 3, 8, 8).double()
    assert zoo.relative_error(small(model)(x), model(x)) < 1e-12
