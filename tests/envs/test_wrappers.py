from __future__ import annotations

import gymnasium
import numpy as np
import pytest
from gymnasium import wrappers
from stable_baselines3.common.monitor import Monitor

from prune_gym.envs import (
    GroupAction,
    ImprovementReward,
    PruningEnv,
    SelfCompetition,
    ShapingReward,
    SoftmaxAction,
    TabularEnv,
    reward_wrapper,
)
from prune_gym.testing import EnvironmentConformance, assert_same


@pytest.fixture
def env(tiny_task):
    return PruningEnv(tiny_task, sparsity=0.5, step_ratio=0.2, device="cpu")


# ------------------------------------------------------------------------------------------------ actions


def test_softmax_action(env):
    wrapped = SoftmaxAction(env, scale=2.0)
    n = wrapped.action_space.shape[0]
    assert (wrapped.action_space.low == -1).all()
    assert (wrapped.action_space.high == 1).all()
    assert wrapped.action_space.dtype == np.float32
    np.testing.assert_allclose(wrapped.action(np.zeros(n)), env.uniform_action)
    action = np.zeros(n)
    action[0] = 1
    distribution = wrapped.action(action)
    assert distribution.sum() == pytest.approx(1)
    odds = distribution[0] / distribution[1]
    assert odds == pytest.approx(np.exp(2.0) * env.uniform_action[0] / env.uniform_action[1])


def test_softmax_action_by_hand(env):
    action = np.array([0.5, -1.0, 0.0, 1.0, 0.25])
    filters = np.array([16, 6, 24, 8, 10])
    expected = filters * np.exp(3 * action)
    np.testing.assert_allclose(SoftmaxAction(env).action(action), expected / expected.sum(), rtol=1e-12)


def test_softmax_action_clips(env):
    wrapped = SoftmaxAction(env, scale=2.0)
    beyond, edge = np.array([7.0, -3.0, 0.5, 1.0, -1.0]), np.array([1.0, -1.0, 0.5, 1.0, -1.0])
    np.testing.assert_array_equal(wrapped.action(beyond), wrapped.action(edge))
    assert (wrapped.action(edge) != wrapped.action(0.9 * edge)).all()


def test_softmax_action_of_a_large_scale(env):
    found = SoftmaxAction(env, scale=1e4).action(np.array([1.0, -1, -1, -1, -1]))
    np.testing.assert_array_equal(found, [1, 0, 0, 0, 0])


@pytest.mark.parametrize(
    ("bad", "message"),
    [(np.zeros(1), "action: expected shape"), (np.inf, "action: expected finite numbers, got inf")],
)
def test_softmax_action_refuses(env, bad, message):
    wrapped = SoftmaxAction(env)
    wrapped.reset()
    bad = np.full(wrapped.action_space.shape, bad) if np.isscalar(bad) else bad
    with pytest.raises(ValueError, match=message):
        wrapped.step(bad)
    with pytest.raises(ValueError, match=r"scale: expected a number in \(0, inf\), got -1"):
        SoftmaxAction(env, scale=-1)


class TestGroupAction(EnvironmentConformance):
    def make(self) -> gymnasium.Env:
        return GroupAction(TabularEnv("digits", macs_reduction=0.6, step_ratio=0.1))

    def test_a_bad_action_changes_nothing(self) -> None:
        """Of the wrapper itself; the other checks play it, too."""
        env, other = self.make(), self.make()
        env.reset(seed=0)
        other.reset(seed=0)
        for bad in (8, -1, 0.5, "0", None, np.array([1]), np.float64(1)):
            with pytest.raises((ValueError, TypeError), match=r"action: expected an integer in \[0, 8\), got"):
                env.step(bad)
        assert_same(env.step(7), other.step(np.array(7)))


def test_a_group_loses_the_whole_step(env):
    wrapped = GroupAction(env)
    assert wrapped.action_space == gymnasium.spaces.Discrete(5)
    for group in range(5):
        wrapped.reset()
        *_, info = wrapped.step(np.int64(group))
        env.reset()
        *_, expected = env.step(np.eye(5)[group])
        np.testing.assert_array_equal(info["widths"], expected["widths"])
        assert info["widths"][group] < env.graph.widths[group]
        if group == 2:  # it holds more filters than a step removes
            assert np.delete(info["widths"], 2).tolist() == np.delete(env.graph.widths, 2).tolist()
    given = wrapped.action(2)
    given[:] = 7  # what is handed out is the caller's own
    np.testing.assert_array_equal(wrapped.action(2), [0, 0, 1, 0, 0])


# ------------------------------------------------------------------------------------------------ which wrappers change rewards


class Silent(gymnasium.Wrapper):
    """Does nothing, and has a ``step`` of its own to do so."""

    def step(self, action):
        return self.env.step(action)


class Watching(Silent):
    keeps_reward = True

    def step(self, action):
        return self.env.step(action)


class LoudTimeLimit(wrappers.TimeLimit):
    def step(self, action):
        observation, reward, *rest = super().step(action)
        return observation, -reward, *rest


class Scaled(gymnasium.RewardWrapper):
    def reward(self, reward):
        return 2 * reward


@pytest.mark.parametrize(
    "wrap",
    [
        lambda env: env,
        SoftmaxAction,
        Monitor,
        Watching,
        wrappers.OrderEnforcing,
        wrappers.PassiveEnvChecker,
        wrappers.RecordEpisodeStatistics,
        wrappers.Autoreset,
        wrappers.FlattenObservation,
        wrappers.ClipAction,
        wrappers.NormalizeObservation,
        lambda env: wrappers.TimeAwareObservation(wrappers.TimeLimit(env, 100)),
        lambda env: wrappers.TimeLimit(env, 100),
        lambda env: wrappers.FrameStackObservation(env, 2),
        lambda env: Monitor(SoftmaxAction(wrappers.TimeLimit(env, 5))),
        type("Plain", (gymnasium.Wrapper,), {}),
        type("Sub", (wrappers.TimeLimit,), {"__init__": lambda self, env: wrappers.TimeLimit.__init__(self, env, 7)}),
    ],
)
def test_wrappers_that_hand_the_reward_on(env, wrap):
    assert reward_wrapper(wrap(env)) is None


@pytest.mark.parametrize(
    "wrap",
    [
        lambda env: wrappers.TransformReward(env, lambda reward: -reward),
        lambda env: wrappers.ClipReward(env, 0, 1),
        wrappers.NormalizeReward,
        lambda env: ImprovementReward(env, 0.9),
        lambda env: ShapingReward(env, lambda score, baseline: 0.0, 0.9),
        SelfCompetition,
        lambda env: LoudTimeLimit(env, 100),
        lambda env: wrappers.RepeatAction(env, 2) if hasattr(wrappers, "RepeatAction") else Silent(env),
        Scaled,
        Silent,
        type("Sub", (Scaled,), {"keeps_reward": True}),
        type("Sub", (Watching,), {"step": Silent.step}),
    ],
)
def test_wrappers_that_may_change_it(env, wrap):
    wrapped = wrap(env)
    assert reward_wrapper(wrapped) is wrapped
    assert reward_wrapper(Monitor(SoftmaxAction(wrapped))) is wrapped
    assert reward_wrapper(Scaled(wrapped)) is not wrapped  # the outermost


def test_environments_of_gymnasium_make_have_none():
    assert reward_wrapper(gymnasium.make("PruneGym/Digits-v0", max_episode_steps=50, device="cpu")) is None


@pytest.mark.parametrize(
    "wrap",
    [
        SoftmaxAction,
        lambda env: ImprovementReward(env, 1.0),
        lambda env: ShapingReward(env, lambda score, baseline: 0.0, 1.0),
        SelfCompetition,
    ],
)
def test_wrappers_need_a_pruning_environment(wrap):
    env = gymnasium.make("Pendulum-v1")
    with pytest.raises(TypeError, match="env: expected a PruningEnv inside, got PendulumEnv"):
        wrap(env)


def test_wrapped_environments_can_be_made_again_from_their_spec():
    made = gymnasium.make("PruneGym/Digits-v0", sparsity=0.25, device="cpu")
    env = ImprovementReward(SoftmaxAction(made, scale=1.5), gamma=0.9)
    again = gymnasium.make(env.spec)
    assert again.get_wrapper_attr("scale") == 1.5
    assert again.get_wrapper_attr("improvement").gamma == 0.9
    assert again.unwrapped.simulator.schedule.target == env.unwrapped.simulator.schedule.target
