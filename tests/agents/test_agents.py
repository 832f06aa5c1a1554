"""The other agents: baselines, Stable-Baselines3's, and that all of them are bound by the same budget."""

from __future__ import annotations

import numpy as np
import pytest

from prune_gym.agents import GlobalTaylorAgent, RandomAgent, RLPruner, UniformAgent
from prune_gym.agents.base import EvaluationBudget
from prune_gym.agents.config import RunConfig
from prune_gym.agents.registry import AGENTS, make_agent
from prune_gym.agents.sb3 import OffPolicyConfig, PPOConfig, make_sb3
from prune_gym.envs import PruningEnv


@pytest.fixture
def env(tiny_task):
    return PruningEnv(tiny_task, sparsity=0.5, step_ratio=0.125, device="cpu")


def test_uniform_prunes_every_group_alike(tiny_task):
    env = PruningEnv(tiny_task, sparsity=0.5, step_ratio=0.125, rounding="carry", device="cpu")
    agent = UniformAgent(env).learn(500)
    assert agent.num_timesteps <= 5  # its one episode
    widths = env.best.snapshot.architecture.widths
    assert np.abs(widths - env.graph.widths / 2).max() <= 1  # one unit of rounding


def test_random_uses_the_whole_budget_and_depends_on_its_seed(tiny_task):
    def search(seed: int) -> tuple[list, int]:
        env = PruningEnv(tiny_task, sparsity=0.5, step_ratio=0.125, device="cpu")
        agent = RandomAgent(env, seed=seed).learn(42)
        return env.best.snapshot.architecture.widths.tolist(), agent.num_timesteps

    first, timesteps = search(0)
    assert timesteps == 40  # ten episodes of four steps
    assert search(0) == (first, 40)
    assert search(1)[0] != first


@pytest.mark.parametrize("agent", [UniformAgent, GlobalTaylorAgent, RandomAgent])
def test_baselines_save_and_load(agent, env, tmp_path):
    made = agent(env, seed=0).learn(8)
    made.save(tmp_path / "agent.zip")
    loaded = agent.load(tmp_path / "agent.zip", env)
    observation = env.reset()[0]
    np.testing.assert_array_equal(loaded.predict(observation)[0], made.predict(observation)[0])


@pytest.mark.parametrize("name", ["ppo", "a2c", "sac", "td3", "ddpg"])
def test_sb3_agents_stop_exactly_at_their_budget(name, env):
    config = (
        PPOConfig(n_steps=8, batch_size=4)
        if name == "ppo"
        else RunConfig().a2c
        if name == "a2c"
        else OffPolicyConfig(learning_starts=10)
    )
    agent = make_sb3(name, env, config, seed=0)
    assert (agent.action_space.low == -1).all()
    agent.learn(37, EvaluationBudget(37))
    assert env.evaluations == agent.num_timesteps == 37
    assert env.best is not None


@pytest.mark.parametrize("name", AGENTS)
def test_every_name_makes_its_agent(name, env):
    agent = make_agent(RunConfig(agent=name), env)
    expected = {"rl_pruner": RLPruner, "uniform": UniformAgent, "random": RandomAgent, "taylor": GlobalTaylorAgent}
    assert type(agent) is expected[name] if name in expected else type(agent).__name__.lower() == name


class Batches(RandomAgent):
    """Previews seven actions before each step."""

    def episode(self) -> None:
        while not self.finished:
            self.preview(self.rng.uniform(size=(7, *self.action_space.shape)))
            self.act(self.rng.uniform(size=self.action_space.shape))


@pytest.mark.parametrize("budget", [4, 9, 32, 39, 60])
def test_no_batch_exceeds_the_budget(env, budget):
    agent = Batches(env, seed=0).learn(budget)
    assert env.evaluations == agent.num_timesteps <= budget


def test_asking_a_random_agent_changes_nothing(env):
    agent = RandomAgent(env, seed=0)
    state = agent.rng.bit_generator.state
    agent.predict(env.reset()[0])
    assert agent.rng.bit_generator.state == state


@pytest.mark.parametrize(
    ("setting", "value", "expected"),
    [
        ("n_steps", 0, "an integer >= 1"),
        ("n_steps", 1.5, "an integer >= 1"),
        ("batch_size", 1, "an integer >= 2"),
        ("gamma", 1.5, r"a number in \[0, 1\]"),
        ("learning_rate", float("nan"), r"a number in \[0, inf\)"),
    ],
)
def test_settings_out_of_range(setting, value, expected):
    with pytest.raises(ValueError, match=f"{setting}: expected {expected}, got {value}"):
        PPOConfig(**{setting: value})
