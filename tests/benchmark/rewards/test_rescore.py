"""Other rewards read off old runs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prune_gym import tables
from prune_gym.agents.config import RunConfig
from prune_gym.agents.rl_pruner import RLPrunerConfig
from prune_gym.agents.run import run
from prune_gym.benchmark.rewards.__main__ import RescoreConfig, main
from prune_gym.benchmark.rewards.rescore import Recorded, _goes_straight, read_run
from prune_gym.scoring.latency_model import LatencyModel, random_widths
from prune_gym.simulation.formula import formula
from prune_gym.simulation.rewards import REWARDS
from prune_gym.simulation.target import Target
from prune_gym.simulation.terms import Transition
from prune_gym.tasks import Task

ROOT = Path(__file__).parents[3]
REWARD = "accuracy - 0.5 * before.accuracy + terminal * removed"


@pytest.fixture(scope="module", params=["random", "lookahead", "rl_pruner", "ppo"])
def folder(request: pytest.FixtureRequest, tiny_task: Task, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that learned from a reward that reads all parts of a transition."""
    config = RunConfig(
        agent=request.param, evaluations=40, macs_reduction=0.5, step_ratio=0.2, reward=REWARD, device="cpu",
        out=tmp_path_factory.mktemp("runs") / "run",
    )  # fmt: skip
    return run(config, task=tiny_task).folder


@pytest.mark.filterwarnings("ignore:.* learns for the first time")
def test_a_runs_own_reward_is_read_off_again(folder: Path) -> None:
    recorded = read_run(folder)
    assert 30 < len(recorded.rewards) <= 40
    assert recorded.straight
    np.testing.assert_allclose(recorded.under(formula(REWARD)).rewards, recorded.rewards, atol=1e-6)
    assert recorded.transitions[0].target == Target("macs_reduction", 0.5)
    assert any(transition.terminal for transition in recorded.transitions)


@pytest.mark.filterwarnings("ignore:.* learns for the first time")
def test_the_network_that_another_reward_would_have_chosen(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recorded = read_run(folder)
    ends = [transition.after for transition in recorded.transitions if transition.terminal]
    found = recorded.under(REWARDS["accuracy"])
    assert found.chosen.accuracy == max(score.accuracy for score in ends)
    assert np.isnan(found.tau) or found.tau == pytest.approx(1.0)
    assert main(RescoreConfig(folder, ("accuracy", "0 - params"))) == 0
    first, second = capsys.readouterr().out.splitlines()[2:4]
    assert first.startswith(f"| accuracy | {found.chosen.accuracy:.2%} |")
    assert f"| {min(score.params for score in ends):,} |" in second


def test_what_was_before_must_be_known(folder: Path) -> None:
    recorded = read_run(folder)
    before, after, *rest = recorded.transitions[-1]
    back = Recorded([Transition(after, before, *rest[:2], True)], np.zeros(1), straight=False)
    back.under(REWARDS["accuracy"])
    for name in ("improvement", "shaped"):
        with pytest.raises(
            ValueError, match="may read what was before a step, and this run's agent may have gone back on its way"
        ):
            back.under(REWARDS[name])
    with pytest.raises(ValueError, match=r"reward: expected finite numbers, .* gives -inf"):
        recorded.under(REWARDS["accuracy"] - REWARDS["accuracy"] / 0)
    with pytest.raises(ValueError, match="run: expected one that scored a network at its target"):
        Recorded([recorded.transitions[0]._replace(terminal=False)], np.zeros(1), True).under(REWARDS["accuracy"])


def test_a_folder_without_a_run(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="holds no finished run"):
        read_run(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"macs_reduction": ...}, "it does not have the setting 'macs_reduction'"),
        ({"macs_reduction": "half"}, r"macs_reduction: expected a number in \(0, 1\), got 'half'"),
        ({"sparsity": 0.5}, "target: expected one of sparsity, .*, got sparsity and macs_reduction"),
        ({"reward_split": ...}, "it does not have the setting 'reward_split'"),
        ({"reward_split": "all"}, "reward_split: expected one of val, test; got 'all'"),
        ({"rl_pruner": ...}, "it does not have the setting 'rl_pruner'"),
        ({"rl_pruner": {"samples": "many"}}, "samples: "),
        ({"rl_pruner": 3}, "must be a mapping"),
        ({"own": ...}, "expected the settings of a run"),
        ({"more": 1}, "expected the settings of a run and nothing else, such as 'more'"),
    ],
    ids=str,
)
def test_damaged_settings_are_named(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "results" / "main_job", tmp_path / "run")
    path = tmp_path / "run" / "config.json"
    settings = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({name: value for name, value in settings.items() if value is not ...}))
    with pytest.raises(ValueError, match=rf"{path}: damaged, or of another version.*{message}"):
        read_run(tmp_path / "run")


def test_damaged_evaluations_are_named(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "results" / "main_job", tmp_path / "run")
    path = tmp_path / "run" / "evaluations.csv"
    content = path.read_text()
    for bad in (content.replace("reward", "worth", 1), content[: len(content) // 2], content.replace(",0.99,", ",x,", 1)):
        path.write_text(bad)
        with pytest.raises(ValueError, match=rf"{path}: damaged, or of another version"):
            read_run(tmp_path / "run")


@pytest.mark.parametrize(
    "settings", [{"agent": "uct"}, {"agent": "rl_pruner", "rl_pruner": RLPrunerConfig(sample_steps=2, samples=2)}], ids=str
)
def test_agents_that_go_back_are_known(settings: dict[str, Any], tiny_task: Task, tmp_path: Path) -> None:
    config = RunConfig(
        evaluations=60, macs_reduction=0.5, step_ratio=0.2, reward="flops", device="cpu", out=tmp_path / "run", **settings
    )
    recorded = read_run(run(config, task=tiny_task).folder)
    assert not recorded.straight
    np.testing.assert_allclose(recorded.under(REWARDS["flops"]).rewards, recorded.rewards, atol=1e-6)
    with pytest.raises(ValueError, match="may read what was before a step"):
        recorded.under(REWARDS["improvement"])


def test_time_of_the_networks_of_a_run(tmp_path: Path) -> None:
    """Widths are in the table; those of the original network are in the summary, and shaping reads them, too."""
    recorded = read_run(ROOT / "results" / "main_job")
    full = recorded.transitions[0].baseline.widths
    assert full.tolist() == tables.load("digits").widths(np.array(tables.load("digits").shape) - 1).tolist()
    timed = random_widths(full, 60, np.random.default_rng(0))
    shares = 0.2 + 0.8 * (timed / full).mean(1)
    LatencyModel("a clock", 1, 1.0, np.zeros((0, 2), int), full, timed, shares).save(tmp_path / "clock.json")
    reward = formula(f'terminal * accuracy + shaping(0 - latency("{tmp_path}/clock.json"), 1)')
    found = recorded.under(reward).rewards
    before, after = (getattr(recorded.transitions[5], name).widths / full for name in ("before", "after"))
    assert not recorded.transitions[5].terminal
    assert found[5] == pytest.approx(0.8 * (before.mean() - after.mean()), abs=1e-4)


@pytest.mark.parametrize(("agent", "kinds", "straight"), [
    ("greedy", {"step", "preview"}, True), ("lookahead", {"step", "target"}, True), ("uct", {"step", "target"}, False),
    ("Mine", {"step", "preview"}, False), ("ppo", {"step"}, True),
])  # fmt: skip
def test_which_agents_are_known_never_to_go_back(agent: str, kinds: set[str], straight: bool) -> None:
    assert _goes_straight(agent, 1, kinds) == straight
