"""The command that exports the network of a run: what it writes and prints, and its mistakes."""

from __future__ import annotations

import json
from functools import partial

import export as script
import pytest
import torch

import prune_gym
from prune_gym import tasks
from prune_gym.agents import RunConfig, export_run, run
from prune_gym.benchmark.command import run_command
from prune_gym.scoring.latency import latencies


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return run(
        RunConfig(agent="uniform", sparsity=0.3, step_ratio=0.1, evaluations=10, device="cpu", out=tmp_path_factory.mktemp("run"))
    )


def test_command_line(finished, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(export_run, "latencies", partial(latencies, budget=0.02))

    def command(*arguments):
        run_command(script.main, script.ExportConfig, script.__doc__, arguments=[str(argument) for argument in arguments])

    out = tmp_path / "small.safetensors"
    command(finished.folder, "--format", "safetensors", "--no-compensate", "--out", out, "--device", "cpu")
    report, shown = json.loads((tmp_path / "small.safetensors.json").read_text()), capsys.readouterr().out
    assert report["format"] == "safetensors"
    small = report["networks"]["pruned"]
    for text in ("as safetensors", f"{small['macs']:,}", f"{small['params']:,}", "latency", "400 test images"):
        assert text in shown
    assert f"Written: {out} and small.safetensors.json" in shown
    network, original = prune_gym.load_pruned(out), prune_gym.load_pruned(finished.folder / "pruned.safetensors")
    x = tasks.load("digits").test.images[:5]
    assert torch.equal(network(x), original(x))
    with pytest.raises(SystemExit, match=r"error: run: expected the folder of a run, made by train_agent.py; .* is not a folder"):
        command(tmp_path / "none")
    with pytest.raises(SystemExit, match="2"):  # reported by tyro
        command(tmp_path, "--round-to", 0)
    assert "round_to: expected an integer >= 1, got 0" in capsys.readouterr().err
