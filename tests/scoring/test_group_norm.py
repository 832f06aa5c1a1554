"""DepGraph's group norm against torch-pruning, its authors' library: the same scores, the same masks, the same network."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import torch_pruning as tp
from torch import Tensor, nn

from prune_gym import ChannelGraph, compact, importance, models, trace

NETWORKS = (
    pytest.param("vgg11_bn", marks=pytest.mark.slow),
    "resnet18",
    "googlenet",
)  # it does not count depthwise filters, which go as well
IMAGE = torch.zeros(1, 3, 64, 64)


def network(name: str) -> nn.Module:
    torch.manual_seed(0)
    model = models.create(f"torchvision/{name}", 10).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):  # else all scales are 1
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return model


def ours(model: nn.Module, graph: ChannelGraph) -> tuple[np.ndarray, ...]:
    return importance("group_norm")(model, graph, IMAGE, torch.zeros(1, dtype=torch.int64))


def theirs(model: nn.Module, layer: str) -> tuple[Tensor, tp.dependency.Group]:
    """Their scores of the channels of a layer, and the group that goes with them."""
    dependencies = tp.DependencyGraph().build_dependency(model, IMAGE)
    root = model.get_submodule(layer)
    is_linear = isinstance(root, nn.Linear)
    prune = tp.prune_linear_out_channels if is_linear else tp.prune_conv_out_channels
    width = root.out_features if is_linear else root.out_channels
    group = dependencies.get_pruning_group(root, prune, list(range(width)))
    return tp.importance.GroupMagnitudeImportance(p=2, normalizer=None, group_reduction="sum")(group), group


@pytest.mark.parametrize("name", NETWORKS)
def test_scores(name: str) -> None:
    model = network(name)
    graph = trace(model, IMAGE)
    for group, scores in list(zip(graph.groups, ours(model, graph), strict=True))[::3]:
        expected, _ = theirs(model, group.layers[0])
        np.testing.assert_allclose(scores, expected.numpy(), rtol=1e-5, err_msg=group.name)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_same_masks_give_the_same_network(name: str) -> None:
    """Half of the units of some groups go by the ranking, in both libraries."""
    model = network(name)
    graph = trace(model, IMAGE)
    kept = [np.ones(group.width, bool) for group in graph.groups]
    other = copy.deepcopy(model)
    for i, scores in enumerate(ours(model, graph)):
        if i % 2:
            kept[i] = np.argsort(np.argsort(scores)) >= len(scores) // 2
            expected, _ = theirs(model, graph.groups[i].layers[0])
            gone = expected.argsort()[: len(scores) // 2].tolist()
            assert sorted(gone) == np.flatnonzero(~kept[i]).tolist()
            theirs(other, graph.groups[i].layers[0])[1].prune(gone)
    images = torch.rand(4, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(compact(model, graph, graph.architecture(kept), form="model")(images), other(images))


def test_removed_units_do_not_count() -> None:
    """Scores are those of the pruned network as it stands."""
    model = network("resnet18")
    graph = trace(model, IMAGE)
    kept = [np.arange(group.width) % 3 > 0 for group in graph.groups]
    architecture = graph.architecture(kept)
    small = compact(model, graph, architecture, form="model")
    again = trace(small, IMAGE)
    found = importance("group_norm")(model, graph, IMAGE, torch.zeros(1, dtype=torch.int64), architecture)
    for scores, mask, expected in zip(found, kept, ours(small, again), strict=True):
        assert np.isnan(scores[~mask]).all()
        np.testing.assert_allclose(scores[mask], expected, rtol=1e-6)
