"""AMC against its source: rewards, noise, warm-up and one update by hand; and that it learns."""

from __future__ import annotations

import copy
import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from prune_gym.agents import RunConfig, run
from prune_gym.agents.amc import AMC, AMCConfig, CACPConfig, make_amc
from prune_gym.agents.recorder import EvaluationBudget
from prune_gym.envs import ImprovementReward, LayerwiseEnv, PruningEnv, TabularEnv
from prune_gym.tasks import Task


def make(evaluations: int = 30, seed: int = 0, config: AMCConfig | None = None, **settings: Any) -> AMC:
    settings = {"macs_reduction": 0.6, "reward": "accuracy"} | settings
    return make_amc(TabularEnv("digits", **settings), config or AMCConfig(warmup_episodes=5), evaluations, seed)


def test_every_transition_of_an_episode_has_the_reward_of_its_final_network() -> None:
    agent = make()
    agent.learn(4 * 8)
    buffer = agent.replay_buffer
    assert buffer is not None
    rewards, dones = buffer.rewards[:32, 0].reshape(4, 8), buffer.dones[:32, 0].reshape(4, 8)
    assert (rewards == rewards[:, :1]).all()
    assert len(set(rewards[:, 0])) > 1
    assert dones.tolist() == [[0.0] * 7 + [1.0]] * 4
    assert buffer.buffer_size == 800


def test_the_buffer_goes_round() -> None:
    agent = make(evaluations=120, config=AMCConfig(warmup_episodes=110))
    agent.learn(103 * 8)
    assert agent.replay_buffer is not None
    rewards = agent.replay_buffer.rewards[:, 0].reshape(100, 8)
    assert (rewards == rewards[:, :1]).all()


def test_ratios_are_uniform_at_first_and_then_normal_around_the_policy() -> None:
    agent = make(evaluations=200, config=AMCConfig(warmup_episodes=100))
    agent._last_obs = np.zeros((1, 10), np.float32)
    ratios = np.concatenate([agent._sample_action(0)[0] for _ in range(2000)])[:, 0]
    assert stats.kstest(ratios, "uniform").pvalue > 0.01
    for episode, deviation in ((100, 0.5), (101, 0.5 * 0.95), (110, 0.5 * 0.95**10)):
        agent._episode_num = episode
        assert agent.deviation == pytest.approx(deviation)
    mean = np.full((2000, 1), 0.9, np.float32)
    expected = stats.truncnorm(-0.9 / deviation, 0.1 / deviation, 0.9, deviation)
    assert stats.kstest(agent.explore(mean)[:, 0], expected.cdf).pvalue > 0.01


def test_late_episodes_explore_next_to_nothing() -> None:
    agent = make()
    agent._episode_num = 5000
    mean = np.array([[0.0], [0.5], [1.0]], np.float32)
    np.testing.assert_allclose(agent.explore(mean), mean, atol=1e-5)


@pytest.mark.filterwarnings("ignore:warmup_episodes")
@pytest.mark.parametrize("evaluations", [3, 10])
def test_it_learns_within_the_least_budget_that_is_accepted(evaluations: int) -> None:
    """One evaluation less than that is refused, as nothing is learnt after the last one."""
    config = AMCConfig(warmup_episodes=evaluations - 2)
    agent = make(evaluations, config=config)
    agent.learn(evaluations * 8, EvaluationBudget(evaluations))
    assert agent._n_updates == 8
    with pytest.raises(ValueError, match="warmup_episodes: AMC would learn"):
        make(evaluations - 1, config=config)


def test_the_stored_action_is_the_ratio_as_the_networks_have_it() -> None:
    agent = make()
    ratio, stored = agent._sample_action(0)
    assert ratio.shape == stored.shape == (1, 1)
    assert stored == pytest.approx(2 * ratio - 1)


def test_one_update_by_hand() -> None:
    """Adam apart, everything is written out: the moving mean, the target, both losses and the slow copies."""
    agent = make(config=AMCConfig(warmup_episodes=20, actor_learning_rate=3e-4, tau=0.02, baseline_rate=0.25))
    agent.learn(10 * 8)
    agent.baseline = 0.3
    actor, critic, actor_target, critic_target = map(
        copy.deepcopy, (agent.actor, agent.critic, agent.actor_target, agent.critic_target)
    )
    np.random.seed(5)  # noqa: NPY002  # SB3's buffers draw from the global generator
    assert agent.replay_buffer is not None
    batch = agent.replay_buffer.sample(64)
    np.random.seed(5)  # noqa: NPY002
    agent.train(1, 64)

    baseline = 0.75 * 0.3 + 0.25 * batch.rewards.mean().item()
    assert agent.baseline == pytest.approx(baseline)
    with torch.no_grad():
        following = critic_target.qf0(torch.cat([batch.next_observations, actor_target.mu(batch.next_observations)], 1))
        target = batch.rewards - baseline + (1 - batch.dones) * following
    optimizer = torch.optim.Adam(critic.parameters(), 1e-3)
    ((critic.qf0(torch.cat([batch.observations, batch.actions], 1)) - target) ** 2).mean().backward()
    optimizer.step()
    optimizer = torch.optim.Adam(actor.parameters(), 3e-4)
    (-critic.qf0(torch.cat([batch.observations, actor.mu(batch.observations)], 1)).mean()).backward()
    optimizer.step()
    for slow, before, now in ((agent.critic_target, critic_target, critic), (agent.actor_target, actor_target, actor)):
        for found, old, new in zip(slow.parameters(), before.parameters(), now.parameters(), strict=True):
            torch.testing.assert_close(found, 0.98 * old + 0.02 * new)
    for found, expected in ((agent.critic, critic), (agent.actor, actor)):
        for one, other in zip(found.parameters(), expected.parameters(), strict=True):
            torch.testing.assert_close(one, other)


def test_it_learns_at_the_ends_of_episodes_after_the_warm_up() -> None:
    agent = make()
    agent.learn(5 * 8)
    assert agent._n_updates == 0
    agent.learn(8, reset_num_timesteps=False)
    assert agent._n_updates == 8


def test_layers() -> None:
    """Actor and critic have two hidden layers of 300, the actor ends in tanh, which is the sigmoid of twice that in [0, 1]."""
    agent = make()
    shapes = [tuple(p.shape) for p in agent.actor.parameters() if p.ndim == 2]
    assert shapes == [(300, 10), (300, 300), (1, 300)]
    assert [tuple(p.shape) for p in agent.critic.parameters() if p.ndim == 2] == [(300, 11), (300, 300), (1, 300)]
    assert isinstance(agent.actor.mu[-1], torch.nn.Tanh)
    assert (agent.gamma, agent.tau, agent.batch_size) == (1.0, 0.01, 64)
    assert [g["lr"] for g in agent.actor.optimizer.param_groups + agent.critic.optimizer.param_groups] == [1e-4, 1e-3]


def test_cacp_sees_a_target_that_changes() -> None:
    agent = make(config=CACPConfig(warmup_episodes=5, spread=0.2))
    agent.learn(6 * 8)
    assert agent.replay_buffer is not None
    targets = agent.replay_buffer.observations[:48, 0, 0].reshape(6, 8)
    assert (targets == targets[:, :1]).all()
    assert 1 < len(set(targets[:, 0])) <= 6
    assert (abs(targets - 0.6) <= 0.2 + 1e-6).all()


def test_targets_stay_within_reach() -> None:
    agent = make(config=CACPConfig(warmup_episodes=5, spread=0.9))
    layerwise = agent.get_env().get_attr("unwrapped")[0]  # type: ignore[union-attr]
    low, high = layerwise.targets
    assert 0 < low < 0.6 < high < 1
    layerwise.reset(options={"target": high})
    for _ in range(8):
        layerwise.step(np.ones(1))
    assert layerwise.pruning.score().flops_reduction >= high - 1e-9


# ------------------------------------------------------------------------------------------------------ in runs


@pytest.mark.filterwarnings("ignore:warmup_episodes")
@pytest.mark.parametrize("name", ["amc", "cacp"])
def test_a_run(name: str, tiny_task: Task, tmp_path: Path) -> None:
    """One row for every scored network, exactly as many as were allowed, and the same bytes again."""
    settings: Any = {"agent": name, "sparsity": 0.4, "evaluations": 12, "device": "cpu", "seed": 3}
    one, other = (run(RunConfig(**settings, out=tmp_path / each), task=tiny_task) for each in ("one", "other"))
    assert one.summary["evaluations"] == 12
    rows = list(csv.DictReader((one.folder / "evaluations.csv").read_text().splitlines()))
    assert [int(row["evaluation"]) for row in rows] == list(range(1, 13))
    assert [int(row["episode"]) for row in rows] == list(range(12))
    for file in ("summary.json", "evaluations.csv", "pruned.safetensors"):
        assert (one.folder / file).read_bytes() == (other.folder / file).read_bytes()


def test_it_is_saved_and_loaded(tmp_path: Path) -> None:
    agent = make(evaluations=10)
    agent.learn(10 * 8)
    agent.save(tmp_path / "agent")
    loaded = AMC.load(tmp_path / "agent", env=agent.get_env())
    observation = np.random.default_rng(0).random((5, 10)).astype(np.float32)
    np.testing.assert_array_equal(agent.predict(observation)[0], loaded.predict(observation)[0])
    alone = AMC.load(tmp_path / "agent")
    np.testing.assert_array_equal(agent.predict(observation)[0], alone.predict(observation)[0])
    loaded.learn(8, reset_num_timesteps=False)
    assert loaded._n_updates == agent._n_updates + 8


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:warmup_episodes")
@pytest.mark.parametrize("name", ["digits", "digits-resnet", "digits-mobilenet"])
@pytest.mark.parametrize("config", [AMCConfig(), CACPConfig()])
def test_it_is_better_than_uniform_pruning(name: str, config: AMCConfig) -> None:
    """The networks it finds, at -75% of the MACs within 300 evaluations, on average of two seeds."""
    regrets = []
    for seed in (10, 11):
        env = TabularEnv(name, macs_reduction=0.75, reward="accuracy")
        agent = make_amc(env, config, 300, seed)
        agent.learn(300 * agent.groups)
        assert env.best is not None
        regrets.append(env.regret(env.best.snapshot))
    env.reset()
    ended = False
    while not ended:
        _, _, ended, _, _ = env.step(env.uniform_action)
    assert np.mean(regrets) < env.regret(env.snapshot()) - 0.02


# ------------------------------------------------------------------------------------------------------ bad input


def test_bad_arguments(tiny_task: Task) -> None:
    env = PruningEnv(tiny_task, sparsity=0.4, device="cpu")
    with pytest.raises(TypeError, match="env: expected one LayerwiseEnv, got 1 of PruningEnv"):
        AMC("MlpPolicy", env)
    with pytest.raises(TypeError, match="env: expected a PruningEnv inside, got LayerwiseEnv"):
        make_amc(LayerwiseEnv(env), AMCConfig(), 100)
    with pytest.raises(ValueError, match="env: AMC plays a game of its own on the networks, and would not see ImprovementReward"):
        make_amc(ImprovementReward(env, 1.0), AMCConfig(), 100)
    with pytest.warns(UserWarning, match="warmup_episodes: AMC learns for the first time after 2 episodes instead of 101"):
        make_amc(env, AMCConfig(), 12)
    with pytest.raises(ValueError, match="warmup_episodes: AMC would learn for the first time after 100 episodes"):
        make_amc(env, AMCConfig(warmup_episodes=99), 100)
    for setting, value in {"noise": 0.0, "noise_decay": 1.5, "warmup_episodes": 0, "tau": 0.0}.items():
        with pytest.raises(ValueError, match=f"{setting}: expected"):
            AMCConfig(**{setting: value})
