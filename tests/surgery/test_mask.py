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


@torch.no_grad()
@pytest.mark.parametrize("name", ["lambdas", "parametrized_by_hooks", "functional", "shared_weights", "unregistered_tensors"])
def test_a_mask_is_a_copy(name: str) -> None:
    """Nothing of it is the model's: filled with other values, it leaves the model what it was."""
    model, images, graph = traced(name)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    expected = model(*(x.clone() for x in images))
    masked = mask(model, graph, graph.full())
    assert relative_error(masked(*(x.clone() for x in images)), expected) == 0
    for tensor in [*masked.parameters(), *masked.buffers()]:
        tensor.fill_(0.5)
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
    assert relative_error(model(*(x.clone() for x in images)), expected) == 0


def test_modes_and_gradients_of_a_mask() -> None:
    model = torchvision.models.resnet18(num_classes=3).train()
    model.layer1.requires_grad_(False).eval()
    model.register_buffer("scratch", torch.zeros(2), persistent=False)
    graph = trace(model, torch.empty(1, 3, 32, 32))
    masked = mask(model, graph, random_architecture(graph, 0))
    assert [m.training for m in masked.modules()] == [m.training for m in model.modules()]
    assert [p.requires_grad for p in masked.parameters()] == [p.requires_grad for p in model.parameters()]
    assert masked.state_dict().keys() == model.state_dict().keys()
    masked(torch.ones(2, 3, 32, 32)).sum().backward()
    assert masked.fc.weight.grad is not None
    assert model.fc.weight.grad is None
