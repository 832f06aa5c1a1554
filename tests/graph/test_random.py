"""Random networks with what is rare in the zoo's: channels laid out in space, arithmetic on sizes, and changes of type."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
import zoo
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from prune_gym import compact, mask, trace
from prune_gym.graph.verify import verify

SHAPELESS: tuple[Any, ...] = (  # functions of (n, c, 4, 4) that keep the shape
    lambda x: x.flip(2),
    lambda x: torch.roll(x, 1, 3),
    lambda x: x.transpose(2, 3),
    lambda x: x.rot90(1, (2, 3)),
    lambda x: F.pixel_shuffle(F.pixel_unshuffle(x, 2), 2),
    lambda x: F.fold(F.unfold(x, 2, stride=2), (4, 4), 2, stride=2),
    lambda x: F.max_pool2d(x, 3, 1, 1),
    lambda x: F.interpolate(F.avg_pool2d(x, 2), scale_factor=2.0),
    lambda x: F.pad(x, (1, 0))[..., :-1],
    lambda x: F.pad(x, (0, 0, 1, 1), mode="reflect")[:, :, 1:-1],
    lambda x: x.sort(3)[0],
    lambda x: x.cumsum(2),
    lambda x: torch.cat([x[:, :, 2:], x[:, :, :2]], 2),
    lambda x: x.flatten(2).view_as(x),
    lambda x: x.flatten(1)[:, : x[0].numel()].view(x.shape),
    lambda x: x * (len(x) + 3) / (len(x) + 3),
    lambda x: x + (2 * x.shape[0] - 1),
    lambda x: (x.reshape(len(x) * x.shape[1], 16) * 2).view(len(x), -1, 4, 4),
    lambda x: x * torch.arange(len(x) + 1, dtype=x.dtype)[1:].view(-1, 1, 1, 1),
    lambda x: x - torch.full((len(x), 1, 1, 1), 0.5, dtype=x.dtype),
    lambda x: x * (torch.arange(4) * 0.7).long(),
    lambda x: x * ((x > 0) * 0.5 + 1),
    lambda x: x + torch.sigmoid(torch.arange(4)).round().int(),
    lambda x: x.to(x.dtype).type(torch.float64) * 1021,
    lambda x: torch.relu(x) + 2042,
)


class Piece(nn.Module):
    """A layer over channels (``a`` even) or over places, and one of the functions."""

    def __init__(self, channels: int, a: int, function: int):
        super().__init__()
        self.over_places, self.function, self.outputs = a % 2 == 1, function, channels if a % 2 else 2 + a // 2
        self.layer = nn.Linear(16, 16) if self.over_places else nn.Conv2d(channels, self.outputs, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer(x.flatten(2)).unflatten(2, (4, 4)) if self.over_places else self.layer(x)
        return SHAPELESS[self.function](x)


@torch.no_grad()
@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, len(SHAPELESS) - 1)), min_size=1, max_size=5),
    st.booleans(),
    st.integers(0, 99),
)
def test_random_networks(recipe: list[tuple[int, int]], flatten: bool, seed: int) -> None:
    pieces = nn.Sequential()
    channels = 3
    for a, function in recipe:
        pieces.append(Piece(channels, a, function))
        channels = pieces[-1].outputs
    end = (
        [nn.Flatten(), nn.Linear(16 * channels, 3)]
        if flatten
        else [nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(channels, 3)]
    )
    model = zoo.prepare(nn.Sequential(pieces, *end), seed)
    x = torch.randn(3, 3, 4, 4).double()
    graph = trace(model, x)
    verify(model, graph, x)
    architecture = zoo.random_architecture(graph, seed)
    network = compact(model, graph, architecture, form="program")
    assert graph.cost(architecture).params == zoo.parameters(network)
    output = network(x)
    assert output.isfinite().all()
    removed = [group for group, kept in zip(graph.groups, architecture.kept, strict=True) if not kept.all()]
    if not any(group.mixed for group in removed):
        assert zoo.relative_error(output, mask(model, graph, architecture)(x)) < 1e-9
