"""LAMP against a loop over units and against torch-pruning, and the agent that ranks all units by it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch_pruning as tp
from torch import nn

from prune_gym import Architecture, importance, models, trace
from prune_gym.agents import baselines
from prune_gym.envs import PruningEnv, TabularEnv
from prune_gym.scoring.importance import _lamp
from prune_gym.tasks import Task

LABELS = torch.zeros(1, dtype=torch.int64)


def loop(squares: np.ndarray) -> list[float]:
    """Sorted, each over what is left from it on; NaN for units that are gone."""
    kept = [square for square in squares.tolist() if not np.isnan(square)]
    return [s if np.isnan(s) else s / sum(other for other in kept if other >= s) for s in squares.tolist()]


def test_against_a_loop(tiny_task: Task, tiny_architectures: list[Architecture]) -> None:
    arguments = tiny_task.model, tiny_task.graph, torch.zeros(1), LABELS
    for architecture in tiny_architectures:
        squares = importance("group_norm")(*arguments, architecture)
        for scores, mine in zip(importance("lamp")(*arguments, architecture), squares, strict=True):
            np.testing.assert_allclose(scores, loop(mine), rtol=1e-12)
            assert np.nanmax(scores) == 1
            assert (np.argsort(scores) == np.argsort(mine)).all()


def test_equal_units_and_dead_groups(own_tiny_task: Task) -> None:
    squares = np.array([*[1.0, 2, 1, 4, 0, 0, 2, 0], *np.zeros(6), *np.ones(6), *[0.0, 0, 0, 5], *range(10)])
    scores = np.split(_lamp(squares, own_tiny_task.graph), own_tiny_task.graph.starts[1:-1])
    np.testing.assert_allclose(scores[0], [0.1, 0.25, 0.1, 1, 0, 0, 0.25, 0])
    assert scores[1].tolist() == [0] * 6
    np.testing.assert_allclose(scores[2], 1 / 6)
    assert scores[3].tolist() == [0, 0, 0, 1]


@pytest.mark.parametrize("name", ["resnet18", "googlenet"])
def test_against_torch_pruning(name: str) -> None:
    torch.manual_seed(0)
    image = torch.zeros(1, 3, 64, 64)
    model = models.create(f"torchvision/{name}", 10).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
    graph = trace(model, image)
    dependencies = tp.DependencyGraph().build_dependency(model, image)
    found = importance("lamp")(model, graph, image, LABELS)
    for group, scores in list(zip(graph.groups, found, strict=True))[::4]:
        layer = model.get_submodule(group.layers[0])
        prune = tp.prune_linear_out_channels if isinstance(layer, nn.Linear) else tp.prune_conv_out_channels
        theirs = dependencies.get_pruning_group(layer, prune, list(range(group.width)))
        np.testing.assert_allclose(scores, tp.importance.LAMPImportance()(theirs).numpy(), rtol=1e-4, err_msg=group.name)


# ------------------------------------------------------------------------------------------------ the agent


@pytest.mark.parametrize("sparsity", [0.25, 0.5])
def test_one_shot_prunes_the_lowest_of_all(tiny_task: Task, sparsity: float) -> None:
    env = PruningEnv(tiny_task, sparsity=sparsity, step_ratio=1.0, importance="lamp", device="cpu")
    agent = baselines.GlobalLampAgent(env).learn(10)
    assert agent.num_timesteps == env.evaluations == 1
    graph, left = env.graph, env.simulator.schedule.target
    scores = importance("lamp")(tiny_task.model, graph, torch.zeros(1), LABELS)
    kept = [np.ones(group.width, bool) for group in graph.groups]
    units = [(score, g, u) for g, values in enumerate(scores) for u, score in enumerate(values) if score < 1]
    for _, g, u in sorted(units):
        if graph.filters_per_unit[g] <= left:
            left -= graph.filters_per_unit[g]
            kept[g][u] = False
    assert env.best is not None
    assert env.best.snapshot.architecture == graph.architecture(kept)
    assert len({*(env.best.snapshot.widths / graph.widths)}) > 1


def test_a_table_has_no_units_to_rank() -> None:
    with pytest.raises(TypeError, match="GlobalLampAgent ranks the units of a network"):
        baselines.GlobalLampAgent(TabularEnv("digits"))
