"""The comparison of agents: what is run, what is kept, and what is refused."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from prune_gym import tasks
from prune_gym.agents import RunConfig
from prune_gym.benchmark import comparison
from prune_gym.benchmark import processes as work
from prune_gym.benchmark.comparison import COLUMNS, KEY, ComparisonConfig, compare, describe, evaluate, row_key
from prune_gym.benchmark.rows import Rows
from prune_gym.training.distillation import PostTraining
from prune_gym.training.train import accuracy

QUICK: dict[str, Any] = {"tasks": ("digits",), "macs_reductions": (0.2,), "agents": ("uniform",), "seeds": 1, "evaluations": 5}


def test_every_agent_on_every_task_at_every_target_with_every_seed() -> None:
    config = ComparisonConfig(seeds=2, evaluations=70, posttraining=PostTraining(epochs=3))
    runs = config.runs()
    assert [(run.task, run.macs_reduction, run.agent, run.seed) for run in runs] == list(
        product(("digits", "digits-resnet", "digits-mobilenet"), (0.5, 0.75), config.agents, (0, 1))
    )
    for run in runs:
        others = RunConfig(task=run.task, macs_reduction=run.macs_reduction, agent=run.agent, seed=run.seed)
        assert (run.evaluations, run.posttraining.epochs, run.device) == (70, 3, "cpu")
        assert run.settings() | {"evaluations": None, "posttraining": None, "device": "auto"} == others.settings() | {
            "posttraining": None
        }


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"seeds": 0}, ValueError, "seeds: expected an integer >= 1, got 0"),
        ({"processes": 0}, ValueError, "processes: expected an integer >= 1, got 0"),
        ({"evaluations": 0}, ValueError, "evaluations: expected an integer >= 1, got 0"),
        ({"seeds": "5"}, TypeError, "seeds: expected an integer"),
        ({"agents": ()}, ValueError, "agents: expected at least one, got none"),
        ({"agents": ("ppo", "uniform", "ppo")}, ValueError, "agents: expected different ones, got ppo uniform ppo"),
        ({"agents": ("rl_prunr",)}, ValueError, r"agents: .* Did you mean 'rl_pruner'\?"),
        ({"tasks": ()}, ValueError, "tasks: expected at least one"),
        ({"tasks": ("digit",)}, ValueError, r"tasks: .* Did you mean 'digits'\?"),
        ({"macs_reductions": ()}, ValueError, "macs_reductions: expected at least one"),
        ({"macs_reductions": (0.5, 0.50)}, ValueError, "macs_reductions: expected different ones, got 0.5 0.5"),
        ({"macs_reductions": (0.5, 1.0)}, ValueError, r"macs_reductions: expected a number in \(0, 1\), got 1.0"),
    ],
)
def test_bad_settings_are_named(settings: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"^{message}"):
        ComparisonConfig(**settings)


def test_a_row() -> None:
    run = ComparisonConfig(**QUICK).runs()[0]
    row = evaluate(run)
    assert row | row_key(run) == row
    assert tuple(row) == COLUMNS
    assert row["evaluations"] == 4  # all that it can do
    task = tasks.load("digits")
    env = run.environment(task)
    env.reset()
    while env.steps_left:
        env.step(env.uniform_action)
    architecture, network = env.best.snapshot.architecture, env.simulator.network(env.best.snapshot)
    cost, full = task.graph.cost(architecture), task.graph.full()
    assert row["compute"] == env.compute.macs
    assert row["channel_sparsity"] == pytest.approx(architecture.channel_sparsity, abs=1e-6)
    assert row["flops_reduction"] >= 0.2
    assert row["val_accuracy"] == pytest.approx(accuracy(network, task.val))
    assert row["test_accuracy"] == pytest.approx(accuracy(network, task.test))
    assert row["flops_reduction"] == pytest.approx(1 - cost.macs / task.graph.cost(full).macs, abs=1e-6)
    assert row["params_reduction"] == pytest.approx(1 - cost.params / task.graph.cost(full).params, abs=1e-6)


def test_what_tells_rows_apart() -> None:
    run = RunConfig(
        task="digits-resnet", macs_reduction=0.3, agent="ppo", seed=4, evaluations=9, posttraining=PostTraining(epochs=2)
    )
    assert row_key(run) == dict(zip(KEY, ("digits-resnet", 0.3, "recalibrated", "ppo", 4, 9, "epochs 2"), strict=True))
    assert row_key(RunConfig())["budget"] == ""
    assert describe(PostTraining()) == describe(PostTraining(epochs=0, learning_rate=0.5)) == ""
    assert describe(PostTraining(epochs=2, learning_rate=0.5)) == "epochs 2, learning_rate 0.5"


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[RunConfig]]:
    """Runs are made up, and noted, in threads of this process; gives what was run since the last call."""
    done: list[RunConfig] = []

    def made_up(run: RunConfig) -> dict[str, object]:
        done.append(run)
        return row_key(run) | dict.fromkeys(COLUMNS[len(KEY) :], 0.25)

    monkeypatch.setattr(comparison, "evaluate", made_up)
    monkeypatch.setattr(work, "ProcessPoolExecutor", lambda processes, *_, **__: ThreadPoolExecutor(processes))

    def since() -> list[RunConfig]:
        found = done.copy()
        done.clear()
        return found

    return since


def test_only_missing_rows_are_computed(tmp_path: Path, in_process: Callable[[], list[RunConfig]]) -> None:
    settings = QUICK | {"out": tmp_path / "found.csv"}
    compare(ComparisonConfig(**settings))
    assert len(in_process()) == 1
    compare(ComparisonConfig(**settings | {"seeds": 3, "agents": ("uniform", "random")}))
    assert {(run.agent, run.seed) for run in in_process()} == {("uniform", 1), ("uniform", 2), *(("random", s) for s in range(3))}
    content = settings["out"].read_bytes()
    rows = compare(ComparisonConfig(**settings | {"seeds": 2}))
    assert in_process() == []
    assert len(rows.rows) == 6
    assert settings["out"].read_bytes() == content
    for change in (
        {"evaluations": 6},
        {"evaluations": None},
        {"posttraining": PostTraining(epochs=1)},
        {"macs_reductions": (0.3,)},
    ):
        compare(ComparisonConfig(**settings | change))
        assert len(in_process()) == 1


def test_rows_that_were_finished_are_kept(
    tmp_path: Path, in_process: Callable[[], list[RunConfig]], monkeypatch: pytest.MonkeyPatch
) -> None:
    made_up = comparison.evaluate

    def fails(run: RunConfig) -> dict[str, object]:
        if run.seed == 2:
            raise ValueError("evaluations: too few")
        return made_up(run)

    config = ComparisonConfig(**QUICK | {"seeds": 3, "processes": 1, "out": tmp_path / "found.csv"})
    with monkeypatch.context() as patch:
        patch.setattr(comparison, "evaluate", fails)
        with pytest.raises(ValueError, match="evaluations: too few"):
            compare(config)
    kept = {int(row["seed"]) for row in Rows(config.out, COLUMNS, KEY).rows}
    assert kept <= {0, 1}
    in_process()
    assert len(compare(config).rows) == 3
    assert {run.seed for run in in_process()} == {0, 1, 2} - kept


def test_a_worker_that_is_killed_ends_the_comparison(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tasks.load("digits")
    monkeypatch.setattr(work, "_prepare", partial(os._exit, 1))  # the first that a worker calls
    with pytest.raises(ChildProcessError, match="processes: a run was killed"):
        compare(ComparisonConfig(**QUICK, processes=1, out=tmp_path / "found.csv"))


@pytest.mark.slow
def test_the_real_thing_in_worker_processes(tmp_path: Path) -> None:
    out = tmp_path / "found.csv"
    config = ComparisonConfig(**QUICK, processes=1, out=out)
    (found,) = compare(config).rows
    assert (found["agent"], found["seed"], found["budget"], found["evaluations"]) == ("uniform", "0", "5", "4")
    out.write_text(re.sub(r"0\.\d+$", "0.123456", out.read_text(), flags=re.MULTILINE))
    (kept,) = compare(config).rows
    assert kept["channel_sparsity"] == "0.123456"


def test_the_table_alone(tmp_path: Path, in_process: Callable[[], list[RunConfig]]) -> None:
    out = tmp_path / "none.csv"
    with pytest.raises(ValueError, match=r"out: .*none.csv holds no results yet; run the same command without --table-only"):
        compare(ComparisonConfig(out=out, table_only=True))
    compare(ComparisonConfig(**QUICK, out=out))
    in_process()
    assert len(compare(ComparisonConfig(out=out, table_only=True)).rows) == 1
    assert in_process() == []
