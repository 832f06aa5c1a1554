"""Stable-Baselines3 agents with settings for short, cheap episodes of continuous actions."""

from __future__ import annotations

import warnings
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import gymnasium
import numpy as np
from stable_baselines3 import A2C, DDPG, PPO, SAC, TD3
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.noise import NormalActionNoise

from prune_gym.arguments import AtLeast, Within, check_settings
from prune_gym.envs.wrappers import SoftmaxAction

Positive = Annotated[float, Within("(0, inf)")]
NotNegative = Annotated[float, Within("[0, inf)")]
Fraction = Annotated[float, Within("[0, 1]")]


@dataclass(frozen=True)
class PPOConfig:
    """Settings of PPO, named as in Stable-Baselines3."""

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
class OffPolicyConfig:
    """Settings of SAC, TD3 and DDPG, named as in Stable-Baselines3."""

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


SB3Config = PPOConfig | A2CConfig | OffPolicyConfig

ACTION_NOISE = 0.2  # standard deviation, for the agents whose policy is deterministic


def make_sb3(name: str, env: gymnasium.Env, config: SB3Config, evaluations: int, seed: int | None = None) -> BaseAlgorithm:
    """An SB3 agent on ``env`` (a pruning environment), which is wrapped in :class:`SoftmaxAction`, for a search of so many
    evaluations. Raises ValueError if it would learn nothing within them."""
    classes: dict[str, Any] = {"ppo": PPO, "a2c": A2C, "sac": SAC, "td3": TD3, "ddpg": DDPG}
    settings = asdict(config)
    match config:
        case PPOConfig():
            settings["n_steps"] = n_steps = _first_learning(name, "n_steps", config.n_steps, 64, 2, evaluations)
            settings["batch_size"] = min(config.batch_size, n_steps)
        case A2CConfig():
            settings["n_steps"] = _first_learning(name, "n_steps", config.n_steps, 10, 1, evaluations)
        case OffPolicyConfig():  # the first step after learning_starts is the first that it learns from
            starts = config.learning_starts
            first = _first_learning(name, "learning_starts", None if starts is None else starts + 1, 101, 1, evaluations)
            settings["learning_starts"] = first - 1
    if name in ("td3", "ddpg"):
        assert env.action_space.shape is not None
        settings["action_noise"] = NormalActionNoise(
            np.zeros(env.action_space.shape), np.full(env.action_space.shape, ACTION_NOISE)
        )
    return classes[name]("MlpPolicy", SoftmaxAction(env), seed=seed, device="cpu", **settings)


def _first_learning(name: str, setting: str, chosen: int | None, default: int, least: int, evaluations: int) -> int:
    """The step after which an agent learns for the first time: the chosen one, or the default one but within the first quarter of
    the evaluations. Nothing is learned after the last evaluation."""
    first = max(least, min(default, evaluations // 4)) if chosen is None else chosen
    if first >= evaluations:
        raise ValueError(
            f"{setting}: {name} would learn for the first time after {first} steps, and the search ends after {evaluations}; "
            f"choose a smaller {setting}, or more evaluations."
        )
    if chosen is None and first < default:
        warnings.warn(
            f"{setting}: {name} learns for the first time after {first} steps instead of {default}, as there are only "
            f"{evaluations} evaluations.",
            stacklevel=3,
        )
    return first
