"""The harness: what is played, what goes on where it stopped, and that whatever fails takes nothing else along."""

from __future__ import annotations

import errno
import json
import threading
import time
from collections.abc import Iterable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from deadly_agents import install_deadly_agents

from prune_gym.agents.baselines import RandomConfig
from prune_gym.benchmark import harness
from prune_gym.benchmark.harness import FIRST_SEED, BenchmarkConfig, forecast, run_benchmark
from prune_gym.benchmark.play import DEFAULT, Play, Record
from prune_gym.benchmark.store import Store
from prune_gym.benchmark.workers import KILLED, Failure, attempt

TABLE = "tabular-digits-mobilenet"


def config_in(folder: Path, **settings: Any) -> BenchmarkConfig:
    small: dict[str, Any] = {
        "tasks": (TABLE,), "macs_reductions": (0.6,), "agents": ("uniform", "random"), "seeds": 2, "budget": "Prune-100",
        "store": folder / "store",
    }  # fmt: skip
    return BenchmarkConfig(**small | settings)


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> list[Play]:
    """Plays are played in this process, and noted."""
    played: list[Play] = []

    def local(plays: Iterable[Play], processes: int, made: object) -> Iterator[tuple[Play, Record | Failure]]:
        for play in plays:
            played.append(play)
            yield play, attempt(play)

    monkeypatch.setattr(harness, "local", local)
    return played


def test_a_benchmark_goes_on_where_it_stopped(tmp_path: Path, here: list[Play]) -> None:
    assert run_benchmark(config_in(tmp_path, seeds=1)) == []
    assert [(play.agent, play.seed) for play in here] == [("uniform", FIRST_SEED), ("random", FIRST_SEED)]
    here.clear()
    assert run_benchmark(config_in(tmp_path)) == []
    assert [(play.agent, play.seed) for play in here] == [("uniform", FIRST_SEED + 1), ("random", FIRST_SEED + 1)]
    records = list(Store(tmp_path / "store"))
    assert [(record.key["agent"], record.key["seed"]) for record in records] == [
        ("random", 100), ("random", 101), ("uniform", 100), ("uniform", 101),
    ]  # fmt: skip
    assert all(len(record.networks["macs"]) <= 100 for record in records)


def test_what_another_command_plays_is_left_to_it(tmp_path: Path, here: list[Play]) -> None:
    config = config_in(tmp_path, seeds=1)
    store = Store(config.store)
    with store.claim(config.plays()[0]):
        assert run_benchmark(config) == []
    assert [play.agent for play in here] == ["random"]


def test_two_harnesses_share_one_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here: list[Play] = []

    def local(plays: Iterable[Play], processes: int, made: object) -> Iterator[tuple[Play, Record | Failure]]:
        for play in plays:
            here.append(play)
            time.sleep(0.01)
            yield play, Record(play.key, {}, {}, {"macs": np.zeros(1)})

    monkeypatch.setattr(harness, "local", local)
    config = config_in(tmp_path, seeds=6)
    threads = [threading.Thread(target=run_benchmark, args=(config,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(map(str, here)) == sorted(map(str, config.plays()))  # each play once
    assert len(list(Store(config.store))) == 12


def test_an_agent_that_raises_is_reported_and_tried_again(
    tmp_path: Path, here: list[Play], monkeypatch: pytest.MonkeyPatch
) -> None:
    def bad(config: object, env: object) -> None:
        raise RuntimeError("no idea")

    monkeypatch.setitem(harness.AGENTS._makers, "bad", bad)
    config = config_in(tmp_path, agents=("bad", "uniform"), seeds=1)
    (failure,) = run_benchmark(config)
    assert str(failure.play) == f"bad on {TABLE}-1 at -60%, seed 100"
    assert failure.why.startswith("Traceback")
    assert failure.why.endswith("RuntimeError: no idea\n")
    assert len(list(Store(config.store))) == 1
    here.clear()
    assert len(run_benchmark(config)) == 1
    assert [play.agent for play in here] == ["bad"]


def test_a_full_disk_ends_it_and_takes_nothing_along(tmp_path: Path, here: list[Play], monkeypatch: pytest.MonkeyPatch) -> None:
    config, add = config_in(tmp_path), Store.add

    def full(store: Store, play: Play, record: Record) -> None:
        if play.seed > FIRST_SEED:
            raise OSError(errno.ENOSPC, "No space left on device", str(store.folder))
        add(store, play, record)

    with monkeypatch.context() as patch:
        patch.setattr(Store, "add", full)
        with pytest.raises(OSError, match="No space left"):
            run_benchmark(config)
    assert len(list(Store(config.store))) == 2
    assert run_benchmark(config) == []
    assert len(list(Store(config.store))) == 4


@pytest.mark.slow
def test_a_killed_process_takes_no_other_play_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_deadly_agents(tmp_path, monkeypatch)
    config = config_in(tmp_path, agents=("killed_once", "random", "killed", "uniform"), seeds=2)
    failures = run_benchmark(config)
    failed = {(failure.play.agent, failure.play.seed): failure.why for failure in failures}
    assert failed == {("killed", 100): KILLED, ("killed", 101): KILLED}
    found = {(record.key["agent"], record.key["seed"]) for record in Store(config.store)}
    assert found == {(agent, seed) for agent in ("killed_once", "random", "uniform") for seed in (100, 101)}


def test_tuned_settings_are_played_beside_the_default_ones(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tuned = {"random": {"settings": {"scale": 1.5}}, "uct": {"settings": {}}}
    monkeypatch.setattr(harness, "all_tuned", lambda: tuned)
    both = config_in(tmp_path, agents=("random", "uct", "uniform"), seeds=1, settings=("default", "tuned"))
    assert [(play.agent, play.settings) for play in both.plays()] == [
        ("random", DEFAULT), ("random", '{"scale": 1.5}'), ("uct", DEFAULT), ("uniform", DEFAULT),
    ]  # fmt: skip
    assert both.plays()[1].config.random == RandomConfig(scale=1.5)
    only = config_in(tmp_path, agents=("random", "uct"), seeds=1, settings=("tuned",))
    assert [play.settings for play in only.plays()] == ['{"scale": 1.5}', DEFAULT]


def test_the_first_seed_comes_first_in_everything(tmp_path: Path) -> None:
    config = BenchmarkConfig(store=tmp_path, seeds=3)
    plays = config.plays()
    assert len(plays) == len(set(plays)) == 3 * 6 * 2 * 22
    assert [play.seed for play in plays] == sorted(play.seed for play in plays)


def test_a_forecast_knows_what_similar_plays_took(tmp_path: Path) -> None:
    config = config_in(tmp_path)
    store = Store(config.store)
    for play, seconds in zip(config.plays(), (2.0, 9.0, 4.0), strict=False):
        store.add(play, Record(play.key, {}, {"seconds": seconds}, {"macs": np.zeros(1)}))
    assert [(one.task, one.agent, one.plays, one.missing, one.seconds) for one in forecast(config)] == [
        (TABLE, "uniform", 2, 0, 3.0),
        (TABLE, "random", 2, 1, 9.0),
    ]
    assert forecast(config_in(tmp_path, budget="Prune-1k"))[0].seconds is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tasks": ("tabular-cifar",)}, "tasks: .*'tabular-cifar'"),
        ({"tasks": ()}, "tasks: expected at least one, got none"),
        ({"agents": ("pppo",)}, "agents: .*'pppo'"),
        ({"agents": ("ppo", "ppo")}, "agents: expected different ones, got ppo ppo"),
        ({"macs_reductions": (1.0,)}, "macs_reductions: expected"),
        ({"settings": ("best",)}, "settings: .*'best'"),
        ({"rewards": ("acuracy",)}, "rewards: .*'acuracy'"),
        ({"rewards": ("vector",)}, "rewards: expected one that is a number, got 'vector'"),
        ({"seeds": 0}, "seeds: expected"),
        ({"first_seed": -1}, "first_seed: expected"),
        ({"base": 2}, "base: expected"),
        ({"budget": "Prune-2"}, "budget: .*'Prune-2'"),
        ({"processes": 0}, "processes: expected"),
    ],
)
def test_bad_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BenchmarkConfig(**settings)


def test_every_agent_plays_under_every_reward(tmp_path: Path) -> None:
    rewards = ("accuracy", "self_competition", "1 - macs / baseline.macs")
    config = config_in(tmp_path, rewards=rewards, agents=("rl_pruner", "ppo", "amc"), seeds=1)
    assert [(play.reward, play.agent) for play in config.plays()] == [
        (reward, agent)
        for reward, agent in product(config.rewards, config.agents)
        if reward != "self_competition" or agent == "ppo"  # others do not see it
    ]
    learners = config_in(tmp_path, rewards=("self_competition",), agents=("ppo", "dqn"), seeds=1)
    assert [play.agent for play in learners.plays()] == ["ppo", "dqn"]
    for blind in ({"rewards": ("self_competition",), "agents": ("ppo", "uct")}, {"rewards": rewards, "agents": ("uct", "cacp")}):
        with pytest.raises(ValueError, match=r"rewards: self_competition is a wrapper's, which uct.* would not see"):
            config_in(tmp_path, **blind)


def test_keys_are_json(tmp_path: Path) -> None:
    for play in config_in(tmp_path).plays():
        assert json.loads(json.dumps(play.key)) == play.key
