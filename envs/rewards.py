"""Wrappers of rewards: what a step adds, shaping by potentials that may change, and competition with oneself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np

from prune_gym.arguments import check_number
from prune_gym.envs.pruning import PruningEnv
from prune_gym.envs.wrappers import pruning_env, reward_wrapper
from prune_gym.scoring.evaluation import Score
from prune_gym.simulation.rewards import VectorReward
from prune_gym.simulation.score_functions import check_takes, finite
from prune_gym.simulation.terms import Formula, Shaping

RewardWrapper = gymnasium.Wrapper[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def scalar_reward(env: gymnasium.Env) -> Formula:
    """The reward of the pruning environment inside. Raises TypeError for a vector."""
    reward = pruning_env(env).reward
    if isinstance(reward, VectorReward):
        raise TypeError("env: expected an environment whose reward is a number, got one with reward='vector'.")
    return reward


class ImprovementReward(gymnasium.Wrapper[np.ndarray, np.ndarray, np.ndarray, np.ndarray], gymnasium.utils.RecordConstructorArgs):
    r"""What each step adds to the worth of the network, instead of the reward of the network after it.

    The reward of a step from s to s' becomes :math:`\gamma \Phi(s') - \Phi(s)`, where the potential :math:`\Phi` of a state is
    the environment's reward for it, ``reward(score, score, baseline)``. The sum telescopes: over an episode of T steps the
    return, discounted by the same gamma, is

    .. math:: \sum_{t=0}^{T-1} \gamma^t (\gamma \Phi(s_{t+1}) - \Phi(s_t)) = \gamma^T \Phi(s_T) - \Phi(s_0)

    - With ``gamma=1`` that is the reward of the final network less that of the original one.
    - With ``gamma < 1`` the reward of the final network is discounted by :math:`\gamma^T`. Episodes that take the same number of
      steps, which is the rule here, are ranked by their final networks alone.
    - With another discount than the learner's there is no such sum, so give the learner's.

    The potential of the terminal state is not set to zero, as it is in reward shaping that leaves the optimum as it was (Ng,
    Harada and Russell, 1999): the difference *replaces* the reward, it is not added to it, so the final network's worth has to
    stay in the sum. Do not add it to another reward.

    Args:
        env: a pruning environment; its reward has to be one of the state after the step alone.
        gamma: the discount of the learner, in [0, 1].

    Raises TypeError for an environment without a pruning environment inside or with a vector reward, ValueError for a reward that
    reads what was before or whether it is the end, and for one in a wrapper that changes the reward, as it would be ignored.
    """

    def __init__(self, env: gymnasium.Env[np.ndarray, np.ndarray], gamma: float):
        gymnasium.utils.RecordConstructorArgs.__init__(self, gamma=gamma)
        gymnasium.Wrapper.__init__(self, env)
        check_number("gamma", gamma, "[0, 1]")
        if (wrapper := reward_wrapper(env)) is not None:
            raise ValueError(
                f"env: {type(wrapper).__name__} changes the reward, which ImprovementReward computes from the environment's own; "
                "wrap the environment in ImprovementReward first."
            )
        self.gamma = gamma
        self.improvement = Shaping(scalar_reward(env), gamma, kept=True)

    def step(self, action: np.ndarray) -> Any:
        inner = pruning_env(self.env)
        before = inner.score()
        observation, _, terminated, truncated, info = self.env.step(action)
        score = inner.score()
        reward = self.improvement(before, score, inner.simulator.baseline, inner.simulator.target)
        return observation, finite("reward", reward, score), terminated, truncated, info


class ShapingReward(RewardWrapper, gymnasium.utils.RecordConstructorArgs):
    r"""Adds :math:`\gamma \Phi(s', t') - \Phi(s, t)` to the reward, for a potential that may change while the agent learns.

    The potential of a state is computed when it is entered and kept until it is left (Devlin and Kudenko, 2012). It is zero where
    an episode terminates, and stays where one is truncated; so the discounted sum over an episode that terminates is minus the
    potential of the original network, whatever the agent does. For a potential that does not change, write it into the reward:
    ``reward="accuracy + shaping(removed, 0.99)"``, which vector environments, previews and tables understand, too.

    Args:
        env: a pruning environment; other wrappers that change its reward may be inside.
        potential: a function (score, baseline) of Scores to a finite number, of the present network and the original one.
        gamma: the discount of the learner, in [0, 1].
        shift: a constant that is added to the potential of every state but a terminal one.

    Raises TypeError for an environment without a pruning environment inside, for a vector reward, and for a function that takes
    other arguments; ValueError for a discount out of range and, in a step, for a potential that is not finite.
    """

    def __init__(
        self,
        env: gymnasium.Env[np.ndarray, np.ndarray],
        potential: Callable[[Score, Score], float],
        gamma: float,
        shift: float = 0.0,
    ):
        gymnasium.utils.RecordConstructorArgs.__init__(self, potential=potential, gamma=gamma, shift=shift)
        gymnasium.Wrapper.__init__(self, env)
        check_number("gamma", gamma, "[0, 1]")
        check_number("shift", shift, "(-inf, inf)")
        check_takes("potential", potential, ("score", "baseline"))
        scalar_reward(env)
        self.potential, self.gamma, self.shift = potential, gamma, shift
        self._state: Any = None  # of which the potential is kept
        self._kept = 0.0

    def reset(self, **settings: Any) -> Any:
        found = self.env.reset(**settings)
        self._keep()
        return found

    def step(self, action: np.ndarray) -> Any:
        if self._state is not pruning_env(self.env).snapshot():  # someone went back to another state
            self._keep()
        before = self._kept
        observation, reward, terminated, truncated, info = self.env.step(action)
        self._keep()
        after = 0.0 if terminated else self._kept
        return observation, float(reward) + self.gamma * after - before, terminated, truncated, info

    def _keep(self) -> None:
        inner = pruning_env(self.env)
        self._state, score = inner.snapshot(), inner.score()
        self._kept = finite("potential", self.potential(score, inner.simulator.baseline), score) + self.shift


class SelfCompetition(RewardWrapper, gymnasium.utils.RecordConstructorArgs):
    """At the end of an episode 1 if its network is worth more by the yardstick than all that earlier episodes ended with, else
    -1; and 0 on the way. The first episode gets 1. What the environment itself rewards is not read.

    This is no function of a transition: the same network is worth 1 once and -1 ever after.

    Raises TypeError for an environment without a pruning environment inside.
    """

    def __init__(self, env: gymnasium.Env[np.ndarray, np.ndarray]):
        gymnasium.utils.RecordConstructorArgs.__init__(self)
        gymnasium.Wrapper.__init__(self, env)
        pruning_env(env)
        self.record = -np.inf

    def step(self, action: np.ndarray) -> Any:
        observation, _, terminated, truncated, info = self.env.step(action)
        reward = 0.0
        if terminated:
            worth = worth_of(pruning_env(self.env))
            reward = 1.0 if worth > self.record else -1.0
            self.record = max(self.record, worth)
        return observation, reward, terminated, truncated, info


def worth_of(env: PruningEnv) -> float:
    """What the present network is worth by the yardstick."""
    score = env.score()
    return finite("yardstick", env.yardstick(score, env.simulator.baseline), score)


def check_discount(env: gymnasium.Env, gamma: float) -> None:
    """Raise ValueError where the shaping in the reward of ``env``, or in its wrappers, discounts otherwise than the learner, by
    ``gamma``: such shaping changes what the best policy is."""
    found = []
    reward = pruning_env(env).reward
    if isinstance(reward, Formula):
        found = [(str(part), part.gamma) for part in reward.walk() if isinstance(part, Shaping)]
    while isinstance(env, gymnasium.Wrapper):
        if isinstance(env, ShapingReward | ImprovementReward):
            found.append((type(env).__name__, env.gamma))
        env = env.env
    for name, discount in found:
        if discount != gamma:
            raise ValueError(f"gamma: the learner discounts by {gamma:g}, and {name} by {discount:g}; give both the same.")
