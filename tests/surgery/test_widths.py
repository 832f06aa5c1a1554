"""Widths that are multiples of a number."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import zoo
from torch import nn

import prune_gym
from prune_gym.surgery.widths import round_widths


def widths(network: prune_gym.PrunedNetwork) -> list[int]:
    return [p.shape[0] for p in network.parameters() if p.ndim == 4]


def rounded(network: prune_gym.PrunedNetwork, x: torch.Tensor, y: torch.Tensor, multiple: int) -> prune_gym.PrunedNetwork:
    graph = prune_gym.trace(network, x[:1])
    return round_widths(network, graph, prune_gym.importance("taylor")(network, graph, x, y), multiple)


def test_round_widths_keeps_the_most_important_units():
    network, x, y = zoo.chain(20, 16, 13, 6), zoo.images((3, 8, 8), 10), torch.arange(10) % 4
    small = rounded(network, x, y, 8)
    assert widths(small) == [16, 16, 8, 6]
    assert widths(network) == [20, 16, 13, 6]
    F.cross_entropy(network(x), y).backward()
    weights = dict(network.named_parameters())
    rows = {}
    for name in ("0.weight", "4.weight"):
        weight = weights[name]
        scores = (weight * weight.grad).abs().sum((1, 2, 3))
        rows[name] = scores.argsort(descending=True)[: len(small.get_parameter(name))].sort().values
    first, third = rows["0.weight"], rows["4.weight"]
    assert torch.equal(small.get_parameter("0.weight"), weights["0.weight"][first])
    assert torch.equal(small.get_parameter("2.weight"), weights["2.weight"][:, first])
    assert torch.equal(small.get_parameter("4.weight"), weights["4.weight"][third])
    assert torch.equal(small.get_parameter("6.weight"), weights["6.weight"][:, third])


def test_round_widths_to_one_changes_nothing():
    network, x = zoo.chain(5, 7), zoo.images((3, 8, 8), 4)
    same = rounded(network, x, torch.zeros(4, dtype=torch.int64), 1)
    assert same is not network
    assert widths(same) == [5, 7]
    assert torch.equal(same(x), network(x))


def test_round_widths_counts_channels_where_a_unit_holds_several():
    layers = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 28, 3, groups=2), nn.ReLU(), nn.Conv2d(28, 4, 1)
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    graph = prune_gym.trace(model, torch.zeros(1, 3, 8, 8))
    assert [group.width for group in graph.groups] == [3, 14]  # a channel of each half
    network = prune_gym.compact(model, graph, graph.full(), form="program")
    assert widths(rounded(network, zoo.images((3, 8, 8), 4), torch.arange(4), 8)) == [6, 24, 4]
    assert widths(rounded(network, zoo.images((3, 8, 8), 4), torch.arange(4), 5)) == [6, 20, 4]


def test_the_lowest_scores_go_and_of_equal_ones_the_last():
    network = zoo.chain(5, 3)
    graph = prune_gym.trace(network, zoo.images((3, 8, 8), 1))
    scores = [np.array([0.1, 3.0, 0.1, -5.0, 0.1]), np.array([1.0, 1.0, 1.0])]
    small = round_widths(network, graph, scores, 2)
    assert torch.equal(small.get_parameter("0.weight"), network.get_parameter("0.weight")[[0, 1, 2, 4]])
    assert torch.equal(small.get_parameter("2.weight"), network.get_parameter("2.weight")[[0, 1]][:, [0, 1, 2, 4]])
    small = round_widths(network, graph, scores, 3)
    assert torch.equal(small.get_parameter("0.weight"), network.get_parameter("0.weight")[[0, 1, 2]])


@pytest.mark.parametrize("multiple", [0, -8, 2.0])
def test_bad_multiples(multiple):
    with pytest.raises(ValueError, match=f"multiple: expected an integer >= 1, got {multiple}"):
        rounded(zoo.chain(4), zoo.images((3, 8, 8), 2), torch.zeros(2, dtype=torch.int64), multiple)


@pytest.mark.parametrize("scores", [[], [np.zeros(3)], [np.zeros(4), np.zeros(4)], [np.zeros((4, 1))]])
def test_scores_of_another_form(scores):
    network = zoo.chain(4)
    graph = prune_gym.trace(network, zoo.images((3, 8, 8), 1))
    with pytest.raises(ValueError, match=r"scores: expected one array per group, with a score per unit, \[4\], got the shapes"):
        round_widths(network, graph, scores, 2)
