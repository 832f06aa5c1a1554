"""Uniform pruning without training: each number against the same network put together by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import prune_gym
from prune_gym.agents import config as run_config
from prune_gym.benchmark import without_training
from prune_gym.benchmark.without_training import KEY, WAYS, WithoutTrainingConfig, main, measure
from prune_gym.tasks import Task
from prune_gym.training.train import accuracy


@pytest.fixture
def config(own_tiny_task: Task, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> WithoutTrainingConfig:
    monkeypatch.setattr(run_config.RunConfig, "load_task", lambda *_, **__: own_tiny_task)
    return WithoutTrainingConfig(sparsities=(0.25,), step_ratio=0.1, criteria=("l1", "obs"), out=tmp_path / "rows.csv")


def test_rows_are_what_the_networks_do(config: WithoutTrainingConfig, own_tiny_task: Task) -> None:
    task = own_tiny_task
    found = {tuple(row[name] for name in KEY): row for row in measure(config).rows}
    assert [key[2:] for key in found] == [("0.1", "l1"), ("0.1", "obs"), ("0.25", "l1"), ("0.25", "obs")]
    row = found["tiny", "0.25", "0.25", "l1"]
    env = prune_gym.envs.PruningEnv(task, 0.25, 1.0, importance="l1", fidelity="original")
    env.reset()
    env.step(env.uniform_action)
    cut = prune_gym.compact(task.model, task.graph, env.architecture)
    images = task.train.sample(1024).inputs()
    better = prune_gym.compensate(task.model, task.graph, env.architecture, images)
    assert float(row["original"]) == pytest.approx(accuracy(cut, task.test))
    assert float(row["sequential"]) == pytest.approx(accuracy(better, task.test))
    assert float(row["macs_reduction"]) == pytest.approx(env.score().flops_reduction, abs=1e-4)
    assert len({row[way] for way in WAYS}) > 1


def test_what_is_known_is_not_computed_again(config: WithoutTrainingConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    main(config)
    text = config.out.read_bytes(), config.out.with_suffix(".md").read_bytes()
    monkeypatch.setattr(without_training, "pruned_uniformly", None)
    main(config)
    assert (config.out.read_bytes(), config.out.with_suffix(".md").read_bytes()) == text
    assert text[1].count(b"| tiny |") == 4


def test_an_unknown_criterion() -> None:
    with pytest.raises(ValueError, match="criteria"):
        WithoutTrainingConfig(criteria=("tailor",))


def test_rows_of_another_network_are_not_taken_for_these(
    config: WithoutTrainingConfig, own_tiny_task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure(config)
    first = next(iter(own_tiny_task.model.parameters()))
    with torch.no_grad():
        first.mul_(2)
    other = Task(own_tiny_task.name, own_tiny_task.model, own_tiny_task.train, own_tiny_task.val, own_tiny_task.test)
    monkeypatch.setattr(run_config.RunConfig, "load_task", lambda *_, **__: other)
    with pytest.raises(ValueError, match="holds results of tiny with other settings or another network"):
        measure(config)
