"""Measurements at the size of the paper, at tiny sizes: that they measure what they say."""

from __future__ import annotations

import gc
import resource

import numpy as np
import pytest
import torch

from prune_gym.benchmark.speed import at_scale
from prune_gym.envs import PruningEnv
from prune_gym.scoring.masked import MaskedNetwork
from prune_gym.tasks import Task

CPU = torch.device("cpu")


def test_arithmetic(tiny_task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    seen: list[tuple[bool, bool]] = []
    count = MaskedNetwork._count

    def watched(self: MaskedNetwork) -> None:
        seen.append((torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32))
        count(self)

    monkeypatch.setattr(MaskedNetwork, "_count", watched)
    monkeypatch.setattr(at_scale, "ARITHMETIC", {"cpu": ("float32", "tf32", "bfloat16")})
    result = at_scale.arithmetic(tiny_task, CPU, repetitions=1, candidates=2, size=512)
    assert list(result) == ["float32", "tf32", "bfloat16"]
    assert seen == [(False, False)] * 4 + [(True, True)] * 4 + [(False, False)] * 4  # two candidates, once to warm up
    assert settings == (torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32)
    operations = 2 * tiny_task.graph.cost(tiny_task.graph.full()).macs * len(tiny_task.val)
    for row in result.values():
        limit = operations / (row["matrix_product_teraflops"] * 1e12)
        assert row["times_arithmetic_limit"] == pytest.approx(row["milliseconds_per_candidate"] / 1e3 / limit, rel=0.01)
        assert row["evaluations_per_second"] == pytest.approx(1e3 / row["milliseconds_per_candidate"], rel=0.01)
    assert [result[name]["changed_predictions"] for name in ("float32", "tf32")] == [0, 0]  # a CPU has no TF32
    assert 0 < result["bfloat16"]["changed_predictions"] < 0.1


def test_a_search(tiny_task: Task) -> None:
    result = at_scale.search(tiny_task, CPU, sparsity=0.3, step_ratio=0.1)
    assert (result["steps"], result["evaluations"]) == (4, 404)  # 20 filters of 64, 6 per step
    assert result["milliseconds_per_evaluation"] == pytest.approx(1e3 * result["seconds"] / 404, rel=0.01)


@pytest.mark.slow
def test_memory(tiny_task: Task) -> None:
    curve = at_scale.memory_over(PruningEnv(tiny_task, device=CPU), steps=42, samples=4)
    assert [row["step"] for row in curve] == [11, 21, 32, 42]
    curves = at_scale.memory(tiny_task, CPU, steps=3, trainings=2)
    assert {what: [row["step"] for row in curve] for what, curve in curves.items()} == {
        "steps": [1, 2, 3],
        "post-trainings": [1, 2],
    }
    gc.collect()
    before = at_scale.host_bytes()
    ballast = np.ones(5 * 10**7)
    assert 0.8 * ballast.nbytes < at_scale.host_bytes() - before < 1.2 * ballast.nbytes
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    assert all(10 < row["host_megabytes"] <= largest / 1e6 for row in curve)
