"""Targets in MACs and parameters on networks of many kinds, with everything that limits the widths at once."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch
import zoo
from torch.utils.flop_counter import FlopCounterMode

from prune_gym import models
from prune_gym.data.splits import Split
from prune_gym.envs.pruning import PruningEnv
from prune_gym.tasks import Task

SMALL = ("resnet20", "vgg11", "densenet121", "googlenet", "mobilenet_v3_large")
OTHERS = ("resnet18", "mobilenet_v3_small", "efficientnet_b0", "regnet_y_400mf", "squeezenet1_1")  # of torchvision


def task_of(name: str) -> Task:
    torch.manual_seed(0)
    model = models.create(name, 10) if name in SMALL else models.create(f"torchvision/{name}", 10)
    size = 32 if name in SMALL else 64
    images, labels = torch.rand(10, 3, size, size), torch.arange(10)
    train, val, test = (Split(images.roll(i, 0), labels.roll(i)) for i in range(3))
    return Task(name.replace("/", "-"), model.eval(), train, val, test)


def unreachable(task: Task, target: dict[str, float], limits: dict[str, Any]) -> float | None:
    """The largest value that the error about a target names, or None if the target can be reached."""
    try:
        PruningEnv(task, **target, **limits)
    except ValueError as error:
        return float(re.findall(r"0\.\d+", str(error))[-1])
    return None


@pytest.mark.slow
@pytest.mark.parametrize("target", [{"macs_reduction": 0.47}, {"params_reduction": 0.31}], ids=["MACs", "parameters"])
@pytest.mark.parametrize("name", [*SMALL, *OTHERS])
def test_met_from_above_and_as_closely_as_one_block_allows(name: str, target: dict[str, float]) -> None:
    task = task_of(name)
    groups = task.graph.groups
    excluded = [groups[0].name, groups[len(groups) // 2].name]
    limits: dict[str, Any] = {"round_to": 8, "min_width": 0.2, "exclude": excluded, "step_ratio": 0.1}
    unit, value = next(iter(target.items()))
    largest = unreachable(task, {unit: 0.999}, limits)
    assert largest is not None
    assert unreachable(task, {unit: largest}, limits) is None
    assert unreachable(task, {unit: largest + 0.002}, limits) == largest
    value = min(value, largest)
    env = PruningEnv(task, **{unit: value}, **limits)
    rng = np.random.default_rng(0)
    env.reset()
    while env.steps_left:
        before = env.architecture.widths
        _, _, terminated, _, info = env.step(rng.uniform(size=len(groups)).astype(np.float32))
    assert terminated

    reduction = "flops_reduction" if unit == "macs_reduction" else "params_reduction"
    assert info[reduction] >= value
    for group, width in zip(groups, info["widths"].tolist(), strict=True):
        assert width >= 0.2 * group.width
        if group.name in excluded:
            assert width == group.width
    space = env.simulator.space
    for i, (width, group) in enumerate(zip(info["widths"].tolist(), groups, strict=True)):
        if width < before[i]:  # with a block of the last step back, too little would be gone
            back = info["widths"].copy()
            back[i] = min(w for w in space.allowed[i].tolist() if w > width)
            assert space.removed(back) < value * space.total, group.name

    network = env.simulator.network(env.snapshot())
    shapes = {key.replace("/", "."): tuple(tensor.shape) for key, tensor in network.state_dict().items()}
    for group, width in zip(groups, info["widths"].tolist(), strict=True):
        for layer in group.layers if width < group.width else ():
            assert shapes[f"{layer}.weight"][0] % 8 == 0, layer
    assert sum(parameter.numel() for parameter in network.parameters()) == info["params"]
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(task.val.inputs()[:1])
    assert counter.get_total_flops() == pytest.approx(2 * info["macs"], rel=0.02)  # it counts products of matrices alone
    assert zoo.relative_error(network(task.val.inputs()[:2]), network(task.val.inputs())[:2]) < 1e-4
