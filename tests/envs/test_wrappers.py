from __future__ import annotations

import gymnasium
import numpy as np
import pytest

from prune_gym.envs import ImprovementReward, PruningEnv, SoftmaxAction, VectorReward


@pytest.fixture
def env(tiny_task):
    return PruningEnv(tiny_task, sparsity=0.5, step_ratio=0.2, device="cpu")


def test_softmax_action(env):
    wrapped = SoftmaxAction(env, scale=2.0)
    n = wrapped.action_space.shape[0]
    assert (wrapped.action_space.low == -1).all()
    assert wrapped.action_space.dtype == np.float32
    np.testing.assert_allclose(wrapped.action(np.zeros(n)), env.uniform_action)
    action = np.zeros(n)
    action[0] = 1
    distribution = wrapped.action(action)
    assert distribution.sum() == pytest.approx(1)
    odds = distribution[0] / distribution[1]
    assert odds == pytest.approx(np.exp(2.0) * env.uniform_action[0] / env.uniform_action[1])
    np.testing.assert_array_equal(wrapped.action(np.full(n, 7.0)), wrapped.action(np.ones(n)))


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


def test_improvement_reward_sums_to_the_final_reward(env):
    wrapped = ImprovementReward(env)
    for _ in range(2):
        wrapped.reset()
        total, terminated = 0.0, False
        while not terminated:
            _, reward, terminated, _, info = wrapped.step(env.uniform_action)
            total += reward
        assert total == pytest.approx(info["accuracy"] - env.simulator.baseline.accuracy)


def test_vector_reward(env):
    wrapped = VectorReward(env)
    wrapped.reset()
    _, reward, _, _, info = wrapped.step(env.uniform_action)
    assert wrapped.reward_space.contains(reward)
    np.testing.assert_allclose(reward, [info["accuracy"], info["flops_reduction"], info["params_reduction"]], rtol=1e-6)


@pytest.mark.parametrize("wrapper", [SoftmaxAction, ImprovementReward, VectorReward])
def test_wrappers_need_a_pruning_environment(wrapper):
    env = gymnasium.make("Pendulum-v1")
    with pytest.raises(TypeError, match="env: expected a PruningEnv inside, got PendulumEnv"):
        wrapper(env).reset()


def test_wrapped_environments_can_be_made_again_from_their_spec():
    env = SoftmaxAction(gymnasium.make("PruneGym/Digits-v0", sparsity=0.25, device="cpu"), scale=1.5)
    again = gymnasium.make(env.spec)
    assert again.get_wrapper_attr("scale") == 1.5
    assert again.unwrapped.simulator.target_filters == env.unwrapped.simulator.target_filters
