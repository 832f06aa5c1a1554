"""Stable-Baselines3 agents with settings for short, cheap episodes of continuous actions."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import gymnasium
import numpy as np
from stable_baselines3 import A2C, DDPG, PPO, SAC, TD3
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.noise import NormalActionNoise

from prune_gym.arguments import check_integer, check_number, unwrap_numpy_scalars
from prune_gym.envs.wrappers import SoftmaxAction


class Checked:
    """Settings that are refused by name when they are out of range."""

    INTEGERS: ClassVar = {"n_steps": 1, "batch_size": 2, "n_epochs": 1, "learning_starts": 0}  # with the least of each
    FRACTIONS: ClassVar = ("gamma", "gae_lambda", "tau")

    def __post_init__(self) -> None:
        unwrap_numpy_scalars(self)
        for name, value in vars(self).items():
            if name in self.INTEGERS:
                check_integer(name, value, self.INTEGERS[name])
            else:
                check_number(name, value, "[0, 1]" if name in self.FRACTIONS else "[0, inf)")


@dataclass(frozen=True)
class PPOConfig(Checked):
    """Settings of PPO, named as in Stable-Baselines3."""

    learning_rate: float = 1e-3
    """Step size of Adam."""
    n_steps: int = 64
    """Steps per rollout."""
    batch_size: int = 32
    """Steps per gradient step."""
    n_epochs: int = 10
    """Passes over a rollout."""
    gamma: float = 0.99
    """Discount."""
    gae_lambda: float = 0.95
    """Trade-off of bias and variance in the advantages."""
    clip_range: float = 0.2
    """Largest relative change of an action's probability."""
    ent_coef: float = 0.0
    """Weight of the entropy bonus."""


@dataclass(frozen=True)
class A2CConfig(Checked):
    """Settings of A2C, named as in Stable-Baselines3."""

    learning_rate: float = 1e-3
    """Step size of RMSprop."""
    n_steps: int = 10
    """Steps per update."""
    gamma: float = 0.99
    """Discount."""
    gae_lambda: float = 1.0
    """Trade-off of bias and variance in the advantages."""
    ent_coef: float = 0.0
    """Weight of the entropy bonus."""


@dataclass(frozen=True)
class OffPolicyConfig(Checked):
    """Settings of SAC, TD3 and DDPG, named as in Stable-Baselines3."""

    learning_rate: float = 1e-3
    """Step size of Adam."""
    batch_size: int = 64
    """Transitions per gradient step."""
    learning_starts: int = 100
    """Random steps before learning."""
    gamma: float = 0.99
    """Discount."""
    tau: float = 0.005
    """Speed of the target networks."""


ACTION_NOISE = 0.2  # standard deviation, for the agents whose policy is deterministic


def make_sb3(
    name: str,
    env: gymnasium.Env,
    config: PPOConfig | A2CConfig | OffPolicyConfig,
    seed: int | None = None,
) -> BaseAlgorithm:
    """An SB3 agent on ``env`` (a pruning environment), which is wrapped in :class:`SoftmaxAction`."""
    classes: dict[str, Any] = {"ppo": PPO, "a2c": A2C, "sac": SAC, "td3": TD3, "ddpg": DDPG}
    settings = asdict(config)
    if name in ("td3", "ddpg"):
        assert env.action_space.shape is not None
        settings["action_noise"] = NormalActionNoise(
            np.zeros(env.action_space.shape), np.full(env.action_space.shape, ACTION_NOISE)
        )
    return classes[name]("MlpPolicy", SoftmaxAction(env), seed=seed, device="cpu", **settings)
