"""Conformance checks for environments, agents and rewards of your own, as classes to inherit from in your tests::

    from prune_gym.testing import AgentConformance

    class TestMine(AgentConformance):
        def make(self, env, seed):
            return MyAgent(env, seed=seed)

pytest, which this module needs, runs every check of the class. The project holds its own environments, agents and rewards to the
same ones.
"""

from __future__ import annotations

import copy
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator
from math import isfinite
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.env_checker import check_env as sb3_check_env

from prune_gym import tables
from prune_gym.envs.tabular import TabularEnv
from prune_gym.envs.wrappers import pruning_env
from prune_gym.scoring.evaluation import Score
from prune_gym.simulation.rewards import Reward, make_reward
from prune_gym.simulation.target import Target
from prune_gym.simulation.terms import Transition


class EnvironmentConformance(ABC):
    """What Gymnasium, Stable-Baselines3 and agents of this project expect of an environment."""

    steps = 100
    """In how many steps an episode of random actions is over."""

    @abstractmethod
    def make(self) -> gymnasium.Env:
        """A new environment, always with the same settings."""

    def play(self, env: gymnasium.Env, seed: int) -> Iterator[tuple[Any, ...]]:
        """An episode of random actions: what reset gives, then what each step gives."""
        env.action_space.seed(seed)
        yield env.reset(seed=seed)
        for _ in range(self.steps):
            step = env.step(env.action_space.sample())
            yield step
            if step[2] or step[3]:
                return
        raise AssertionError(f"the episode is not over after {self.steps} steps")

    def test_the_checkers_find_nothing(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            warnings.filterwarnings("ignore", message=".*(recommend.*(symmetric|normalized)|spec)")
            env = self.make().unwrapped
            check_env(env, skip_render_check=env.render_mode is None)
            sb3_check_env(self.make(), skip_render_check=True)

    def test_the_same_seed_gives_the_same_episode(self) -> None:
        one, other = self.make(), self.make()
        for seed in (0, 3, 0):
            assert_same(list(self.play(one, seed)), list(self.play(other, seed)))

    def test_what_it_gave_stays_as_it_was(self) -> None:
        env = self.make()
        given, copies = [], []
        for step in self.play(env, 1):
            given.append(step)
            copies.append(copy.deepcopy(step))
        list(self.play(env, 2))
        assert_same(given, copies)

    def test_steps_are_refused_before_the_first_reset_and_after_the_end(self) -> None:
        env = self.make().unwrapped
        with pytest.raises(RuntimeError):
            env.step(env.action_space.sample())
        list(self.play(env, 0))
        with pytest.raises(RuntimeError):
            env.step(env.action_space.sample())

    def test_a_bad_action_changes_nothing(self) -> None:
        env, other = self.make().unwrapped, self.make().unwrapped
        env.reset(seed=0)
        other.reset(seed=0)
        space: Any = env.action_space
        action = space.sample()
        discrete = isinstance(space, gymnasium.spaces.Discrete)
        for bad in [space.n, -1, 0.5] if discrete else [action[:-1], action * np.nan, action - 10]:
            with pytest.raises((ValueError, TypeError)):
                env.step(bad)
        assert_same(env.step(action), other.step(action))


class AgentConformance(ABC):
    """What runs and comparisons expect of an agent: on a table, where an episode takes a millisecond."""

    evaluations = 300
    """The budget."""
    saves = True
    """Whether it can be saved and loaded, by the class that it is of."""

    @abstractmethod
    def make(self, env: gymnasium.Env, seed: int) -> BaseAlgorithm:
        """The agent on an environment of sparsity distributions."""

    def environment(self) -> gymnasium.Env:
        """What it searches; a :class:`prune_gym.envs.PruningEnv`, in wrappers or not."""
        return TabularEnv("digits", macs_reduction=0.6, step_ratio=0.1, reward="accuracy")

    def searched(self, seed: int = 0) -> tuple[gymnasium.Env, BaseAlgorithm]:
        env = self.environment()
        agent = self.make(env, seed)
        agent.learn(self.evaluations * getattr(agent, "steps_per_evaluation", 1))
        return env, agent

    def test_it_keeps_to_its_budget_and_finds_a_network(self) -> None:
        env, agent = self.searched()
        inner = pruning_env(env)
        assert 0 < inner.evaluations <= self.evaluations
        assert agent.num_timesteps == inner.evaluations * getattr(agent, "steps_per_evaluation", 1)
        assert inner.best is not None
        assert inner.best.terminated

    def test_the_same_seed_gives_the_same_search(self) -> None:
        (one, _), (other, _) = self.searched(5), self.searched(5)
        found, again = pruning_env(one).best, pruning_env(other).best
        assert found is not None
        assert again is not None
        assert found.score == again.score
        assert pruning_env(one).compute == pruning_env(other).compute

    def test_it_says_what_to_do_in_any_state(self) -> None:
        _, agent = self.searched()
        assert agent.env is not None
        observation: Any = agent.env.reset()
        for _ in range(5):
            action, _ = agent.predict(observation, deterministic=True)
            assert action.shape == (1, *agent.action_space.shape)  # type: ignore[misc]
            assert agent.action_space.contains(action[0])
            observation, *_ = agent.env.step(action)

    def test_a_loaded_agent_does_the_same(self, tmp_path: Path) -> None:
        if not self.saves:
            pytest.skip("it cannot be saved")
        _, agent = self.searched()
        agent.save(tmp_path / "agent")
        loaded = type(agent).load(tmp_path / "agent")
        assert agent.env is not None
        observation: Any = agent.env.reset()
        np.testing.assert_array_equal(
            agent.predict(observation, deterministic=True)[0], loaded.predict(observation, deterministic=True)[0]
        )


class RewardConformance(ABC):
    """What environments expect of a reward: a finite number, from the transition alone."""

    @abstractmethod
    def make(self) -> Reward:
        """The reward: a function, the text of a formula, or a name."""

    def transitions(self) -> Iterator[Transition]:
        """Steps of an episode that is to remove half of the MACs of the network of digits: random ones, and the extremes."""
        baseline, rng = Score(0.97, 10**6, 10**5, 0.0, 0.0, 0.0), np.random.default_rng(0)
        target, table = Target("macs_reduction", 0.5), tables.load("digits")
        widths = table.widths(np.array(table.shape) - 1)

        def score(accuracy: float, kept: float) -> Score:
            macs, params = max(1, int(kept * baseline.macs)), max(1, int(kept * baseline.params))
            reductions = 1 - macs / baseline.macs, 1 - params / baseline.params, 1 - max(kept, 1e-3)
            return Score(accuracy, macs, params, *reductions, np.maximum(kept * widths, 1).astype(int))

        for _ in range(200):
            more, less = sorted(rng.random(2), reverse=True)
            yield Transition(score(rng.random(), more), score(rng.random(), less), baseline, target, bool(less <= 0.5))
        for accuracy in (0.0, 1.0):
            yield Transition(baseline, score(accuracy, 0.0), baseline, target, True)
            yield Transition(baseline, score(accuracy, 1.0), baseline, target, False)

    def test_it_is_a_finite_number(self) -> None:
        reward = make_reward(self.make())
        for transition in self.transitions():
            assert isfinite(reward(*transition)), transition

    def test_it_depends_on_the_transition_alone(self) -> None:
        one, other = make_reward(self.make()), make_reward(self.make())
        found = [one(*transition) for transition in self.transitions()]
        assert found == [other(*transition) for transition in self.transitions()]
        assert found == [one(*transition) for transition in self.transitions()]

    def test_environments_take_it(self) -> None:
        env = TabularEnv("digits", macs_reduction=0.6, reward=self.make())
        env.reset()
        ended = False
        while not ended:
            before = env.score()
            _, reward, ended, _, _ = env.step(env.uniform_action)
            transition = Transition(before, env.score(), env.simulator.baseline, env.simulator.target, ended)
            assert reward == make_reward(self.make())(*transition)


def assert_same(one: Any, other: Any) -> None:
    """Fail unless both have the same structure, types and numbers, in dicts, sequences and arrays."""
    assert type(one) is type(other)
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_same(one[key], other[key])
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            assert_same(a, b)
    elif isinstance(one, np.ndarray):
        assert one.dtype == other.dtype
        if one.dtype == object:
            assert_same(list(one), list(other))
        else:
            np.testing.assert_array_equal(one, other)
    else:
        assert one == other
