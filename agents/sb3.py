"""Agents of Stable-Baselines3 and of its sb3-contrib, with settings for short episodes and few of them."""

from __future__ import annotations

import warnings
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import gymnasium
import numpy as np
from stable_baselines3 import A2C, DDPG, DQN, PPO, SAC, TD3
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.noise import NormalActionNoise

from prune_gym.arguments import AtLeast, Within, check_settings
from prune_gym.envs.rewards import check_discount
from prune_gym.envs.wrappers import GroupAction, SoftmaxAction, pruning_env

Positive = Annotated[float, Within("(0, inf)")]
NotNegative = Annotated[float, Within("[0, inf)")]
Fraction = Annotated[float, Within("[0, 1]")]


@dataclass(frozen=True)
class PPOConfig:
    """Settings of PPO, with or without a recurrent policy, named as in Stable-Baselines3."""

    learning_rate: Positive = 1e-3
    """Step size of Adam."""
    n_steps: Annotated[int, AtLeast(2)] | None = None
    """Steps per rollout; by default 64, or a quarter of the evaluations if that is less."""
    batch_size: Annotated[int, AtLeast(2)] = 32
    """Steps per gradient step; all of a rollout, if it is shorter."""
    n_epochs: Annotated[int, AtLeast(1)] = 10
    """Passes over a rollout."""
    gamma: Fraction = 0.99
    """Discount."""
    gae_lambda: Fraction = 0.95
    """Trade-off of bias and variance in the advantages."""
    clip_range: Positive = 0.2
    """Largest relative change of an action's probability."""
    ent_coef: NotNegative = 0.0
    """Weight of the entropy bonus."""

    def __post_init__(self) -> None:
        check_settings(self)


@dataclass(frozen=True)
class A2CConfig:
    """Settings of A2C, named as in Stable-Baselines3."""

    learning_rate: Positive = 1e-3
    """Step size of RMSprop."""
    n_steps: Annotated[int, AtLeast(1)] | None = None
    """Steps per update; by default 10, or a quarter of the evaluations if that is less."""
    gamma: Fraction = 0.99
    """Discount."""
    gae_lambda: Fraction = 1.0
    """Trade-off of bias and variance in the advantages."""
    ent_coef: NotNegative = 0.0
    """Weight of the entropy bonus."""

    def __post_init__(self) -> None:
        check_settings(self)


@dataclass(frozen=True)
class TRPOConfig:
    """Settings of TRPO, named as in sb3-contrib."""

    learning_rate: Positive = 1e-3
    """Step size of Adam, for the values of states alone."""
    n_steps: Annotated[int, AtLeast(2)] | None = None
    """Steps per rollout; by default 64, or a quarter of the evaluations if that is less."""
    batch_size: Annotated[int, AtLeast(2)] = 32
    """Steps per gradient step of the values; all of a rollout, if it is shorter."""
    gamma: Fraction = 0.99
    """Discount."""
    gae_lambda: Fraction = 0.95
    """Trade-off of bias and variance in the advantages."""
    target_kl: Positive = 0.03
    """Largest KL divergence of the policy from the one before."""

    def __post_init__(self) -> None:
        check_settings(self)


@dataclass(frozen=True)
class OffPolicyConfig:
    """Settings of SAC, TQC, TD3 and DDPG, named as in Stable-Baselines3."""

    learning_rate: Positive = 1e-3
    """Step size of Adam."""
    batch_size: Annotated[int, AtLeast(2)] = 64
    """Transitions per gradient step."""
    learning_starts: Annotated[int, AtLeast(0)] | None = None
    """Random steps before learning; by default 100, or a quarter of the evaluations if that is less."""
    gamma: Fraction = 0.99
    """Discount."""
    tau: Fraction = 0.005
    """Speed of the target networks."""

    def __post_init__(self) -> None:
        check_settings(self)


@dataclass(frozen=True)
class DQNConfig(OffPolicyConfig):
    """Settings of DQN, named as in Stable-Baselines3."""

    tau: Fraction = 0.05
    """Speed of the target network."""
    exploration_fraction: Fraction = 0.5
    """Share of the evaluations in which the probability of a random action falls from 1."""
    exploration_final_eps: Fraction = 0.05
    """Probability of a random action afterwards."""


@dataclass(frozen=True)
class ARSConfig:
    """Settings of augmented random search, named as in sb3-contrib."""

    learning_rate: Positive = 0.1
    """Step size, over the standard deviation of the returns."""
    n_delta: Annotated[int, AtLeast(1)] | None = None
    """Directions that are tried before a step, each in two episodes; by default 8, or as many as a quarter of the evaluations
    pays for if that is less."""
    delta_std: Positive = 0.05
    """Standard deviation of the directions."""

    def __post_init__(self) -> None:
        check_settings(self)


SB3Config = PPOConfig | A2CConfig | TRPOConfig | OffPolicyConfig | ARSConfig

ACTION_NOISE = 0.2  # standard deviation, for the agents whose policy is deterministic


def make_sb3(name: str, env: gymnasium.Env, config: SB3Config, evaluations: int, seed: int | None = None) -> BaseAlgorithm:
    """An agent on ``env`` (a pruning environment) for a search of so many evaluations. The environment is wrapped in
    :class:`SoftmaxAction`, for DQN in :class:`GroupAction`.

    Raises ValueError if the agent would learn nothing within them, and if it discounts otherwise than the shaping in its reward.
    """
    settings: dict[str, Any] = asdict(config)
    match config:
        case PPOConfig() | TRPOConfig():
            settings["n_steps"] = n_steps = _first_learning(name, "n_steps", config.n_steps, 64, evaluations, least=2)
            batch_size = min(config.batch_size, n_steps)
            while name == "recurrent_ppo" and n_steps % batch_size == 1:  # of a last batch of one step it would learn NaN
                batch_size += 1
            settings["batch_size"] = batch_size
        case A2CConfig():
            settings["n_steps"] = _first_learning(name, "n_steps", config.n_steps, 10, evaluations)
        case OffPolicyConfig():  # the first step after learning_starts is the first that it learns from
            starts = config.learning_starts
            first = _first_learning(name, "learning_starts", None if starts is None else starts + 1, 101, evaluations)
            settings["learning_starts"] = first - 1
        case ARSConfig():
            inner = pruning_env(env)
            inner.reset()
            settings["n_delta"] = _first_learning(name, "n_delta", config.n_delta, 8, evaluations, steps=2 * inner.steps_left)
    if name == "dqn":  # it learns after every step, and its target network follows, as with the other ones
        settings |= {"train_freq": 1, "target_update_interval": 1}
    if name in ("td3", "ddpg"):
        assert env.action_space.shape is not None
        settings["action_noise"] = NormalActionNoise(
            np.zeros(env.action_space.shape), np.full(env.action_space.shape, ACTION_NOISE)
        )
    check_discount(env, settings.get("gamma", 1.0))  # augmented random search discounts nothing
    policy = {"recurrent_ppo": "MlpLstmPolicy", "ars": "LinearPolicy"}.get(name, "MlpPolicy")
    wrapped = GroupAction(env) if name == "dqn" else SoftmaxAction(env)
    return _algorithm(name)(policy, wrapped, seed=seed, device="cpu", **settings)


def _algorithm(name: str) -> Any:
    """The class of an agent. Those of sb3-contrib are imported here, as no other agent needs them."""
    classes: dict[str, Any] = {"ppo": PPO, "a2c": A2C, "dqn": DQN, "sac": SAC, "td3": TD3, "ddpg": DDPG}
    if name in classes:
        return classes[name]
    import sb3_contrib

    from prune_gym.agents.ars import ARS

    return {"recurrent_ppo": sb3_contrib.RecurrentPPO, "trpo": sb3_contrib.TRPO, "tqc": sb3_contrib.TQC, "ars": ARS}[name]


def _first_learning(
    name: str, setting: str, chosen: int | None, default: int, evaluations: int, *, least: int = 1, steps: int = 1
) -> int:
    """The value of a setting that says when an agent learns for the first time, after ``steps`` times as many steps: the chosen
    one, or the default one but within the first quarter of the evaluations. Nothing is learned after the last evaluation."""
    value = max(least, min(default, evaluations // 4 // steps)) if chosen is None else chosen
    first = value * steps
    if first >= evaluations:
        raise ValueError(
            f"{setting}: {name} would learn for the first time after {first} steps, and the search ends after {evaluations}; "
            f"choose a smaller {setting}, or more evaluations."
        )
    if value < default and chosen is None:
        warnings.warn(
            f"{setting}: {name} learns for the first time after {first} steps instead of {default * steps}, as there are only "
            f"{evaluations} evaluations.",
            stacklevel=3,
        )
    return value
