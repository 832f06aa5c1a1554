"""The clock, and which part of a step the networks take."""

from __future__ import annotations

import time

import pytest
import torch

from prune_gym import Architecture
from prune_gym.benchmark.speed import clock, scoring
from prune_gym.scoring import masked
from prune_gym.scoring.latency import seconds
from prune_gym.scoring.masked import MaskedNetwork
from prune_gym.surgery.slicing import named_tensors
from prune_gym.tasks import Task

CPU = torch.device("cpu")


def test_the_clock() -> None:
    assert 0.02 <= seconds(lambda: time.sleep(0.02), CPU) < 2
    pauses = iter([0.0, 0.3, 0.0, 0.03])
    assert 0.03 <= clock.median_seconds(lambda: time.sleep(next(pauses)), 3, CPU) < 0.3


def test_passes_of_masked_networks_are_timed(tiny_task: Task, tiny_architectures: list[Architecture]) -> None:
    graph, split = tiny_task.graph, tiny_task.val
    inference = masked.Inference(graph.program, named_tensors(tiny_task.model, graph), graph.units)
    network = MaskedNetwork(inference, graph, split.images, split.labels, len(split))
    with scoring.passes_timed(CPU) as passes:
        network.accuracy(tiny_architectures[1].mask)
    assert len(passes) == 2  # on a CPU, the pass is that of a program, too
    assert 0 < passes[0] < passes[1]


def test_shares_and_ratios(tiny_task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter(range(1, 10**6))

    def counted(function: object, device: torch.device) -> float:
        function()  # type: ignore[operator]
        return float(next(ticks))

    monkeypatch.setattr(scoring, "seconds", counted)
    found = scoring.scoring(tiny_task, CPU, repetitions=1, candidates=3)
    # three calls for each of the batch sizes, of which the first is the fastest; then before, preview and after
    before, preview, after = 16.0, 17.0, 18.0
    assert found["best_batch_size"] == min(scoring.BATCH_SIZES)
    assert found["ratio_to_bare_passes"] == preview / ((before + after) / 2)
    assert found["evaluations_per_second"] == round(3 / preview, 2)


def test_the_share_of_the_passes_in_a_step(tiny_task: Task) -> None:
    found = scoring.step_shares(tiny_task, CPU, repetitions=1)
    assert 0 < found["share_of_passes"] < 1
    assert found["milliseconds"] > 0
