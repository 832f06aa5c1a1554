"""Functions that are recorded in one piece: what is not given has the value that it has for PyTorch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
import zoo
from torch import Tensor, nn

from prune_gym import compact, trace

SHORT_CALLS = {
    "distances": lambda x: torch.cdist(x, x.flip(2)),
    "distances by name": lambda x: torch.cdist(x1=x, x2=x.flip(2), compute_mode="donot_use_mm_for_euclid_dist"),
    "dropout": F.dropout,
    "dropout of channels": F.dropout2d,
    "alpha dropout in training mode": lambda x: F.alpha_dropout(x, training=True),
    "alpha dropout": F.alpha_dropout,
    "instance norm": F.instance_norm,
    "a pooling": lambda x: F.adaptive_avg_pool2d(x, 3),
    "a pooling of one side": lambda x: F.adaptive_avg_pool2d(x, (None, 2)),
    "a larger image": lambda x: F.interpolate(x, scale_factor=2),
    "a smooth one": lambda x: F.interpolate(x, scale_factor=1.5, mode="bilinear"),
    "a smooth one without aliases": lambda x: F.interpolate(x, scale_factor=0.6, mode="bicubic", antialias=True),
    "exactly the nearest": lambda x: F.interpolate(x, scale_factor=(0.7, 1.5), mode="nearest-exact"),
}


@torch.no_grad()
@pytest.mark.parametrize("name", SHORT_CALLS)
def test_a_program_computes_what_a_short_call_does(name: str) -> None:
    def run(net: Any, x: Tensor) -> Tensor:
        return SHORT_CALLS[name](net.a(x))

    model = zoo.prepare(zoo.Net(run, a=zoo.conv(3, 6)))
    x = zoo.inputs(((3, 8, 8),))
    graph = trace(model, x)
    network = compact(model, graph, graph.full(), form="program")
    torch.manual_seed(0)
    expected = model(*x)
    torch.manual_seed(0)
    assert torch.equal(network(*x), expected)


def test_a_cast_is_recorded_where_a_type_is_named() -> None:
    """Also where the tensor has it already, as the network may run in another type later; not where it only moves."""

    def run(net: Any, x: Tensor) -> tuple[Tensor, ...]:
        x = net.a(x)
        return x.to("cpu"), x.to(x.device, torch.float32), x.to(torch.zeros(1)), x.float()

    graph = trace(zoo.Net(run, a=nn.Conv2d(3, 6, 1)).eval(), torch.zeros(1, 3, 4, 4))
    assert [node.op for node in graph.program.nodes].count("aten.to.dtype") == 3
