"""The paper's tables and figures at tiny sizes: what is pruned, what is written, and what is kept."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from prune_gym import importance, tasks
from prune_gym.agents import RunConfig
from prune_gym.benchmark.paper import experiment, tables_and_figures
from prune_gym.benchmark.paper.experiment import Experiment
from prune_gym.benchmark.paper.scales import Scale
from prune_gym.benchmark.paper.tables_and_figures import REWARDS
from prune_gym.benchmark.rows import Rows
from prune_gym.training.train import accuracy


@pytest.fixture
def configs(monkeypatch: pytest.MonkeyPatch) -> list[RunConfig]:
    """The settings of all agents that are made."""
    seen: list[RunConfig] = []
    make = experiment.make_agent

    def note(config: RunConfig, env: Any) -> Any:
        seen.append(config)
        return make(config, env)

    monkeypatch.setattr(experiment, "make_agent", note)
    return seen


def content(rows: Any) -> list[dict[str, str]]:
    with rows.path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_table2(make_experiment: Callable[..., Experiment], tiny: Scale, configs: list[RunConfig]) -> None:
    rows = tables_and_figures.table2(make_experiment())
    assert [config.agent for config in configs] == ["rl_pruner", "uniform", "taylor", "taylor"]  # one-shot: once a sparsity
    found = content(rows)
    ours = [row for row in found if row["top1"]]
    assert [(row["method"], row["sparsity"]) for row in ours] == [
        (method, sparsity) for method in ("rl_pruner", "taylor", "uniform") for sparsity in ("0.2", "0.4")
    ]
    graph = tasks.load("digits-resnet").graph
    for row in ours:
        steps = tiny.steps(float(row["sparsity"]), tasks.load("digits-resnet").graph)
        assert float(row["channel_sparsity"]) == round(steps * int(0.1 * graph.n_filters) / graph.n_filters, 4)
        assert row["top1_before_posttraining"]
        assert row["protocol"] == "reward on validation"
        task = tasks.load("digits-resnet")
        assert float(row["base_top1"]) == round(100 * accuracy(task.model, task.test), 2)
    theirs = [row for row in found if not row["top1"]]
    assert {row["method"] for row in theirs} == {"rl_pruner", "greg", "depgraph", "gnn_rl"}
    assert {row["paper_network"] for row in theirs} == {"resnet56"}
    assert not list(rows.path.parent.glob(".*"))  # no journal is left
    again = tables_and_figures.table2(make_experiment("again"))
    assert again.path.read_bytes() == rows.path.read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("stop_after", [1, 3])
def test_an_interrupted_experiment_goes_on(
    make_experiment: Callable[..., Experiment], brief: Scale, monkeypatch: pytest.MonkeyPatch, stop_after: int
) -> None:
    whole = tables_and_figures.table1(make_experiment("whole", brief))
    left = [stop_after]
    measure = Experiment.measure

    def stop(*arguments: Any) -> Any:
        if left[0] == 0:
            raise KeyboardInterrupt
        left[0] -= 1
        return measure(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Experiment, "measure", stop)
        with pytest.raises(KeyboardInterrupt):
            tables_and_figures.table1(make_experiment("stopped", brief))
    stopped = Rows(whole.path.parents[1] / "stopped" / "table1.csv", whole.columns, whole.key)
    assert len(stopped.rows) == stop_after
    assert tables_and_figures.table1(make_experiment("stopped", brief)).path.read_bytes() == whole.path.read_bytes()


def test_table1_stands_beside_the_paper(
    make_experiment: Callable[..., Experiment], brief: Scale, configs: list[RunConfig]
) -> None:
    found = content(tables_and_figures.table1(make_experiment(scale=brief)))
    assert [(row["reward"], row["sparsity"], row["paper_top1"]) for row in found] == [
        ("accuracy", "0.2", "70.79"),
        ("accuracy", "0.4", "68.33"),
        ("flops", "0.2", "71.21"),
        ("flops", "0.4", "68.36"),
        ("params", "0.2", "71.41"),
        ("params", "0.4", "68.46"),
    ]
    assert [(config.agent, config.reward) for config in configs] == [("rl_pruner", reward) for reward in REWARDS]


def test_table3_differs_in_exploration_alone(
    make_experiment: Callable[..., Experiment], brief: Scale, configs: list[RunConfig]
) -> None:
    rows = tables_and_figures.table3(make_experiment(scale=replace(brief, sparsities=(0.25,), step_ratio=0.25)))
    found = [(config.rl_pruner.epsilon, config.rl_pruner.epsilon_decay) for config in configs]
    assert found == list(tables_and_figures.EXPLORATION)
    assert {config.rl_pruner.samples for config in configs} == {2}
    assert len(rows.rows) == 7
    assert {row["paper_top1"] for row in rows.rows} == {"72.94", "72.71", "73.10", "72.98", "73.46"}


def test_table4_trains_the_same_architecture_from_scratch(
    make_experiment: Callable[..., Experiment], brief: Scale, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = []
    train = tables_and_figures.train

    def spy(network: Any, *arguments: Any, **more: Any) -> None:
        before = {name: tensor.detach().clone() for name, tensor in network.named_parameters()}
        trained.append((before, len(arguments[0]), arguments[1]))
        train(network, *arguments, **more)

    monkeypatch.setattr(tables_and_figures, "train", spy)
    (row,) = content(tables_and_figures.table4(make_experiment(scale=replace(brief, sparsities=(0.4,)), seed=5)))
    ((parameters, images, recipe),) = trained
    assert recipe == replace(brief.scratch, seed=5)
    task = tasks.load("digits-resnet")
    assert images == len(task.train)  # all of them, not the few of post-training
    assert sum(p.numel() for p in parameters.values()) < sum(p.numel() for p in task.model.parameters())
    own = dict(task.model.named_parameters())
    for name, fresh in parameters.items():
        if fresh.ndim == 4:  # of 32-bit numbers a few are equal by chance
            assert np.isin(fresh.numpy(), own[name].detach().numpy()).mean() < 0.01
    assert float(row["gain"]) == pytest.approx(float(row["pruned_top1"]) - float(row["scratch_top1"]), abs=0.006)
    assert row["paper_gain"] == "0.51"


def test_figure1_shares(make_experiment: Callable[..., Experiment], brief: Scale) -> None:
    experiment = make_experiment(scale=replace(brief, sparsities=(0.0, 0.4)))
    found = content(tables_and_figures.figure1(experiment))
    (base,) = experiment.bases(("vgg19", "cifar100"))
    images, labels = base.task.calibration.images, base.task.calibration.labels
    assert len(images) == 64  # all training images of the scale
    scores = importance("taylor")(base.task.model, base.task.graph, images, labels)
    first = [row for row in found if row["sparsity"] == "0.0"]
    np.testing.assert_allclose([float(row["importance"]) for row in first], [s.mean() for s in scores], rtol=1e-3)
    for sparsity in ("0.0", "0.4"):
        assert sum(float(row["share"]) for row in found if row["sparsity"] == sparsity) == pytest.approx(1, abs=1e-3)
    assert [row["group"] for row in first] == [group.name for group in base.task.graph.groups]
    assert all(row["kept"] == row["width"] for row in first)
    last = [row for row in found if row["sparsity"] == "0.4"]
    filters = [group.filters_per_unit for group in base.task.graph.groups]
    removed = sum((int(row["width"]) - int(row["kept"])) * n for row, n in zip(last, filters, strict=True))
    assert {row["channel_sparsity"] for row in last} == {str(round(removed / base.task.graph.n_filters, 4))}


def test_figure3_tells_every_step(make_experiment: Callable[..., Experiment], brief: Scale, configs: list[RunConfig]) -> None:
    found = content(tables_and_figures.figure3(make_experiment(scale=replace(brief, sparsities=(0.4,)))))
    groups = [group.name for group in tasks.load("digits-resnet").graph.groups]
    assert [(row["reward"], row["step"], row["group"]) for row in found] == [
        (reward, str(step), group) for reward in REWARDS for step in range(3) for group in groups
    ]
    assert all(int(row["kept"]) == int(row["width"]) for row in found if row["step"] == "0")
    assert [(config.agent, config.reward) for config in configs] == [("rl_pruner", reward) for reward in REWARDS]


def test_results_of_other_settings_are_not_mixed(make_experiment: Callable[..., Experiment], brief: Scale) -> None:
    scale = replace(brief, sparsities=(0.4,))
    tables_and_figures.figure1(make_experiment(scale=scale))
    for other in ({"seed": 1}, {"protocol": "paper"}, {"scale": replace(scale, val_images=65)}):
        with pytest.raises(ValueError, match=r"out: .* other settings"):
            tables_and_figures.figure1(make_experiment(**({"scale": scale} | other)))
