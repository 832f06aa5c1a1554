"""Latency as a part of rewards."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import numpy as np
import pytest

from prune_gym import tables
from prune_gym.agents import RunConfig
from prune_gym.agents.own import describe_function
from prune_gym.benchmark.harness import BenchmarkConfig
from prune_gym.benchmark.rewards.__main__ import LatencyConfig, main
from prune_gym.benchmark.submissions import COLUMNS, read_submission
from prune_gym.envs import BlocksEnv, PruningEnv
from prune_gym.envs.table_vector import BlocksVectorEnv
from prune_gym.scoring.evaluation import Score
from prune_gym.scoring.latency_model import LatencyModel, random_widths, read_latency_model
from prune_gym.simulation.formula import formula
from prune_gym.simulation.latency_term import Latency
from prune_gym.simulation.rewards import lasting_text
from prune_gym.simulation.table import Table
from prune_gym.tasks import Task


def timed(full: np.ndarray, path: Path) -> str:
    widths = random_widths(full, 60, np.random.default_rng(0))
    shares = 0.2 + 0.8 * (widths / full).mean(1)
    LatencyModel("a clock", 1, 1.0, np.zeros((0, 2), int), full, widths, shares).save(path)
    return f'latency("{path}")'


@pytest.fixture(scope="module")
def table() -> Table:
    return tables.load("digits-mobilenet")


@pytest.fixture
def text(table: Table, tmp_path: Path) -> str:
    return timed(table.widths(np.array(table.shape) - 1), tmp_path / "clock's times.json")


def test_a_text_leads_back_to_the_formula(text: str) -> None:
    reward = formula(f"mine: accuracy - 0.1 * {text}")
    assert formula(str(reward)) == reward
    assert pickle.loads(pickle.dumps(reward)) == copy.deepcopy(reward) == reward
    assert reward != formula("accuracy")
    assert any(isinstance(part, Latency) for part in reward.walk())
    assert reward.elementwise
    assert not reward.reads_before


def test_environments_on_tables(text: str, table: Table) -> None:
    env = BlocksEnv(table=table, macs_reduction=0.8, reward=text)
    env.reset(seed=0)
    found = []
    for action in (0, 3, 3, 5):
        _, reward, _, _, info = env.step(action)
        assert reward == pytest.approx(0.2 + 0.8 * (info["widths"] / table.widths(np.array(table.shape) - 1)).mean())
        found.append(reward)
    many = BlocksVectorEnv(2, table=table, macs_reduction=0.8, reward=f"2 * {text}")
    many.reset(seed=0)
    np.testing.assert_allclose([many.step(np.array([action] * 2))[1] for action in (0, 3, 3, 5)], 2 * np.array([found] * 2).T)


def test_live_environments(tiny_task: Task, tmp_path: Path) -> None:
    text = timed(tiny_task.graph.widths, tmp_path / "clock.json")
    env = PruningEnv(tiny_task, macs_reduction=0.4, reward=f"accuracy - {text}", device="cpu")
    env.reset()
    _, reward, _, _, info = env.step(env.uniform_action)
    expected = info["accuracy"] - 0.2 - 0.8 * (info["widths"] / tiny_task.graph.widths).mean()
    assert reward == pytest.approx(expected)


def test_scores_without_widths_and_other_networks(text: str, tiny_task: Task) -> None:
    score = Score(0.5, 10, 10, 0.5, 0.5, 0.5)
    with pytest.raises(ValueError, match=r"latency\(.*\): expected scores that hold the widths of networks"):
        formula(text)(score, score, score)
    for name in ("reward", "cost"):
        for make in (
            lambda **reward: PruningEnv(tiny_task, macs_reduction=0.4, device="cpu", **reward),
            lambda **reward: BlocksEnv("digits", **reward),
            lambda **reward: BlocksVectorEnv(2, table="digits", **reward),
        ):
            with pytest.raises(
                ValueError, match=rf"{name}: expected times of the network that is pruned, whose groups are \[.*json are"
            ):
                make(**{name: f"accuracy - {text}"})


@pytest.mark.parametrize("wrong", ["latency()", "latency(accuracy)", "latency", 'latency("a", "b", "c")'])
def test_texts_that_are_none(wrong: str) -> None:
    with pytest.raises(ValueError, match=r"reward: .*latency"):
        formula(wrong)


@pytest.mark.parametrize("path", ["nowhere.json", ".", "", "x" * 300, "~nobody_of_this_name/x", "/dev/zero"])
def test_paths_that_lead_to_no_times(path: str) -> None:
    with pytest.raises(ValueError, match=r"^cost: "):
        formula(f'latency("{path}")', "cost")


def test_what_the_file_says_is_a_part_of_the_formula(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its text has the absolute path and a digest: a run goes on with what it was begun with, from wherever."""
    path = tmp_path / "clock.json"
    short = timed(np.array([4, 4]), path)
    monkeypatch.chdir(tmp_path)
    made = formula('latency("clock.json")')
    assert made == formula(short)
    assert lasting_text('latency("clock.json")') == str(made) == lasting_text(str(made))
    assert lasting_text("accuracy") == "accuracy"
    config = RunConfig(reward='accuracy - latency("clock.json")')
    (play, *_) = BenchmarkConfig(("tabular-digits",), rewards=('latency("clock.json")',), seeds=1).plays()
    assert play.reward == str(made)
    begun = config.settings()["reward"]
    monkeypatch.chdir("/")
    assert formula(begun) == formula("accuracy") - made
    timed(np.array([5, 4]), path)
    assert formula(short) != made
    assert describe_function(formula(short)) != describe_function(made)
    with pytest.raises(ValueError, match=r"reward: .*clock\.json: expected the times of digest .*, and it holds others"):
        formula(begun)


def test_rewards_of_others_read_no_files(tmp_path: Path) -> None:
    row = ["tabular-digits", "1", "0.7", "1000", "ppo", "{}", '"latency (""/etc/hostname"")"', "100", "{}", "0.9", "0.9", "1 1"]
    (tmp_path / "mine.csv").write_text(",".join(COLUMNS) + "\n" + ",".join(row) + "\n")
    with pytest.raises(ValueError, match="reward: expected one that reads no file"):
        read_submission(tmp_path / "mine.csv")


@pytest.mark.slow
def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "clock.json"
    assert main(LatencyConfig(path, "digits-mobilenet", images=8, networks=30, device="cpu")) == 0
    said = capsys.readouterr().out
    assert "The original network takes " in said
    model = read_latency_model(path)
    assert model.share(model.widths) == pytest.approx(1, abs=0.01)
    assert 0 < model.share(np.ones_like(model.widths)) < 1
