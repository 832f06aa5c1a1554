"""What networks cost where they run."""

from __future__ import annotations

import time

import pytest
import torch
import zoo
from torch import nn

from prune_gym.scoring.latency import latencies, peak_memory


def test_latencies_are_medians_of_turns():
    calls = []

    class Sleeper(nn.Module):
        def __init__(self, name, milliseconds):
            super().__init__()
            self.name, self.milliseconds = name, milliseconds

        def forward(self, x):
            calls.append(self.name)
            time.sleep(0.2 if calls.count(self.name) in (1, 8) else self.milliseconds / 1000)  # two outliers

    found = latencies({"a": Sleeper("a", 2), "b": Sleeper("b", 40)}, torch.zeros(1), budget=0.1)
    assert 2 <= found["a"] < 40 <= found["b"] < 200
    assert calls == ["a", "b"] * (len(calls) // 2)
    assert len(calls) >= 20
    with pytest.raises(ValueError, match=r"budget: expected a number in \(0, inf\), got 0"):
        latencies({"a": nn.Identity()}, torch.zeros(1), budget=0)


def test_peak_memory_of_a_chain():
    network = zoo.chain(6, 5)
    places = 4 * 7 * 8 * 8  # bytes of a channel of seven images
    own = 4 * sum(p.numel() for p in network.parameters())
    expected = own + 3 * places + 2 * 6 * places  # the first activation, while its input is still there
    assert peak_memory(network, zoo.images((3, 8, 8), 7)) == expected
    assert peak_memory(network, zoo.images((3, 8, 8), 70)[:7]) == expected  # of a larger tensor


def test_peak_memory_grows_with_what_is_in_use_and_not_with_depth():
    x = zoo.images((3, 8, 8), 7)

    def activations(network):
        return peak_memory(network, x) - 4 * sum(p.numel() for p in network.parameters())

    assert activations(zoo.chain(6)) == activations(zoo.chain(*[6] * 9))
    held = zoo.Net(lambda net, y: sum([net.conv(y) for _ in range(5)]), conv=nn.Conv2d(3, 3, 1))
    assert activations(held.eval()) == 4 * 7 * 64 * 3 * (1 + 5 + 2)  # the images, five results, a sum and the one before it
