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

import prune_gym
from prune_gym import Architecture, trace
from prune_gym.scoring.recalibration import Recalibration, has_statistics
from prune_gym.surgery.slicing import named_tensors, slice_tensors
from prune_gym.tasks import Task

IMAGES = torch.randn(20, 3, 8, 8, generator=torch.Generator().manual_seed(0)).double()


def norms(model: nn.Module) -> dict[str, nn.modules.batchnorm._BatchNorm]:
    return {name: each for name, each in model.named_modules() if isinstance(each, nn.modules.batchnorm._BatchNorm)}


def outputs(model: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """Mean and variance of what every norm gives, without its scale and shift, (2, channels): the mean of its calls."""
    seen: dict[str, list[Tensor]] = {}

    def note(name: str, norm: nn.modules.batchnorm._BatchNorm, x: Tensor) -> None:
        assert norm.running_mean is not None
        assert norm.running_var is not None
        rows = x.movedim(1, -1).flatten(0, -2)
        plain = (rows - norm.running_mean) / (norm.running_var + norm.eps).sqrt()
        seen.setdefault(name, []).append(torch.stack([plain.mean(0), plain.var(0, correction=0)]))

    model = copy.deepcopy(model).eval()
    for name, norm in norms(model).items():
        norm.register_forward_pre_hook(lambda module, args, name=name: note(name, module, args[0]))
    with torch.no_grad():
        model(images)
    return {name: torch.stack(each).mean(0) for name, each in seen.items()}


def recalibrated(model: nn.Module, images: Tensor, architecture: Architecture) -> dict[str, Tensor]:
    graph, tensors = architecture.graph, named_tensors(model, architecture.graph)
    small = slice_tensors(tensors, graph.units, architecture)
    return Recalibration(graph, tensors, images).recalibrated(small, architecture)


def put_into(model: nn.Module, tensors: dict[str, Tensor]) -> nn.Module:
    model = copy.deepcopy(model)
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            tensor.copy_(tensors[name])
    return model


@pytest.mark.parametrize("number", range(7))
def test_norms_give_what_they_gave(own_tiny_task: Task, tiny_architectures: list[Architecture], number: int, shrink: Any) -> None:
    """On the calibration images, every kept channel has the mean and the variance that it had before pruning."""
    task, images = own_tiny_task, own_tiny_task.train.images
    graph = task.graph
    architecture = graph.architecture(list(tiny_architectures[number].kept))
    pruned = put_into(shrink(task, architecture), recalibrated(task.model, images, architecture))
    before, after = outputs(task.model, images), outputs(pruned, images)
    assert before.keys() == after.keys()
    for name, expected in before.items():
        index = {name: (None, graph.units[f"{name}.running_mean"][0])} if f"{name}.running_mean" in graph.units else {}
        kept = slice_tensors({name: expected}, index, architecture)[name]
        torch.testing.assert_close(after[name][0], kept[0], rtol=2e-3, atol=2e-4)
        torch.testing.assert_close(after[name][1], kept[1], rtol=1e-2, atol=2e-4)  # the variance in V does not go below 0


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


def pruned_pair(name: str) -> tuple[nn.Module, Architecture]:
    """A network in double precision, and an architecture that lacks a unit of each of its groups."""
    model = zoo.prepare(NETWORKS[name]())
    graph = trace(model, IMAGES[:1])
    return model, graph.architecture([np.arange(group.width) > 0 for group in graph.groups])


@pytest.mark.parametrize("name", [name for name in NETWORKS if "twice" not in name])
def test_against_the_formula(name: str) -> None:
    """``r`` and ``t`` from hooks on the network, ``m`` and ``v`` from hooks on the pruned one, which is run again and again until
    its statistics, which depend on those of the norms before, no longer change."""
    model, architecture = pruned_pair(name)
    graph = architecture.graph
    found = recalibrated(model, IMAGES, architecture)
    before = outputs(model, IMAGES)
    masked = copy.deepcopy(model)  # removed units are zeroed: the same network
    with torch.no_grad():
        for tensor_name, per_dim in graph.units.items():
            for dim, owners in enumerate(per_dim):
                if owners is not None:
                    gone = torch.from_numpy((owners >= 0) & ~np.append(architecture.mask, True)[owners])
                    tensors = dict([*masked.named_parameters(), *masked.named_buffers()])
                    tensors[tensor_name].movedim(dim, 0)[gone] = 0
        for _ in range(4):
            for norm_name, (t, r2) in before.items():
                norm = masked.get_submodule(norm_name)
                now_mean, now_var = outputs(masked, IMAGES)[norm_name]
                scale = (norm.running_var + norm.eps).sqrt()
                m, v = now_mean * scale + norm.running_mean, now_var * scale.square()
                wanted = model.get_submodule(norm_name)
                ratio = r2 + wanted.eps / (wanted.running_var + wanted.eps)  # r^2 of the docstring
                norm.running_var.copy_((v + norm.eps) / ratio - norm.eps)
                norm.running_mean.copy_(m - t * (norm.running_var + norm.eps).sqrt())
    own = {name: tensor.clone() for name, tensor in masked.named_buffers()}
    for key, tensor in slice_tensors(own, {k: v for k, v in graph.units.items() if k in own}, architecture).items():
        if "running" in key:
            torch.testing.assert_close(found[key], tensor, rtol=1e-7, atol=1e-9)
    parameters = slice_tensors(named_tensors(model, graph), graph.units, architecture)
    assert all(torch.equal(found[key], tensor) for key, tensor in parameters.items() if "running" not in key)


def test_a_norm_that_is_called_twice() -> None:
    """Every call has the moments that it had, where statistics are the mean over the calls so far, in both networks."""
    model, architecture = pruned_pair("a norm that is called twice")
    graph = architecture.graph
    found = recalibrated(model, IMAGES, architecture)
    whole = {key: each.detach() for key, each in named_tensors(model, graph).items() if key.startswith("norm") and each.ndim}
    deviation = (whole["norm.running_var"] + model.norm.eps).sqrt()

    def calls(kept: slice, moments: list[tuple[Tensor, Tensor]] | None) -> tuple[list[Tensor], list[tuple[Tensor, Tensor]]]:
        """The mean and variance so far of each call, and its r and t: given, or those with the old statistics."""
        x, seen, so_far, used = IMAGES, [], [], []
        for layer, inputs in (("first", slice(None)), ("second", kept)):
            convolution = model.get_submodule(layer)
            with torch.no_grad():
                weight, bias = convolution.weight[kept, inputs], convolution.bias[kept]
                x = torch.nn.functional.conv2d(x, weight, bias, 1, convolution.padding)
            rows = x.movedim(1, -1).flatten(0, -2)
            seen.append(torch.stack([rows.mean(0), rows.var(0, correction=0)]))
            m, v = torch.stack(seen).mean(0)
            so_far.append(torch.stack([m, v]))
            if moments is None:
                used.append(((v + model.norm.eps).sqrt() / deviation, (m - whole["norm.running_mean"]) / deviation))
                plain = (x.movedim(1, -1) - whole["norm.running_mean"]) / deviation
            else:
                r, t = (each[kept] for each in moments[len(so_far) - 1])
                used.append((r, t))
                plain = r * (x.movedim(1, -1) - m) / (v + model.norm.eps).sqrt() + t
            x = (whole["norm.weight"][kept] * plain + whole["norm.bias"][kept]).movedim(-1, 1).relu()
        return so_far, used

    _, before = calls(slice(None), None)
    after, used = calls(slice(1, None), before)
    (m, v), (r, t) = after[-1], used[-1]
    torch.testing.assert_close(found["norm.running_var"], (v + model.norm.eps) / r.square() - model.norm.eps)
    torch.testing.assert_close(found["norm.running_mean"], m - t * (v + model.norm.eps).sqrt() / r)


@pytest.mark.parametrize("name", NETWORKS)
def test_what_is_not_pruned_does_not_change(name: str) -> None:
    model = zoo.prepare(NETWORKS[name]())
    found = recalibrated(model, IMAGES, trace(model, IMAGES[:1]).full())
    for key, buffer in model.named_buffers():
        torch.testing.assert_close(found[key], buffer, rtol=1e-9, atol=1e-9)


def test_a_channel_that_no_longer_varies_keeps_its_mean() -> None:
    """Its variance would have to be below 0."""
    model = nn.Sequential(conv(3, 2), nn.ReLU(), conv(2, 4, 1), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(256, 3))
    model = zoo.prepare(model)
    with torch.no_grad():
        model[0].weight[1], model[0].bias[1] = 0, 1
        model[3].running_var.fill_(0.01)
    graph = trace(model, IMAGES[:1])
    architecture = graph.architecture([np.array([False, True]), *(np.ones(group.width, bool) for group in graph.groups[1:])])
    pruned = prune_gym.compact(model, graph, architecture)
    after = outputs(put_into(pruned, recalibrated(model, IMAGES, architecture)), IMAGES)["3"]
    torch.testing.assert_close(after[0], outputs(model, IMAGES)["3"][0], rtol=1e-9, atol=1e-9)


def test_dead_channels_of_norms_without_epsilon() -> None:
    model = nn.Sequential(conv(3, 4), nn.ReLU(), nn.BatchNorm2d(4, eps=0.0), conv(4, 3), nn.Flatten(), nn.Linear(192, 3))
    model = zoo.prepare(model)
    with torch.no_grad():
        model[0].weight[1], model[0].bias[1] = 0, -1
    graph = trace(model, IMAGES[:1])
    architecture = graph.architecture([np.arange(group.width) > 0 for group in graph.groups])
    assert all(tensor.isfinite().all() for tensor in recalibrated(model, IMAGES, architecture).values())


def test_networks_without_statistics_have_nothing_to_recalibrate() -> None:
    without = nn.Sequential(conv(3, 5), nn.BatchNorm2d(5, track_running_stats=False), nn.GroupNorm(1, 5), nn.Flatten())
    model = zoo.prepare(nn.Sequential(without, nn.Linear(320, 4)))
    graph = trace(model, IMAGES[:1])
    assert not has_statistics(graph.program)
    assert has_statistics(trace(zoo.prepare(NETWORKS["a norm in front"]()), IMAGES[:1]).program)


def test_nothing_is_written_to_the_tensors_that_were_given() -> None:
    model = zoo.prepare(NETWORKS["a norm that is called twice"]())
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    recalibrated(model, IMAGES, trace(model, IMAGES[:1]).full())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_it_is_a_function_of_the_mask_alone(tiny_task: Task, tiny_architectures: list[Architecture]) -> None:
    graph = tiny_task.graph
    tensors = named_tensors(tiny_task.model, graph)
    once = Recalibration(graph, tensors, tiny_task.train.images)

    def statistics(architecture: Architecture) -> np.ndarray:
        small = slice_tensors(tensors, graph.units, architecture)
        found = once.recalibrated(small, architecture)
        return np.concatenate([tensor.numpy() for name, tensor in found.items() if "running" in name])

    first = [statistics(architecture) for architecture in tiny_architectures]
    again = [statistics(architecture) for architecture in reversed(tiny_architectures)][::-1]
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))


OTHERS = torch.randn(7, 3, 8, 8, generator=torch.Generator().manual_seed(1)).double()


@pytest.mark.parametrize("name", [name for name in NETWORKS if "twice" not in name])
def test_other_images_in_the_same_pass(name: str) -> None:
    """They see the network that the calibration images alone make."""
    model, architecture = pruned_pair(name)
    graph, tensors = architecture.graph, named_tensors(model, architecture.graph)
    small = slice_tensors(tensors, graph.units, architecture)
    recalibration = Recalibration(graph, tensors, IMAGES)
    assert recalibration.takes_others_along
    found = recalibration.outputs(small, architecture, OTHERS)
    with torch.inference_mode():
        expected = graph.program.at(architecture.mask).run(recalibration.recalibrated(small, architecture), [OTHERS])
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    "model",
    [
        NETWORKS["a norm that is called twice"](),
        nn.Sequential(
            conv(3, 5), nn.BatchNorm2d(5, track_running_stats=False), nn.BatchNorm2d(5), nn.Flatten(), nn.Linear(320, 4)
        ),
    ],
)
def test_networks_that_must_be_calibrated_first(model: nn.Module) -> None:
    """Whose statistics change after their first use, and whose images depend on the others of their batch."""
    model = zoo.prepare(model)
    graph = trace(model, IMAGES[:2])
    assert not Recalibration(graph, named_tensors(model, graph), IMAGES).takes_others_along
