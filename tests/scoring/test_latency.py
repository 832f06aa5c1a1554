"""What networks cost where they run."""

from __future__ import annotations

import time

import pytest
import torch
import zoo
from torch import nn

from prune_gym.scoring import latency
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


class Clock:
    """A clock that only moves when a network runs."""

    def __init__(self):
        self.now = 100.0

    def perf_counter(self):
        return self.now


class Timed(nn.Module):
    """Takes the given seconds, run after run, the last of them again and again."""

    def __init__(self, clock, *taken):
        super().__init__()
        self.clock, self.taken, self.runs = clock, list(taken), 0

    def forward(self, x):
        self.clock.now += self.taken[min(self.runs, len(self.taken) - 1)]
        self.runs += 1
        return x


@pytest.mark.parametrize(("budget", "runs"), [(1e-9, 5), (1.0, 5), (1.1, 6), (1.21875, 6), (3.0, 15)])
def test_runs_that_fit_into_the_budget(budget, runs, monkeypatch):
    clock = Clock()
    monkeypatch.setattr(latency, "time", clock)
    slow, quick = Timed(clock, 0.375), Timed(clock, 0.03125)
    found = latencies({"slow": slow, "quick": quick}, torch.zeros(1), budget)
    assert found == {"slow": 375, "quick": 31.25}
    # both together get twice the budget, and the run in which it ends counts
    assert slow.runs == quick.runs == 5 + runs
    if budget == 1:
        latencies({"slow": slow, "quick": quick}, torch.zeros(1))  # the default
        assert slow.runs == 2 * (5 + runs)


def test_the_first_five_runs_are_not_timed_and_the_median_counts(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(latency, "time", clock)
    network = Timed(clock, *[64.0] * 5, 4.0, 1.0, 2.0, 16.0, 8.0)
    assert latencies({"a": network}, torch.zeros(1), 1e-9) == {"a": 4000}
    assert latencies({}, torch.zeros(1)) == {}


def test_latencies_are_measured_without_gradients():
    modes = []
    network = zoo.Net(lambda net, y: modes.append(torch.is_inference_mode_enabled()) or y)
    latencies({"a": network}, torch.zeros(1, 3, 4, 4), 1e-9)
    assert modes == [True] * 10


def test_peak_memory_of_operators_with_keywords():
    network = zoo.Net(lambda net, y: torch.ones(y.shape[0], 3, dtype=torch.float64))
    assert peak_memory(network, torch.zeros(7, 3, 4, 4)) == 4 * 7 * 48 + 8 * 7 * 3


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
