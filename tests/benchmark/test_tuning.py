"""Tuning: what is tried, what is kept, going on, and the settings that come with the package."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("optuna")

from prune_gym.agents import tuned as data
from prune_gym.agents.config import RunConfig
from prune_gym.agents.tuned import all_tuned, settings_of, tuned
from prune_gym.benchmark import tuning
from prune_gym.benchmark.harness import FIRST_SEED
from prune_gym.benchmark.play import Play, Record
from prune_gym.benchmark.rows import Rows
from prune_gym.benchmark.tuning import COLUMNS, KEY, SPACES, TuningConfig, best_settings, main, plays_of, suggest, tune


def in_process(function: Any, items: Any, processes: int) -> Any:
    return map(function, items)


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TuningConfig:
    """On a world in which the regret of random search is how far its scale is from 1, and others have none."""

    def play(one: Play) -> Record:
        scale = json.loads(one.settings).get("scale", 0.5)
        return Record(one.key, {"regret": abs(scale - 1) / 10 + 0.01 * one.seed}, {}, {})

    monkeypatch.setattr(tuning, "in_processes", in_process)
    monkeypatch.setattr(tuning, "play", play)
    return TuningConfig(agents=("random", "uct"), trials=12, trials_file=tmp_path / "tuning.csv", out=tmp_path / "tuned.json")


def test_every_space_is_of_settings_that_the_agent_reads() -> None:
    for agent, space in SPACES.items():
        settings = type(getattr(RunConfig(), settings_of(agent)))
        assert set(space) <= {field.name for field in fields(settings)}, agent


def test_a_trial_is_every_table_with_every_seed() -> None:
    plays = plays_of(TuningConfig(), "random", {"scale": 0.7})
    assert [(one.game.task, one.game.base, one.seed) for one in plays] == [
        (f"tabular-{task}", 0, seed) for task in ("digits", "digits-resnet", "digits-mobilenet") for seed in (0, 1)
    ]
    assert all(one.config.random.scale == 0.7 for one in plays)
    assert max(one.seed for one in plays) < FIRST_SEED


def test_it_finds_what_is_best(config: TuningConfig) -> None:
    main(config)
    found = json.loads(config.out.read_text())
    trials = [row for row in Rows(config.trials_file, COLUMNS, KEY).rows if row["agent"] == "random"]
    assert [int(row["trial"]) for row in trials] == [-1, *range(12)]
    assert float(trials[0]["regret"]) == found["random"]["default_regret"] == pytest.approx(0.055)
    assert found["random"]["regret"] == min(float(row["regret"]) for row in trials) < 0.02
    assert abs(found["random"]["settings"]["scale"] - 1) < 0.2
    assert found["random"]["ranges"] == {"scale": [0.1, 3]}
    line = f"| random | 5.5 | {100 * found['random']['regret']:.1f} | scale {found['random']['settings']['scale']:.3g} |"
    assert line in config.trials_file.with_suffix(".md").read_text().splitlines()
    assert (found["random"]["trials"], found["random"]["seeds"], found["random"]["tables"][0]) == (12, [0, 1], "tabular-digits 0")


def test_what_is_known_of_other_agents_stays(config: TuningConfig) -> None:
    main(config)
    both = json.loads(config.out.read_text())
    main(replace(config, agents=("uct",), trials=2))
    found = json.loads(config.out.read_text())
    assert list(found) == ["random", "uct"]
    assert found["random"] == both["random"]
    assert found["uct"]["trials"] == 12  # those in the file count as well
    assert "| random |" in config.trials_file.with_suffix(".md").read_text()
    config.out.write_text("[]")
    with pytest.raises(ValueError, match=r"tuned\.json: expected tuned settings, but it is damaged"):
        main(config)


def test_an_interrupted_one_ends_the_same(config: TuningConfig) -> None:
    tune(replace(config, trials=5))
    once = tune(config).rows
    whole = tune(replace(config, trials_file=config.trials_file.with_name("whole.csv"))).rows
    assert once == whole
    assert tune(config).rows == once  # nothing is played again


def test_trials_of_another_game_are_not_taken(config: TuningConfig) -> None:
    brief = replace(config, trials=1, evaluations=10)
    first = tune(brief).rows
    both = tune(replace(brief, evaluations=20)).rows
    assert len(both) == 2 * len(first)
    longer = best_settings(replace(brief, evaluations=20), Rows(config.trials_file, COLUMNS, KEY))
    assert longer["random"]["evaluations"] == 20
    assert longer["random"]["trials"] == 1


def test_every_suggestion_can_be_made() -> None:
    for agent, space in SPACES.items():
        for number in range(5):
            settings = suggest(agent, number, [])
            assert set(settings) == set(space)
            plays = plays_of(TuningConfig(), agent, settings)
            assert len(plays) == 6
            assert plays[0].config.agent == agent


def test_what_comes_with_the_package_can_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for agent, about in all_tuned().items():
        config = RunConfig(agent=agent, **tuned(agent))
        settings = getattr(config, settings_of(agent))
        assert all(getattr(settings, name) == value for name, value in about["settings"].items())
        assert about["regret"] <= about["default_regret"]
        assert max(about["seeds"]) < FIRST_SEED
        assert about["ranges"].keys() == SPACES[agent].keys()
        assert all(table.endswith(" 0") for table in about["tables"])
    monkeypatch.setattr(data, "all_tuned", lambda: {"sac": {"settings": {"tau": 0.02}}})
    assert tuned("sac")["off_policy"].tau == 0.02
    with pytest.raises(ValueError, match="agent: expected one of sac; got 'sad'"):
        tuned("sad")
    with pytest.raises(ValueError, match=r"agent: expected one of .*; got 'uniform'"):
        settings_of("uniform")


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match=r"agents: expected one of .*; got 'uniform'"):
        TuningConfig(agents=("uniform",))
    with pytest.raises(ValueError, match=r"tasks: expected one of .*; got 'cifar'"):
        TuningConfig(tasks=("cifar",))
    with pytest.raises(ValueError, match="agents: expected different ones, got ppo ppo"):
        TuningConfig(agents=("ppo", "ppo"))
