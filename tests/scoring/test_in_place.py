"""Activations in place: the same bits, and nothing is written over that anybody else reads."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
import zoo
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from prune_gym import models, trace
from prune_gym.graph.program import leaves, operator
from prune_gym.scoring.in_place import IN_PLACE, in_place
from prune_gym.surgery.slicing import named_tensors


def same(model: nn.Module, images: list[Tensor]) -> int:
    """How many activations are in place now; the outputs are the same, and so are the images and the weights afterwards."""
    graph = trace(model, images)
    tensors = named_tensors(model, graph)
    program, changed = graph.program.at(graph.full().mask), in_place(graph.program).at(graph.full().mask)
    mine = [x.clone() for x in images]
    with torch.inference_mode():
        expected = program.run({name: x.clone() for name, x in tensors.items()}, [x.clone() for x in images])
        copies = {name: x.clone() for name, x in tensors.items()}
        found = changed.run(copies, mine)
        again = {name: x.clone() for name, x in tensors.items()}
        program.run(again, [x.clone() for x in images])  # networks may write to their buffers themselves
    flat = [[leaf for leaf in leaves(each) if isinstance(leaf, Tensor)] for each in (found, expected)]
    assert all(torch.equal(one, other) for one, other in zip(*flat, strict=True))
    assert all(torch.equal(one, other) for one, other in zip(mine, images, strict=True))
    assert all(torch.equal(copies[name], again[name]) for name in tensors)
    return sum(one.op != other.op for one, other in zip(program.nodes, changed.nodes, strict=True))


@pytest.mark.parametrize("name", zoo.NETWORKS)
def test_the_bits_stay(name: str) -> None:
    same(zoo.built(name), zoo.inputs(zoo.NETWORKS[name].shapes))


@settings(max_examples=30)
@given(
    st.lists(st.tuples(st.sampled_from(zoo.KINDS), st.integers(0, 4), st.integers(0, 3)), max_size=5),
    st.booleans(),
    st.integers(0, 99),
)
def test_the_bits_of_random_networks_stay(recipe: list[tuple[str, int, int]], flatten: bool, seed: int) -> None:
    same(zoo.prepare(zoo.random_network(recipe, flatten), seed), zoo.inputs(((3, 4, 4),)))


def test_networks_of_the_field_have_most_in_place() -> None:
    images = [torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))]
    assert same(models.create("resnet20").eval(), images) == 19
    assert same(models.create("vgg19").eval(), images) == 18


class Reads(nn.Module):
    """What is read elsewhere, shares memory or leaves the network is not written over."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = F.relu(x)  # the caller's image
        twice = self.first(x)
        x = F.relu(twice) + twice
        view = self.second(x).flatten(2)
        x = F.silu(view)
        leaves = x + 1
        return F.gelu(leaves, approximate="tanh"), leaves


def test_what_others_read_is_not_written_over() -> None:
    torch.manual_seed(0)
    assert same(Reads().eval(), [torch.randn(2, 3, 4, 4)]) == 0


def test_operators_in_place_take_the_same_arguments() -> None:
    def arguments(name: str) -> list[tuple[str, str, object]]:
        return [(each.name, str(each.type), each.default_value) for each in operator(name)._schema.arguments]

    for name, changed in IN_PLACE.items():
        assert arguments(name) == arguments(changed)
