"""The study of rewards: what is played, and what is said of it, on plays that are made up."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from reward_study import RewardStudyConfig, main

from prune_gym.benchmark.games import SELF_COMPETITION
from prune_gym.benchmark.play import DEFAULT, KEY
from prune_gym.benchmark.report.standings import Field, fields_of
from prune_gym.benchmark.results import Played
from prune_gym.benchmark.rewards.study import (
    SUITE,
    Lesson,
    StudyConfig,
    learning_curves,
    lessons,
    picture,
    table,
    verdict,
)
from prune_gym.benchmark.statistics import Interval
from prune_gym.simulation.rewards import REWARDS

TASK = "tabular-digits-mobilenet"


def played(agent: str, reward: str, regret: float, seed: int) -> Played:
    accuracy = 0.675 - regret / 100
    learned = accuracy - (0.3 if (agent, reward) == ("dqn", "final") else 0.1)
    row = {
        "task": TASK, "base": 0, "macs_reduction": 0.75, "budget": 1000, "agent": agent, "settings": DEFAULT,
        "reward": reward, "seed": seed, "val_accuracy": accuracy, "test_accuracy": 0.5, "policy_accuracy": learned,
        "compute": 500, "policy_macs": 300, "hypervolume": 0.5, "full_cost": 10, "full_macs": 1000, "regret": regret / 100,
    }  # fmt: skip
    assert set(KEY) <= set(row)
    improvements = np.array([[1, 10, 300, accuracy / 2], [50, 100, 300, accuracy]])
    return Played(row, improvements, improvements)


@pytest.fixture(scope="module")
def field() -> Field:
    """Under "final" ppo is clearly better than under "accuracy", and dqn as good, but for its policy; "n2n" is worse for both."""
    means = {
        ("ppo", "accuracy"): 10, ("ppo", "final"): 2, ("ppo", "n2n"): 20, ("ppo", SELF_COMPETITION): 10,
        ("dqn", "accuracy"): 8, ("dqn", "final"): 8, ("dqn", "n2n"): 18,
    }  # fmt: skip
    plays = [played(agent, reward, mean + seed % 3, seed) for (agent, reward), mean in means.items() for seed in range(9)]
    (found,) = fields_of(plays)
    return found


@pytest.fixture(scope="module")
def found(field: Field) -> list[Lesson]:
    return lessons(field, ("ppo", "dqn", "sac"))


def test_every_agent_learns_from_every_reward_that_it_sees() -> None:
    plays = StudyConfig(tasks=(TASK,), seeds=1).plays()
    assert {(play.agent, play.reward) for play in plays} == {
        (agent, reward)
        for agent in ("ppo", "sac", "dqn", "rl_pruner")
        for reward in SUITE
        if agent != "rl_pruner" or reward != SELF_COMPETITION
    }
    assert {REWARDS[name] for name in SUITE if name != SELF_COMPETITION} == set(REWARDS.values())
    assert len(StudyConfig(rewards=("final",)).plays()) == 3 * 4 * 20


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tasks": ("nope",)}, "tasks: expected one of "),
        ({"seeds": 0}, "seeds: expected an integer >= 1, got 0"),
        ({"macs_reductions": (2.0,)}, "macs_reductions: expected a number in "),
        ({"agents": ("nope",)}, "agents: expected one of "),
        ({"agents": ("ppo", "cma_es")}, "agents: expected ones that learn from the reward; cma_es plays the same under all"),
        ({"settings": ("tuned",)}, "settings: the study is of rewards, with default settings"),
    ],
)
def test_bad_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        StudyConfig(**settings)


def test_lessons_by_hand(found: list[Lesson]) -> None:
    assert [lesson.reward for lesson in found] == ["final", "accuracy", SELF_COMPETITION, "n2n"]
    final, accuracy, competition, n2n = found
    assert final.clear == {"ppo": "better", "dqn": ""}
    assert n2n.clear == {"ppo": "worse", "dqn": "worse"}
    assert final.policy_clear == {"ppo": "better", "dqn": "worse"}
    assert competition.clear == competition.policy_clear == {"ppo": ""}
    assert accuracy.clear == {"ppo": "", "dqn": ""}
    assert final.standings["ppo"].regret.value == pytest.approx(3.0)
    assert final.standings["ppo"].policy.value == pytest.approx(13.0)
    assert final.regret(("ppo", "dqn")) == pytest.approx(6.0)
    assert final.best_play == pytest.approx(1.25)  # as the optimum check says
    assert accuracy.best_play == pytest.approx(28.75)
    assert final.tau is not None
    assert final.tau > 0.9
    assert (competition.best_play, competition.tau) == (None, None)


def test_the_table_and_the_verdict(found: list[Lesson]) -> None:
    lines = table(found, ("ppo", "dqn", "sac")).splitlines()
    assert lines[0] == "| reward | ppo | dqn | sac | best play | tau |"
    assert lines[2].startswith("| `final` | 3.0+ (13.0+) | 9.0 (39.0-) |  | 1.3 | 0.9")
    assert lines[4] == "| `self_competition` | 11.0 (21.0) |  |  |  |  |"
    assert lines[5].startswith("| `n2n` | 21.0- (31.0-) | 19.0- (29.0-) |  |")
    first, second = verdict(found, ("ppo", "dqn", "sac"))
    worse = "clearly worse: n2n."
    assert first == (
        f"ppo finds the best networks under final (3.0 points of regret). Clearly better than under accuracy: final; {worse}"
        f" Its final policy is best under final (13.0 points of regret). Clearly better than under accuracy: final; {worse}"
    )
    assert second == (
        f"dqn finds the best networks under final (9.0 points of regret). Clearly better than under accuracy: none; {worse}"
        " Its final policy is best under accuracy (19.0 points of regret)."
        " Clearly better than under accuracy: none; clearly worse: final, n2n."
    )
    without = [lesson for lesson in found if lesson.reward != "accuracy"]
    of_dqn = "dqn finds the best networks under final (9.0 points of regret)."
    assert verdict(without, ("dqn",)) == [f"{of_dqn} Its final policy is best under n2n (29.0 points of regret)."]
    one = found[0].standings["dqn"]
    assert verdict([replace(found[0], standings={"dqn": replace(one, policy=one.regret)})], ("dqn",)) == [
        of_dqn
    ]  # it learns none


def test_the_picture_shows_every_agent_under_every_reward(found: list[Lesson]) -> None:
    left, right = picture(found, ("ppo", "dqn")).axes
    assert [label.get_text() for label in left.get_yticklabels()] == ["final", "accuracy", SELF_COMPETITION, "n2n"]
    for axes, ppo, dqn in ((left, [3, 11, 11, 21], [9, 9, 19]), (right, [13, 21, 21, 31], [39, 19, 29])):
        assert [line.get_xdata() for line in axes.lines] == [pytest.approx(values) for values in (ppo, dqn)]
    assert isinstance(found[0].standings["ppo"].regret, Interval)


def test_learning_curves(field: Field, found: list[Lesson]) -> None:
    figure = learning_curves(field, found, "dqn")
    assert [line.name for line in figure.lines] == ["final", "accuracy", "n2n"]
    assert figure.shown == ("final", "accuracy", "n2n")
    assert figure.lines[0].y[-1] == pytest.approx(9.0)


@pytest.mark.slow
def test_the_command_adds_a_reward_without_playing_the_others_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = {"tasks": (TASK,), "agents": ("rl_pruner", "dqn"), "seeds": 2, "budget": "Prune-100", "processes": 2}
    config |= {"store": tmp_path / "store", "out": tmp_path / "out"}
    main(RewardStudyConfig(**config, rewards=("accuracy", "final")))
    first = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "store").glob("*.npz")}
    assert len(first) == 8
    main(RewardStudyConfig(**config, rewards=("1 - macs / baseline.macs",)))
    second = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "store").glob("*.npz")}
    assert len(second) == 12
    assert first.items() <= second.items()
    text = (tmp_path / "out" / "tabular_100.md").read_text()
    assert text.count("\n| `") == 3
    assert text in capsys.readouterr().out
    names = {path.name for path in (tmp_path / "out").glob("*.png")}
    assert names == {
        "tabular_100.png",
        *(f"tabular_100_{agent}{of}.png" for agent in ("dqn", "rl_pruner") for of in ("", "_habits")),
    }
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    main(RewardStudyConfig(**config | {"agents": ("dqn",)}, rewards=("accuracy",)))  # says as much of the others as before
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


def test_bad_studies() -> None:
    with pytest.raises(ValueError, match=r"settings: the study is of rewards, with default settings; got \('tuned',\)"):
        StudyConfig(settings=("tuned",))
    with pytest.raises(ValueError, match=r"rewards: expected different ones, got .*, of which some are the same formula"):
        StudyConfig(rewards=("accuracy+1", "accuracy + 1"))


def test_how_well_policies_were_foreseen(found: list[Lesson]) -> None:
    """By ranks alone: here the policies are ordered as the best plays but for two neighbours, and against tau."""
    one = found[0].standings["ppo"]
    many = [
        replace(
            found[0],
            reward=f"r{i}",
            standings={"ppo": replace(one, policy=Interval(float(policy), 0.0, 99.0))},
            clear={"ppo": ""},
            policy_clear={"ppo": ""},
            best_play=float(i**2),
            tau=-policy / 10,
        )
        for i, policy in enumerate((1, 2, 4, 3, 5))
    ]
    (sentence,) = verdict(many, ("ppo",))
    assert sentence.endswith(
        " Over 5 rewards, the regret of its final policy has a rank correlation of 0.90 with the regret of the best play, "
        "and of 1.00 with -tau."
    )
    assert "Over" not in verdict(many[:4], ("ppo",))[0]
    assert "Over" not in verdict([replace(one, tau=0.5) for one in many], ("ppo",))[0]


def test_agents_that_read_no_reward_are_not_studied() -> None:
    with pytest.raises(ValueError, match="agents: expected ones that learn from the reward; gnn_rl plays the same under all"):
        StudyConfig(agents=("ppo", "gnn_rl"))
