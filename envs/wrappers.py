"""Wrappers in Gymnasium's own way: actions for Gaussian policies and discrete ones; and what is inside of wrappers."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import VectorActionWrapper, VectorEnv
from gymnasium.vector.utils import batch_space

from prune_gym.arguments import as_integer, check_number
from prune_gym.envs.pruning import PruningEnv

KEEP_REWARD = frozenset([  # wrappers whose own step() hands the reward on as it is
    "gymnasium.core.Wrapper",
    "gymnasium.core.ActionWrapper",
    "gymnasium.core.ObservationWrapper",
    "gymnasium.wrappers.common.Autoreset",
    "gymnasium.wrappers.common.OrderEnforcing",
    "gymnasium.wrappers.common.PassiveEnvChecker",
    "gymnasium.wrappers.common.RecordEpisodeStatistics",
    "gymnasium.wrappers.common.TimeLimit",
    "gymnasium.wrappers.rendering.HumanRendering",
    "gymnasium.wrappers.rendering.RecordVideo",
    "gymnasium.wrappers.rendering.RenderCollection",
    "gymnasium.wrappers.stateful_observation.FrameStackObservation",
    "gymnasium.wrappers.stateful_observation.TimeAwareObservation",
    "stable_baselines3.common.monitor.Monitor",
])  # fmt: skip


def pruning_env(env: gymnasium.Env) -> PruningEnv:
    """The pruning environment inside any wrappers. Raises TypeError if there is none."""
    inner = env.unwrapped
    if not isinstance(inner, PruningEnv):
        raise TypeError(f"env: expected a PruningEnv inside, got {type(inner).__name__}.")
    return inner


def reward_wrapper(env: gymnasium.Env) -> gymnasium.Wrapper | None:
    """The outermost wrapper that may change the reward, or None if there is none.

    Agents that preview see the rewards of the environment itself, so they cannot learn from those of a wrapper. A wrapper with a
    ``step`` of its own counts as one, unless it is known to hand the reward on. One of yours that only watches says so by a
    class attribute: ``keeps_reward = True``.
    """
    while isinstance(env, gymnasium.Wrapper):
        owner = next(each for each in type(env).__mro__ if "step" in vars(each))
        if f"{owner.__module__}.{owner.__qualname__}" not in KEEP_REWARD and vars(owner).get("keeps_reward") is not True:
            return env
        env = env.env
    return None


def softmax_distribution(actions: np.ndarray, uniform: np.ndarray, scale: float) -> np.ndarray:
    """``uniform * exp(scale * action)``, normalised, for actions (..., groups), float64. Raises ValueError for another number of
    groups and for numbers that are not finite; what lies outside [-1, 1] is clipped."""
    actions = np.asarray(actions)
    if actions.shape[-1:] != uniform.shape:
        raise ValueError(f"action: expected shape (..., {len(uniform)}), got shape {actions.shape}.")
    if not np.isfinite(actions).all():
        raise ValueError(f"action: expected finite numbers, got {actions[~np.isfinite(actions)][0]}.")
    logits = scale * np.clip(actions.astype(np.float64), -1, 1)
    weights = uniform * np.exp(logits - logits.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


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
        """The sparsity distribution, float64 (groups,), sum 1; see :func:`softmax_distribution`."""
        if np.shape(action) != self.uniform.shape:
            raise ValueError(f"action: expected shape {self.uniform.shape}, got shape {np.shape(action)}.")
        return softmax_distribution(action, self.uniform, self.scale)


class GroupAction(gymnasium.ActionWrapper[np.ndarray, np.int64, np.ndarray], gymnasium.utils.RecordConstructorArgs):
    """Discrete actions, for agents such as DQN: the group that loses all of the next step's budget.

    The sparsity distribution is 1 for that group and 0 for the others. What the group cannot lose goes to the others, in
    proportion to their filters.
    """

    def __init__(self, env: gymnasium.Env[np.ndarray, np.ndarray]):
        gymnasium.utils.RecordConstructorArgs.__init__(self)
        gymnasium.ActionWrapper.__init__(self, env)
        self.distributions = np.eye(len(pruning_env(env).uniform_action))
        self.action_space = spaces.Discrete(len(self.distributions))

    def action(self, action: int | np.integer) -> np.ndarray:
        """The sparsity distribution, float64 (groups,), sum 1. Raises TypeError or ValueError for what is no group."""
        return self.distributions[as_integer("action", action, 0, len(self.distributions))].copy()


class SoftmaxVectorAction(VectorActionWrapper):  # which takes no types before Gymnasium 1.3
    """:class:`SoftmaxAction` for vector environments of pruning: :class:`prune_gym.envs.pruning_vector.PruningVectorEnv` and
    :class:`prune_gym.envs.table_vector.TabularVectorEnv`."""

    def __init__(self, env: VectorEnv[np.ndarray, np.ndarray, np.ndarray], scale: float = 3.0):
        super().__init__(env)
        check_number("scale", scale, "(0, inf)")
        inner: Any = env.unwrapped
        if not hasattr(inner, "uniform_action"):
            raise TypeError(f"env: expected a vector environment of sparsity distributions, got {type(inner).__name__}.")
        self.scale, self.uniform = scale, inner.uniform_action
        self.single_action_space = spaces.Box(-1.0, 1.0, self.uniform.shape, np.float32)
        self.action_space = batch_space(self.single_action_space, env.num_envs)

    def actions(self, actions: np.ndarray) -> np.ndarray:
        """The sparsity distributions, float64 (num_envs, groups); see :func:`softmax_distribution`."""
        return softmax_distribution(actions, self.uniform, self.scale)
