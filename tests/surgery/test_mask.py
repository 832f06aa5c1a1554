"""Masked networks: zeros in every slice of the removed units, and the function of the compact network."""

from __future__ import annotations

from functools import partial

import pytest
import torch
import torchvision
from architectures import MIXED, UNMIXED, only, traced, zeroed_by_hand
from zoo import random_architecture, relative_error

import prune_gym
from prune_gym import mask, trace

compact = partial(prune_gym.compact, form="program")


@torch.no_grad()
@pytest.mark.parametrize("name", MIXED)
def test_mixed_groups_cannot_be_masked(name: str) -> None:
    model, images, graph = traced(name)
    architecture = random_architecture(graph, 0)
    (first, *_) = (group for group in graph.groups if group.mixed)
    with pytest.raises(ValueError, match=rf"group '{first.name}' is normalised or reduced across its channels.*compact"):
        mask(model, graph, architecture)
    without = only(graph, architecture, lambda group: not group.mixed)
    masked = mask(model, graph, without)(*(x.clone() for x in images))
    assert relative_error(compact(model, graph, without)(*images), masked) < 1e-9


@torch.no_grad()
@pytest.mark.parametrize("name", UNMIXED)
def test_mask_zeroes_what_the_slices_say(name: str) -> None:
    model, _, graph = traced(name)
    architecture = random_architecture(graph, 2)
    masked, by_hand = mask(model, graph, architecture), zeroed_by_hand(model, graph, architecture)
    assert type(masked) is type(model)
    expected = dict([*by_hand.named_parameters(), *by_hand.named_buffers()])
    for key, tensor in [*masked.named_parameters(), *masked.named_buffers()]:
        assert torch.equal(tensor, expected.pop(key)), key
    assert not expected


def test_the_masked_network_is_one_of_its_kind() -> None:
    model = torchvision.models.squeezenet1_1(num_classes=3).train()
    graph = trace(model, torch.empty(1, 3, 64, 64))
    masked = mask(model, graph, random_architecture(graph, 0))
    assert type(masked) is type(model)
    assert masked.training
    assert all(p.requires_grad for p in masked.parameters())
    assert {k: t.shape for k, t in masked.state_dict().items()} == {k: t.shape for k, t in model.state_dict().items()}
    assert not any(a.data_ptr() == b.data_ptr() for a, b in zip(masked.parameters(), model.parameters(), strict=True))
