"""Recalibrated statistics against PyTorch's own training mode, on modules that share no code with programs."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
import zoo
from torch import Tensor, nn
from zoo import Net, conv, mean

from prune_gym import Architecture, trace
from prune_gym.scoring.recalibration import Recalibration, has_statistics
from prune_gym.surgery.slicing import named_tensors, slice_tensors
from prune_gym.tasks import Task

IMAGES = torch.randn(20, 3, 8, 8, generator=torch.Generator().manual_seed(0)).double()


def norms(model: nn.Module) -> list[nn.modules.batchnorm._BatchNorm]:
    return [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]


def in_training_mode(model: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """The buffers after one pass in which batch norms alone are in training mode and take what they see."""
    model = copy.deepcopy(model).eval()
    for norm in norms(model):
        norm.train()
        norm.reset_running_stats()
        norm.momentum = None  # the mean over all calls
    with torch.no_grad():
        model(images)
    return dict(model.named_buffers())


def recalibrated(model: nn.Module, images: Tensor, architecture: Architecture | None = None) -> dict[str, Tensor]:
    graph = trace(model, images[:1])
    architecture = graph.full() if architecture is None else architecture
    tensors = slice_tensors(named_tensors(model, graph), graph.units, architecture)
    return Recalibration(graph.program).recalibrated(tensors, architecture.mask, images)


def check(model: nn.Module, found: dict[str, Tensor], images: Tensor) -> None:
    for name, buffer in in_training_mode(model, images).items():
        if not name.endswith("num_batches_tracked"):
            torch.testing.assert_close(found[name], buffer, rtol=1e-9, atol=1e-9)
    parameters = dict(model.named_parameters())
    assert all(torch.equal(found[name], parameter) for name, parameter in parameters.items())


@pytest.mark.parametrize("number", range(7))
def test_the_statistics_of_pruned_networks(
    own_tiny_task: Task, tiny_architectures: list[Architecture], number: int, shrink: Any
) -> None:
    task, images = own_tiny_task, own_tiny_task.train.images
    architecture = task.graph.architecture(list(tiny_architectures[number].kept))
    small = shrink(task, architecture)
    tensors = slice_tensors(named_tensors(task.model, task.graph), task.graph.units, architecture)
    found = Recalibration(task.graph.program).recalibrated(tensors, architecture.mask, images)
    for name, buffer in in_training_mode(small, images).items():
        if not name.endswith("num_batches_tracked"):
            torch.testing.assert_close(found[name], buffer, rtol=1e-4, atol=1e-5)


def called_twice(net: Any, x: Tensor) -> Tensor:
    x = net.norm(net.first(x)).relu()
    return net.head(mean(net.norm(net.second(x)).relu()))


NETWORKS = {
    "a norm that is called twice": lambda: Net(
        called_twice, first=conv(3, 5), second=conv(5, 5), norm=nn.BatchNorm2d(5), head=nn.Linear(5, 4)
    ),
    "norms of vectors and without parameters": lambda: nn.Sequential(
        conv(3, 5),
        nn.BatchNorm2d(5, affine=False),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(320, 7),
        nn.BatchNorm1d(7),
        nn.Linear(7, 4),
    ),
    "a norm in front": lambda: nn.Sequential(nn.BatchNorm2d(3), conv(3, 5), nn.ReLU(), nn.Flatten(), nn.Linear(320, 4)),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_every_kind_of_norm(name: str) -> None:
    model = zoo.prepare(NETWORKS[name]())
    check(model, recalibrated(model, IMAGES), IMAGES)


def test_networks_without_statistics_have_nothing_to_recalibrate() -> None:
    without = nn.Sequential(conv(3, 5), nn.BatchNorm2d(5, track_running_stats=False), nn.GroupNorm(1, 5), nn.Flatten())
    model = zoo.prepare(nn.Sequential(without, nn.Linear(320, 4)))
    graph = trace(model, IMAGES[:1])
    assert not has_statistics(graph.program)
    assert has_statistics(trace(zoo.prepare(NETWORKS["a norm in front"]()), IMAGES[:1]).program)


def test_nothing_is_written_to_the_tensors_that_were_given() -> None:
    model = zoo.prepare(NETWORKS["a norm that is called twice"]())
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    recalibrated(model, IMAGES)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_it_is_a_function_of_the_mask_alone(tiny_task: Task, tiny_architectures: list[Architecture]) -> None:
    graph = tiny_task.graph
    once = Recalibration(graph.program)
    tensors = named_tensors(tiny_task.model, graph)

    def statistics(architecture: Architecture) -> np.ndarray:
        small = slice_tensors(tensors, graph.units, architecture)
        found = once.recalibrated(small, architecture.mask, tiny_task.train.images)
        return np.concatenate([tensor.numpy() for name, tensor in found.items() if "running" in name])

    first = [statistics(architecture) for architecture in tiny_architectures]
    again = [statistics(architecture) for architecture in reversed(tiny_architectures)][::-1]
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
