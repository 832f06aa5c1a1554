"""Why RL-Pruner is weak on small budgets: what is measured, and that the docs say what was."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from prune_gym import tasks
from prune_gym.agents import RLPruner, RLPrunerConfig, RunConfig
from prune_gym.agents.rl_pruner import initial_policy, layers_by_group
from prune_gym.benchmark import processes
from prune_gym.benchmark import rl_pruner_study as module
from prune_gym.benchmark.rl_pruner_study import (
    NOISE,
    OBJECTIVE,
    SEARCH,
    VARIANTS,
    StudyConfig,
    found,
    noise,
    objective,
    study,
    tables,
)
from prune_gym.benchmark.rows import Rows
from prune_gym.envs import PruningEnv
from prune_gym.scoring.evaluation import Evaluator
from prune_gym.tasks import Task

ROOT = Path(__file__).parents[2]


def test_the_share_of_entries_at_the_floor_in_closed_form() -> None:
    config = RLPrunerConfig()
    groups, channels = layers_by_group(tasks.load("digits").graph)
    policy = initial_policy(channels, groups)
    expected = stats.norm.cdf((config.min_probability - policy) / config.noise_std).mean()
    row = noise("digits", samples=4000)
    assert row["zeroed"] == pytest.approx(expected, abs=0.01)
    assert 0 < float(str(row["distance"])) < 2
    assert row["layers"] == len(policy)


def test_both_objectives_of_the_same_actions() -> None:
    row = objective("digits", 0.5, 3, 8)
    env = PruningEnv("digits", macs_reduction=0.5, device="cpu", reward="accuracy")
    agent = RLPruner(env, seed=3)
    env.reset()
    ahead, there = [], []
    for _ in range(8):
        action = agent.group_action(agent.sample_action()).astype(np.float32)
        env.reset()
        ahead.append(env.step(action)[4]["accuracy"])
        env.reset()
        there.append(env.preview([action], to_target=True)[0].score.accuracy)
    assert row["spearman"] == pytest.approx(stats.spearmanr(ahead, there).statistic, abs=1e-3)
    assert (row["distinct"], row["spread"]) == (len(set(ahead)), pytest.approx(np.std(ahead), abs=1e-5))


def test_equal_accuracies_rank_nothing(tiny_task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Evaluator, "accuracies", lambda self, architectures: [0.5] * len(architectures))
    row = objective(tiny_task, 0.3, 0, 4)  # type: ignore[arg-type]  # a task by name elsewhere
    assert (row["spearman"], row["distinct"], row["spread"]) == (0.0, 1, 0.0)


def test_what_a_variant_finds() -> None:
    config = RunConfig(task="digits", macs_reduction=0.3, seed=1, evaluations=8, device="cpu", **VARIANTS["lookahead"])
    row = found(("lookahead", config))
    assert set(row) == set(SEARCH)
    assert 0 < float(str(row["narrowest"])) < 1
    assert row["evaluations"] == 6  # no stage of ten samples is paid for


def test_the_same_command_again_computes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "ProcessPoolExecutor", lambda n, *_, **__: ThreadPoolExecutor(n))
    monkeypatch.setattr(module, "VARIANTS", {name: VARIANTS[name] for name in ("uniform", "rl_pruner")})
    monkeypatch.setattr(module, "PAPER_NETWORKS", ())
    config = StudyConfig(tasks=("digits",), macs_reductions=(0.2,), seeds=2, evaluations=8, samples=3, processes=1, out=tmp_path)
    first = tables(*study(config))
    for name in ("noise", "objective", "found"):
        monkeypatch.setattr(module, name, None)
    assert tables(*study(config)) == first
    assert "| digits | -20% |" in first
    for name in ("objective", "found"):
        monkeypatch.setattr(module, name, lambda *_: pytest.fail("computed"))
    for change in ({"evaluations": 9}, {"samples": 4}):
        with pytest.raises(pytest.fail.Exception):  # of other settings, nothing is known
            study(replace(config, **change))
    assert {row["seed"] for row in Rows(tmp_path / "search.csv", SEARCH, SEARCH[:5]).rows} == {"100", "101"}


def test_the_docs_show_the_committed_tables() -> None:
    folder, docs = ROOT / "results" / "rl_pruner_study", (ROOT / "docs" / "rl_pruner.md").read_text()
    for line in (folder / "tables.md").read_text().splitlines():
        assert line in docs
    noises = Rows(folder / "noise.csv", NOISE, ("network",), filled=True)
    objectives = Rows(folder / "objective.csv", OBJECTIVE, OBJECTIVE[:4], filled=True)
    searches = Rows(folder / "search.csv", SEARCH, SEARCH[:5], filled=True)
    assert tables(noises, objectives, searches) == (folder / "tables.md").read_text()
    rows = searches.rows
    assert {row["variant"] for row in rows} == set(VARIANTS)
    assert len({row["seed"] for row in rows}) >= 5
