"""Multipliers of constraints: their updates by hand, what agents learn from, and that a limit is kept."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3 import DQN, PPO, SAC
from stable_baselines3.common.callbacks import BaseCallback, CallbackList
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from prune_gym.agents import LagrangianCallback, PIDLagrangianCallback, RandomAgent
from prune_gym.agents.lagrange import MultiplierCallback
from prune_gym.envs import SoftmaxAction, TabularEnv


def test_gradient_ascent_by_hand() -> None:
    callback = LagrangianCallback(limit=2.0, learning_rate=0.5, initial=1.0)
    found = []
    for cost in (4.0, 1.0, 0.0, 0.0, 3.0):
        callback.multiplier = callback.updated(cost)
        found.append(callback.multiplier)
    assert found == [2.0, 1.5, 0.5, 0.0, 0.5]


def test_the_controller_by_hand() -> None:
    callback = PIDLagrangianCallback(limit=2.0, k_p=1.0, k_i=0.5, k_d=2.0, delay=2, smoothing=0.5, initial=0.25)
    # cost, then P, I and D: the smooth costs are 2, 2.5, 1.25 and 0.625, beside 0, 0, 2 and 2.5, and 2.5 after that
    expected = [
        (4.0, 1.0, 1.25, 2.0),
        (3.0, 1.0, 1.75, 2.5),
        (0.0, -0.5, 0.75, 0.0),
        (0.0, -1.25, 0.0, 0.0),
    ]
    for cost, p, i, d in expected:
        assert callback.updated(cost) == pytest.approx(max(0.0, p + i + 2 * d)), cost


def test_defaults_are_those_of_omnisafe() -> None:
    callback = LagrangianCallback(1.0)
    assert (callback.multiplier, callback.learning_rate) == (0.001, 0.035)
    controller = PIDLagrangianCallback(1.0)
    assert (controller.gains, controller.smoothing, controller._earlier.maxlen) == ((0.1, 0.01, 0.01), 0.95, 10)


class Notes(BaseCallback):
    """Notes what the environment gave, before the multiplier is in it."""

    def __init__(self) -> None:
        super().__init__()
        self.rewards: list[float] = []
        self.costs: list[float] = []
        self.ends: list[int] = []  # how many steps there were when an episode ended

    def _on_step(self) -> bool:
        self.rewards.append(float(self.locals["rewards"][0]))
        self.costs.append(float(self.locals["infos"][0]["cost"]))
        if self.locals["dones"][0]:
            self.ends.append(len(self.costs))
        return True


class Fixed(MultiplierCallback):
    def updated(self, cost: float) -> float:
        return self.multiplier


def tabular() -> gymnasium.Env:
    return TabularEnv("digits-mobilenet", macs_reduction=0.6, step_ratio=0.2, reward="flops", cost="1 - accuracy")


@pytest.mark.parametrize("kind", [PPO, SAC])
def test_agents_learn_from_the_reward_less_the_cost(kind: type[Any]) -> None:
    notes, env = Notes(), SoftmaxAction(tabular())
    steps = {"n_steps": 16, "batch_size": 16} if kind is PPO else {"learning_starts": 100}
    agent = kind("MlpPolicy", env, seed=0, device="cpu", **steps)
    agent.learn(16, CallbackList([notes, Fixed(0.0, initial=3.0)]))
    stored = agent.rollout_buffer.rewards[:, 0] if kind is PPO else agent.replay_buffer.rewards[:16, 0]
    expected = (np.array(notes.rewards) - 3.0 * np.array(notes.costs)) / 4.0
    np.testing.assert_allclose(stored, expected, rtol=1e-5)
    assert np.ptp(notes.costs) > 0


def test_the_multiplier_follows_the_mean_cost_of_episodes() -> None:
    class Counting(Fixed):
        means: list[float] = []  # noqa: RUF012

        def updated(self, cost: float) -> float:
            self.means.append(cost)
            return self.multiplier

    notes, callback, env = Notes(), Counting(0.0, initial=0.0), SoftmaxAction(tabular())
    PPO("MlpPolicy", env, n_steps=12, batch_size=12, seed=0, device="cpu").learn(24, CallbackList([notes, callback]))
    ended = np.array(notes.ends)
    episodes = np.diff(np.cumsum(notes.costs)[ended - 1], prepend=0.0)
    expected = [episodes[ended <= 12].mean(), episodes[(ended > 12) & (ended <= 24)].mean()]
    np.testing.assert_allclose(callback.means, expected)


def test_costs_that_are_missing() -> None:
    env = SoftmaxAction(TabularEnv("digits-mobilenet"))
    with pytest.raises(ValueError, match=r"env: expected infos with a 'cost'; make the environment with cost="):
        PPO("MlpPolicy", env, n_steps=8, batch_size=8, device="cpu").learn(8, LagrangianCallback(1.0))


def test_algorithms_and_wrappers_that_it_is_not_for() -> None:
    env = DummyVecEnv([lambda: SoftmaxAction(tabular())])
    with pytest.raises(ValueError, match="env: expected rewards as the environment gives them, got VecNormalize"):
        SAC("MlpPolicy", VecNormalize(env), device="cpu").learn(10, LagrangianCallback(1.0))
    with pytest.raises(TypeError, match="model: expected an algorithm that learns from steps, got RandomAgent"):
        RandomAgent(tabular()).learn(10, LagrangianCallback(1.0))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LagrangianCallback(float("nan")), "limit: expected"),
        (lambda: LagrangianCallback(1.0, learning_rate=0.0), "learning_rate: expected"),
        (lambda: LagrangianCallback(1.0, initial=-1.0), "initial: expected"),
        (lambda: PIDLagrangianCallback(1.0, k_i=-0.1), "k_i: expected"),
        (lambda: PIDLagrangianCallback(1.0, delay=0), "delay: expected"),
        (lambda: PIDLagrangianCallback(1.0, smoothing=1.0), "smoothing: expected"),
    ],
)
def test_bad_settings(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    "callback", [LagrangianCallback(0.3, learning_rate=0.2), PIDLagrangianCallback(0.3, k_i=0.1)], ids=["gradient", "controller"]
)
def test_a_learner_that_answers_at_once_ends_at_the_limit(callback: MultiplierCallback) -> None:
    """The reward -(a - 1)² / 4 of an action a that costs (a + 1) / 2: under a multiplier m the best action is 1 - m, which costs
    1 - m / 2."""
    for _ in range(300):
        callback.multiplier = callback.updated(1 - callback.multiplier / 2)
    assert callback.multiplier == pytest.approx(1.4, abs=1e-3)


class Bandit(gymnasium.Env):
    """That reward and that cost, as an environment. An episode has one step."""

    observation_space = spaces.Box(0, 1, (1,), np.float32)
    action_space = spaces.Box(-1, 1, (1,), np.float32)

    def reset(self, **settings: Any) -> Any:
        super().reset(**settings)
        return np.zeros(1, np.float32), {}

    def step(self, action: np.ndarray) -> Any:
        taken = float(np.clip(action[0], -1, 1))
        return np.zeros(1, np.float32), -((taken - 1) ** 2) / 4, True, False, {"cost": (taken + 1) / 2}


@pytest.mark.slow
def test_an_agent_goes_as_far_as_it_may() -> None:
    notes, callback = Notes(), LagrangianCallback(0.3, learning_rate=0.1)
    agent = PPO("MlpPolicy", Bandit(), n_steps=128, batch_size=64, seed=0, learning_rate=1e-3, device="cpu")
    agent.learn(20_000, CallbackList([notes, callback]))
    assert np.mean(notes.costs[:1000]) > 0.45  # at first it is free to do anything
    assert np.mean(notes.costs[-5000:]) == pytest.approx(0.3, abs=0.06)
    assert callback.multiplier == pytest.approx(1.4, abs=0.4)


def test_discrete_agents_take_it_too() -> None:
    from prune_gym.envs import BlocksEnv

    env = BlocksEnv("digits-mobilenet", macs_reduction=0.3, cost="1 - accuracy")
    callback = LagrangianCallback(0.0)
    DQN("MlpPolicy", env, learning_starts=10, seed=0, device="cpu").learn(60, callback)
    assert callback.multiplier > 0.001
