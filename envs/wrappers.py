"""Wrappers in Gymnasium's own way: actions for Gaussian policies, and other views of the reward."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from prune_gym.arguments import check_number
from prune_gym.envs.pruning import PruningEnv


def pruning_env(env: gymnasium.Env) -> PruningEnv:
    """The pruning environment inside any wrappers. Raises TypeError if there is none."""
    inner = env.unwrapped
    if not isinstance(inner, PruningEnv):
        raise TypeError(f"env: expected a PruningEnv inside, got {type(inner).__name__}.")
    return inner


class SoftmaxAction(gymnasium.ActionWrapper[np.ndarray, np.ndarray, np.ndarray], gymnasium.utils.RecordConstructorArgs):
    """Actions in [-1, 1] for Gaussian policies: the sparsity distribution is ``uniform * exp(scale * action)``, normalised.

    Action 0 prunes all groups by the same fraction; +1 multiplies a group's share by ``exp(scale)``.
    """

    def __init__(self, env: gymnasium.Env[np.ndarray, np.ndarray], scale: float = 3.0):
        gymnasium.utils.RecordConstructorArgs.__init__(self, scale=scale)
        gymnasium.ActionWrapper.__init__(self, env)
        check_number("scale", scale, "(0, inf)")
        self.scale = scale
        self.uniform = pruning_env(env).uniform_action
        self.action_space = spaces.Box(-1.0, 1.0, self.uniform.shape, np.float32)

    def action(self, action: np.ndarray) -> np.ndarray:
        action = np.asarray(action)
        if action.shape != self.uniform.shape:
            raise ValueError(f"action: expected shape {self.uniform.shape}, got shape {action.shape}.")
        if not np.isfinite(action).all():
            raise ValueError(f"action: expected finite numbers, got {action[~np.isfinite(action)][0]}.")
        logits = self.scale * np.clip(action.astype(np.float64), -1, 1)
        weights = self.uniform * np.exp(logits - logits.max())
        return weights / weights.sum()


class ImprovementReward(gymnasium.Wrapper[np.ndarray, np.ndarray, np.ndarray, np.ndarray], gymnasium.utils.RecordConstructorArgs):
    """Reward shaping: what the step adds to the reward of the state before it, so that an episode's return is the reward of
    its final network (less that of the original one) instead of the sum over all steps."""

    def __init__(self, env: gymnasium.Env[np.ndarray, np.ndarray]):
        gymnasium.utils.RecordConstructorArgs.__init__(self)
        gymnasium.Wrapper.__init__(self, env)
        pruning_env(env)

    def step(self, action: np.ndarray) -> Any:
        inner = pruning_env(self.env)
        before = inner.score()
        observation, reward, terminated, truncated, info = self.env.step(action)
        change = float(reward) - float(inner.reward(before, before, inner.simulator.baseline))
        return observation, change, terminated, truncated, info


class VectorReward(gymnasium.Wrapper[np.ndarray, np.ndarray, np.ndarray, np.ndarray], gymnasium.utils.RecordConstructorArgs):
    """For multi-objective agents: the reward is the vector (accuracy, MACs reduction, parameter reduction), float32, and
    ``reward_space`` its box, as in MO-Gymnasium."""

    def __init__(self, env: gymnasium.Env[np.ndarray, np.ndarray]):
        gymnasium.utils.RecordConstructorArgs.__init__(self)
        gymnasium.Wrapper.__init__(self, env)
        pruning_env(env)
        self.reward_space = spaces.Box(0.0, 1.0, (3,), np.float32)

    def step(self, action: np.ndarray) -> Any:
        observation, _, terminated, truncated, info = self.env.step(action)
        reward = np.array([info["accuracy"], info["flops_reduction"], info["params_reduction"]], np.float32)
        return observation, reward, terminated, truncated, info


KEEP_REWARD = ("Wrapper", "ActionWrapper", "ObservationWrapper", "OrderEnforcing", "PassiveEnvChecker", "RecordEpisodeStatistics")


def reward_wrapper(env: gymnasium.Env) -> gymnasium.Wrapper | None:
    """The outermost wrapper that may change the reward, or None if there is none."""
    while isinstance(env, gymnasium.Wrapper):
        owner = next(each for each in type(env).__mro__ if "step" in vars(each))
        if owner.__name__ not in (*KEEP_REWARD, "TimeLimit", "Monitor") and vars(owner).get("keeps_reward") is not True:
            return env
        env = env.env
    return None
