"""The pruning environment on a table: it is the live one, step by step, and every agent plays it."""

from __future__ import annotations

import copy
import pickle
import warnings
from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np
import pytest
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.env_checker import check_env as sb3_check_env

from prune_gym import tasks
from prune_gym.agents.baselines import GlobalSurgeonAgent, GlobalTaylorAgent, RandomAgent, UniformAgent
from prune_gym.agents.cma_es import CMAESAgent
from prune_gym.agents.lookahead import Lookahead
from prune_gym.agents.rl_pruner import RLPruner
from prune_gym.envs import PruningEnv, SoftmaxAction, TabularEnv
from prune_gym.registration import BLOCKS, TABULAR
from prune_gym.scoring.evaluation import Score
from prune_gym.simulation.table import Table
from prune_gym.testing import assert_same


@pytest.mark.parametrize("name", [*TABULAR, *BLOCKS])
def test_made_in_all_ways(name: str) -> None:
    env = gymnasium.make(name)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sb3_check_env(env if name in BLOCKS else SoftmaxAction(env))
    assert gymnasium.make_vec(name, num_envs=3).reset()[0].shape == (3, len(env.unwrapped.observation_space.sample()))
    assert env.spec is not None
    assert gymnasium.make(type(env.spec).from_json(env.spec.to_json())).unwrapped.spec is not None


@pytest.mark.parametrize("observation", ["architecture", "full"])
def test_equals_the_live_environment(observation: str) -> None:
    """Observations, rewards, ends and infos, what it would have taken included."""
    settings: dict[str, Any] = {"macs_reduction": 0.6, "step_ratio": 0.1, "reward": "flops", "observation": observation}
    known = TabularEnv("digits", **settings)
    live = PruningEnv("digits", levels=5, ranking="initial", device="cpu", **settings)
    assert known.observation_space == live.observation_space
    assert known.action_space == live.action_space
    rng = np.random.default_rng(4)
    for _ in range(2):
        assert_same(known.reset(), live.reset())
        ended = False
        while not ended:
            assert known.steps_left == live.steps_left
            action = rng.dirichlet(np.full(8, 0.3)).astype(np.float32)
            for one, other in zip(
                known.preview([action, action * 0], True), live.preview([action, action * 0], True), strict=True
            ):
                assert (one.score, one.reward, one.terminated) == (other.score, other.reward, other.terminated)
            mine = known.step(action)
            assert_same(mine, live.step(action))
            ended = mine[2]
    assert known.best is not None
    assert live.best is not None
    assert known.best.score == live.best.score
    assert (
        known.simulator.network(known.best.snapshot).state_dict().keys()
        == live.simulator.network(live.best.snapshot).state_dict().keys()
    )
    assert known.simulator.live_state(known.best.snapshot).architecture == live.best.snapshot.architecture  # type: ignore[attr-defined]


@pytest.mark.parametrize("agent", [RLPruner, Lookahead, CMAESAgent, RandomAgent, UniformAgent])
def test_searches_play_it(table: Table, agent: Any) -> None:
    env = TabularEnv(table, macs_reduction=0.5, step_ratio=0.1, reward="accuracy")
    searched = agent(env, seed=0).learn(150)
    assert env.best is not None
    assert env.best.score == searched.best.score
    assert env.regret(env.best.snapshot) >= 0
    assert env.evaluations <= 150
    observation, _ = env.reset()  # what it knows leads there again
    ended = False
    while not ended:
        observation, _, ended, _, info = env.step(searched.predict(observation)[0])
    assert info["accuracy"] == env.best.score.accuracy
    assert env.simulator.test_accuracy(env.best.snapshot) <= 1  # type: ignore[attr-defined]


def test_sb3_learns_on_it(table: Table) -> None:
    env = TabularEnv(table, macs_reduction=0.5)
    PPO("MlpPolicy", SoftmaxAction(env), n_steps=32, batch_size=16, seed=0).learn(64)
    assert env.evaluations == 64


def test_snapshots_and_pickles(table: Table) -> None:
    env = TabularEnv(table, macs_reduction=0.5, step_ratio=0.05)
    env.reset()
    env.step(np.array([1, 0, 0, 0.5, 0]))
    here = env.snapshot()
    first = [env.step(env.uniform_action)[:2] for _ in range(2)]
    again = pickle.loads(pickle.dumps(env))
    for other in (env, again):
        other.restore(here if other is env else pickle.loads(pickle.dumps(here)))
        for (a, reward), (b, repeated) in zip(first, [other.step(other.uniform_action)[:2] for _ in range(2)], strict=True):
            np.testing.assert_array_equal(a, b)
            assert reward == repeated
    with pytest.raises(ValueError, match="snapshot: expected a state of this environment"):
        TabularEnv(table, macs_reduction=0.4).restore(here)
    assert env.best is None
    assert env.best_plan() == []


def test_the_plan_is_the_way_that_was_gone(table: Table) -> None:
    env = TabularEnv(table, macs_reduction=0.5, step_ratio=0.05)
    rng, ended, way = np.random.default_rng(0), False, []
    observation, _ = env.reset()
    while not ended:
        way.append((observation, rng.dirichlet(np.ones(5))))
        observation, _, ended, _, _ = env.step(way[-1][1])
    assert len(way) > 1
    env.reset()
    env.step(env.uniform_action)  # another way, which has not ended
    for (seen, action), (expected, taken) in zip(env.best_plan(), way, strict=True):
        np.testing.assert_array_equal(seen, expected)
        np.testing.assert_array_equal(action, taken)


def test_networks_at_the_target_are_those_of_their_widths() -> None:
    env = TabularEnv("digits", macs_reduction=0.6, step_ratio=0.1)
    env.reset()
    env.step(env.uniform_action)
    (preview,) = env.preview([np.eye(8)[3]], to_target=True)
    live = env.simulator.live_state(preview.snapshot)
    assert live.widths.tolist() == preview.snapshot.widths.tolist()
    network = env.simulator.network(preview.snapshot)
    assert sum(parameter.numel() for parameter in network.parameters()) == preview.score.params
    assert env.architecture.widths.tolist() == env.snapshot().widths.tolist()


def test_nobody_changes_what_all_share(table: Table) -> None:
    env = TabularEnv(table, macs_reduction=0.5)
    env.reset()
    for array in (env.snapshot().widths, env.simulator.world.group_filters, env.simulator.world.observations, table.val_hits):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1
    again = copy.deepcopy(env)
    assert again.simulator.world is env.simulator.world
    assert pickle.loads(pickle.dumps(env)).simulator.world is env.simulator.world
    assert env.snapshot() == env.snapshot()
    assert env.snapshot() != again.snapshot()


def test_states_of_another_table_are_refused(table: Table) -> None:
    other = TabularEnv(replace(table, val_hits=table.val_hits // 2), macs_reduction=0.5)
    env = TabularEnv(table, macs_reduction=0.5)
    env.reset()
    with pytest.raises(ValueError, match="its space is another one"):
        other.restore(env.snapshot())
    same = TabularEnv(replace(table), macs_reduction=0.5)
    assert same.restore(env.snapshot())[1]["accuracy"] == 1


def test_regret(table: Table) -> None:
    def yardstick(after: Score, baseline: Score) -> float:
        return 2.0 if after.accuracy > 0.7 else after.accuracy

    env = TabularEnv(table, macs_reduction=0.5, yardstick=yardstick)
    env.reset()
    with pytest.raises(ValueError, match="snapshot: expected a network at the target"):
        env.regret(env.snapshot())
    with pytest.raises(TypeError, match="snapshot: expected what snapshot"):
        env.regret(3)
    while not env.step(np.array([0, 0, 0, 1, 0]))[2]:
        pass
    ends = env.simulator.game.ends()
    best = max(yardstick(env.simulator.world.score(int(end)), env.simulator.baseline) for end in ends)
    assert env.regret(env.snapshot()) == best - yardstick(env.score(), env.simulator.baseline)


def test_rendering_needs_no_network(table: Table) -> None:
    env = TabularEnv(table, macs_reduction=0.5, render_mode="ansi")
    env.reset()
    env.step(env.uniform_action)
    text = env.render()
    assert text.startswith("tiny: accuracy ")
    assert len(text.splitlines()) == 1 + len(table.groups)


def test_rankings_of_units_refuse_it(table: Table) -> None:
    for agent in (GlobalTaylorAgent, GlobalSurgeonAgent):
        with pytest.raises(TypeError, match=f"env: {agent.__name__} ranks the units of a network; a TabularEnv has none"):
            agent(TabularEnv(table))


def test_misuse_is_named(table: Table) -> None:
    with pytest.raises(ValueError, match="base: expected none beside a Table"):
        TabularEnv(table, base=1)
    with pytest.raises(ValueError, match="action: expected finite numbers"):
        TabularEnv(table).simulator.successors(TabularEnv(table).simulator.initial(), [np.full(5, np.nan)])
    for settings, kind, message in [
        ({"step_ratio": 0}, ValueError, "step_ratio: expected a number in"),
        ({"sparsity": 0.5, "macs_reduction": 0.5}, ValueError, "target: expected one of"),
        ({"macs_reduction": 0.99}, ValueError, "macs_reduction: 0.99 cannot be reached on the table of 'tiny'"),
        ({"observation": "all"}, ValueError, "observation: "),
    ]:
        with pytest.raises(kind, match=message):
            TabularEnv(table, **settings)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"task: .*'nothing'"):
        TabularEnv("nothing")
    with pytest.raises(ValueError, match=r"base: expected an integer in \[0, 2\), got 2"):
        TabularEnv("digits", base=2)
    with pytest.raises(TypeError, match="table: expected a Table or the name of a task, got int"):
        TabularEnv(3)  # type: ignore[arg-type]


def test_a_table_of_another_network_makes_no_networks(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    env = TabularEnv(table)
    monkeypatch.setattr(tasks, "load", lambda name, seed: tasks._load("digits", tasks.cache_folder(), 0, False))
    with pytest.raises(ValueError, match="the table was made of another network, none; here it is"):
        env.simulator.network(env.simulator.initial())


@pytest.mark.slow
@pytest.mark.parametrize("base", [0, 1])
def test_dqn_finds_a_network_that_is_nearly_best(base: int) -> None:
    """Within 5 points of the optimum after 20,000 single blocks, with the accuracy at the target as the only reward."""

    def reward(before: Score, after: Score, baseline: Score) -> float:
        return after.accuracy * (after.flops_reduction >= 0.75)

    env = gymnasium.make("PruneGym/Blocks-Digits-v0", base=base, macs_reduction=0.75, reward=reward)
    settings: dict[str, Any] = {"learning_rate": 1e-3, "learning_starts": 500, "target_update_interval": 250}
    DQN("MlpPolicy", env, gamma=1.0, exploration_fraction=0.5, seed=0, **settings).learn(20_000)
    inner: Any = env.unwrapped
    best = inner.game.best(lambda after, baseline: after.accuracy)[1]
    assert best - inner.best.yardstick <= 0.05
