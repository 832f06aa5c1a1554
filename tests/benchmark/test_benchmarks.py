"""The benchmarks at tiny sizes: that they measure what they say, and write and show it."""

from __future__ import annotations

import gc
import json
import resource
import time
from pathlib import Path

import benchmark_speed
import numpy as np
import pytest
import torch

from prune_gym import Architecture, tasks
from prune_gym.benchmark.speed import at_scale, clock
from prune_gym.envs import PruningEnv
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
        assert row["times_arithmetic_limit"] == pytest.approx(row["milliseconds_per_candidate"] / 1e3 / limit, rel=0.15)
        assert row["evaluations_per_second"] == pytest.approx(1e3 / row["milliseconds_per_candidate"], rel=0.05)
    assert [result[name]["changed_predictions"] for name in ("float32", "tf32")] == [0, 0]  # a CPU has no TF32
    assert 0 < result["bfloat16"]["changed_predictions"] < 0.1


def test_a_search(tiny_task: Task) -> None:
    result = at_scale.search(tiny_task, CPU, sparsity=0.3, step_ratio=0.1)
    assert (result["steps"], result["evaluations"]) == (4, 404)  # 20 filters of 64, 6 per step
    assert result["milliseconds_per_evaluation"] == pytest.approx(1e3 * result["seconds"] / 404, rel=0.01)


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


def test_the_whole_script(
    tiny_task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(benchmark_speed, "TRACED", ("resnet20",))
    monkeypatch.setattr(benchmark_speed, "TRACED_IMAGENET", ("torchvision/resnet18",))
    monkeypatch.setattr(tasks, "load", lambda name: tiny_task)
    monkeypatch.setattr(at_scale, "random_task", lambda name, images: tiny_task)
    search, memory = at_scale.search, at_scale.memory
    monkeypatch.setattr(at_scale, "search", lambda task, device: search(task, device, 0.1, 0.1))
    monkeypatch.setattr(at_scale, "memory", lambda task, device: memory(task, device, 20, 1))
    config = benchmark_speed.Config(device="cpu", repetitions=1, images=7, search=True, out=tmp_path / "speed.json")
    benchmark_speed.main(config)
    result = json.loads((tmp_path / "speed.json").read_text())
    assert list(result) == ["machine", "trace_seconds", "memory", "scoring", "step", "search"]
    assert list(result["trace_seconds"]) == ["resnet20", "torchvision/resnet18"]
    assert list(result["scoring"]) == [*tasks.TASKS, "vgg19, 7 images", "resnet56, 7 images"]
    assert list(result["step"]) == list(tasks.TASKS)
    committed = json.loads((Path(__file__).parents[2] / "results" / "speed_cpu.json").read_text())
    assert committed.keys() <= result.keys()
    assert committed["scoring"]["digits"].keys() == result["scoring"]["digits"].keys()
    assert committed["step"]["digits"].keys() == result["step"]["digits"].keys()
    output = capsys.readouterr().out
    assert "search of vgg19, 7 images: 202 evaluations" in output
    assert "memory over steps 1 to 20: host" in output
    result["arithmetic"] = {"vgg19": at_scale.arithmetic(tiny_task, CPU, 1, 2, 32)}
    benchmark_speed.report(result)
    assert "vgg19: masked scoring against a matrix product" in capsys.readouterr().out


def test_passes_of_masked_networks_are_timed(tiny_task: Task, tiny_architectures: list[Architecture]) -> None:
    graph, split = tiny_task.graph, tiny_task.val
    inference = masked.Inference(graph.program, named_tensors(tiny_task.model, graph), graph.units)
    network = MaskedNetwork(inference, graph, split.images, split.labels, len(split))
    with benchmark_speed.passes_timed(CPU) as passes:
        network.accuracy(tiny_architectures[1].mask)
    assert len(passes) == 2  # on a CPU, the pass is that of a program, too
    assert 0 < passes[0] < passes[1]


def test_memory_needs_a_system_that_tells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(at_scale, "STATM", tmp_path / "statm")
    with pytest.raises(ValueError, match=r"memory: expected a system with .*statm, this one has none; use --no-memory"):
        benchmark_speed.main(benchmark_speed.Config(device="cpu", out=tmp_path / "speed.json"))
