"""FPGM against loops over pairs of filters, and against torch-pruning where its conventions are ours."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch_pruning as tp
from torch import Tensor, nn

from prune_gym import Architecture, ChannelGraph, importance, trace
from prune_gym.tasks import Task

PrunableLayer = dict[str, tuple[tuple[str, ...], Callable[[int], list[int]]]]
LABELS = torch.zeros(1, dtype=torch.int64)


def distances(filters: np.ndarray) -> list[float]:
    """For every filter, the sum of its Euclidean distances to the others, pair by pair."""
    return [sum(float(np.sqrt(((one - other) ** 2).sum())) for other in filters) for one in filters]


def found(model: nn.Module, graph: ChannelGraph, architecture: Architecture | None = None) -> dict[str, np.ndarray]:
    names = [group.name for group in graph.groups]
    return dict(zip(names, importance("fpgm")(model, graph, torch.zeros(1), LABELS, architecture), strict=True))


def test_against_loops(
    tiny_task: Task,
    tiny_filters: PrunableLayer,
    tiny_architectures: list[Architecture],
    shrink: Callable[[Task, Architecture], nn.Module],
) -> None:
    """Groups of several layers, a depthwise and a linear layer; of pruned networks, the distances between the filters that are
    left."""
    for architecture in tiny_architectures:
        small = shrink(tiny_task, architecture)
        scores = found(tiny_task.model, tiny_task.graph, architecture)
        for group, kept in zip(tiny_task.graph.groups, architecture.kept, strict=True):
            layers, positions = tiny_filters[group.name]
            left = sorted(i for u in np.flatnonzero(kept) for i in positions(u))
            of_layer = {layer: distances(small.get_parameter(f"{layer}.weight").detach().double().numpy()) for layer in layers}
            expected = np.full(group.width, np.nan)
            for u in np.flatnonzero(kept):
                expected[u] = np.mean([of_layer[layer][left.index(i)] for layer in layers for i in positions(u)])
            assert scores[group.name].dtype == np.float64
            np.testing.assert_allclose(scores[group.name], expected, rtol=1e-9, atol=1e-12, err_msg=group.name)


class Upwards(nn.Module):
    """A transposed convolution with groups: an index of dimension 1 of its weight is a filter of either group."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 4, 3)
        self.up = nn.ConvTranspose2d(4, 6, 2, groups=2)
        self.last = nn.Linear(6 * 49, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.up(self.first(x)).relu().flatten(1))


def test_several_filters_at_an_index() -> None:
    torch.manual_seed(0)
    model = Upwards().double()
    scores = found(model, trace(model, torch.zeros(1, 1, 8, 8, dtype=torch.float64)))["up"]
    weight = model.up.weight.detach().numpy()
    filters = np.stack([weight[2 * (c // 3) : 2 * (c // 3) + 2, c % 3] for c in range(6)])
    of_filter = distances(filters)
    np.testing.assert_allclose(scores, [(of_filter[c] + of_filter[c + 3]) / 2 for c in range(3)], rtol=1e-12)


def test_far_from_zero() -> None:
    """Where all filters are nearly the same, distances are small differences of large numbers; some are equal."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(50, 80), nn.ReLU(), nn.Linear(80, 2))
    with torch.no_grad():
        model[0].weight.copy_(1000 + torch.randn(80, 50))
        model[0].weight[7] = model[0].weight[3]
    (scores,) = found(model, trace(model, torch.zeros(1, 50))).values()
    np.testing.assert_allclose(scores, distances(model[0].weight.detach().double().numpy()), rtol=1e-8)
    assert scores[7] == pytest.approx(scores[3], rel=1e-12)


@pytest.mark.parametrize("group", [0, 1, 2])
def test_against_torch_pruning(group: int) -> None:
    """It measures distances between powers of absolute values, by default squares; here weights are none below 0. In double
    precision, as it finds filters at a distance from themselves in single precision."""
    torch.manual_seed(0)
    image = torch.zeros(1, 3, 12, 12, dtype=torch.float64)
    model = nn.Sequential(
        *(nn.Conv2d(3, 20, 3), nn.ReLU(), nn.Conv2d(20, 40, 3), nn.ReLU(), nn.Flatten()),
        *(nn.Linear(40 * 64, 30), nn.ReLU(), nn.Linear(30, 5)),
    ).double()
    for parameter in model.parameters():
        parameter.data.abs_()
    graph = trace(model, image)
    layer = model.get_submodule(graph.groups[group].name)
    prune = tp.prune_linear_out_channels if isinstance(layer, nn.Linear) else tp.prune_conv_out_channels
    width = graph.groups[group].width
    theirs = tp.DependencyGraph().build_dependency(model, image).get_pruning_group(layer, prune, list(range(width)))
    expected = tp.importance.FPGMImportance(p=1, group_reduction="first", normalizer=None)(theirs)
    np.testing.assert_allclose(found(model, graph)[graph.groups[group].name], expected.numpy(), rtol=1e-6)
