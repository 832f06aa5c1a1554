"""The command that measures speed, at tiny sizes: what it writes and shows."""

from __future__ import annotations

import json
from pathlib import Path

import benchmark_speed
import pytest
import torch

from prune_gym import tasks
from prune_gym.benchmark.speed import at_scale, environments, suite
from prune_gym.benchmark.speed.suite import SpeedConfig
from prune_gym.registration import BLOCKS, LIVE, TABULAR
from prune_gym.scoring.candidates import FIDELITIES
from prune_gym.tasks import Task

CPU = torch.device("cpu")


@pytest.mark.slow
def test_the_whole_script(
    tiny_task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(suite, "TRACED", ("resnet20",))
    monkeypatch.setattr(suite, "TRACED_IMAGENET", ("torchvision/resnet18",))
    monkeypatch.setattr(suite, "apart", lambda function, *args: function(*args))  # another process has no module of a test's
    monkeypatch.setattr(tasks, "load", lambda name: tiny_task)
    monkeypatch.setattr(environments, "COPIES", {"live": 2, "table": 3})
    monkeypatch.setattr(environments, "STEPS_OF_ONE", {"live": 2, "table": 30})
    monkeypatch.setattr(at_scale, "random_task", lambda name, images: tiny_task)
    search, memory = at_scale.search, at_scale.memory
    monkeypatch.setattr(at_scale, "search", lambda task, device: search(task, device, 0.1, 0.1))
    monkeypatch.setattr(at_scale, "memory", lambda task, device: memory(task, device, 20, 1))
    config = SpeedConfig(device="cpu", repetitions=1, processes=1, images=7, search=True, out=tmp_path / "speed.json")
    benchmark_speed.main(config)
    result = json.loads((tmp_path / "speed.json").read_text())
    assert list(result) == ["machine", "trace_seconds", "environments", "memory", "scoring", "step", "search"]
    assert list(result["trace_seconds"]) == ["resnet20", "torchvision/resnet18"]
    assert list(result["scoring"]) == [*tasks.TASKS, *(f"{name}, 7 images" for name in ("vgg19", "resnet20", "resnet56"))]
    assert list(result["step"]) == list(tasks.TASKS)
    assert list(result["environments"]) == [*LIVE, *TABULAR, *BLOCKS]
    for row in result["environments"].values():
        assert row["steps_per_second_together"] == pytest.approx(row["times_those_of_one"] * row["steps_per_second"], rel=0.02)
    committed = json.loads((Path(__file__).parents[2] / "results" / "speed_cpu.json").read_text())
    assert committed.keys() <= result.keys()
    assert committed["scoring"]["digits"].keys() == result["scoring"]["digits"].keys() == set(FIDELITIES)
    for fidelity in FIDELITIES:
        assert committed["scoring"]["digits"][fidelity].keys() == result["scoring"]["digits"][fidelity].keys()
    assert committed["step"]["digits"].keys() == result["step"]["digits"].keys()
    output = capsys.readouterr().out
    assert "search of vgg19, 7 images: 202 evaluations" in output
    assert "memory over steps 1 to 20: host" in output
    result["arithmetic"] = {"vgg19": at_scale.arithmetic(tiny_task, CPU, 1, 2, 32)}
    benchmark_speed.report(result)
    assert "vgg19: masked scoring against a matrix product" in capsys.readouterr().out
