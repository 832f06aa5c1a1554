r"""Constraints, learned by Stable-Baselines3's agents: a multiplier that grows while episodes cost too much.

An agent should get as much reward as it can while the mean cost of an episode is at most a limit. It learns from
:math:`(r - \lambda c) / (1 + \lambda)`, where the multiplier :math:`\lambda \ge 0` belongs to the learner: inside the environment
the reward would not be a function of state and action. The environment says in ``info["cost"]`` what a step costs, as
Safety-Gymnasium's do, and those of this project with ``cost="1 - accuracy"`` or any other formula::

    env = SoftmaxAction(TabularEnv("digits", reward="params_reduction", cost="terminal * (1 - accuracy)"))
    PPO("MlpPolicy", env).learn(20_000, LagrangianCallback(limit=0.1))

Made for agents that learn from what they have just done (PPO, A2C, TRPO, recurrent PPO). A replay buffer keeps rewards with the
multiplier of the time when they were stored, so SAC, DQN and their like follow it with a delay. The step size and the initial
value are those of OmniSafe's ``Lagrange``, which takes steps of Adam, and the gains those of its ``PIDLagrangian``.

A callback that reads rewards, such as a recorder, comes before these in a list of callbacks.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import deque

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from prune_gym.arguments import check_integer, check_number


class MultiplierCallback(BaseCallback):
    """What both have in common: costs are summed over episodes, and after every rollout in which some ended, the multiplier is
    updated with their mean.

    Attributes:
        multiplier: what it is now.
        limit: what an episode may cost, on average.

    Raises TypeError for an algorithm that stores no steps, ValueError for rewards that VecNormalize changes or keeps apart, and
    in a step whose info has no cost.
    """

    def __init__(self, limit: float, initial: float):
        super().__init__()
        check_number("limit", limit, "(-inf, inf)")
        check_number("initial", initial, "[0, inf)")
        self.limit, self.multiplier = float(limit), float(initial)
        self._costs = np.zeros(0)  # of the episodes that are under way
        self._ended: list[float] = []

    @abstractmethod
    def updated(self, cost: float) -> float:
        """The multiplier after episodes of this mean cost."""

    def _on_training_start(self) -> None:
        if not isinstance(self.model, OnPolicyAlgorithm | OffPolicyAlgorithm):
            raise TypeError(f"model: expected an algorithm that learns from steps, got {type(self.model).__name__}.")
        if self.model.get_vec_normalize_env() is not None:
            raise ValueError(
                "env: expected rewards as the environment gives them, got VecNormalize; costs would not be in its unit."
            )
        if self.locals.get("reset_num_timesteps", True) or len(self._costs) != self.training_env.num_envs:
            self._costs, self._ended = np.zeros(self.training_env.num_envs), []

    def _on_step(self) -> bool:
        infos, rewards = self.locals["infos"], self.locals["rewards"]
        if any("cost" not in info for info in infos):
            raise ValueError("env: expected infos with a 'cost'; make the environment with cost=, a formula or a function.")
        costs = np.array([info["cost"] for info in infos], np.float64)
        rewards[:] = (rewards - self.multiplier * costs) / (1 + self.multiplier)  # before the algorithm stores them
        self._costs += costs
        for i in np.flatnonzero(self.locals["dones"]):
            self._ended.append(float(self._costs[i]))
            self._costs[i] = 0.0
        return True

    def _on_rollout_end(self) -> None:
        if not self._ended:
            return
        cost, self._ended = float(np.mean(self._ended)), []
        self.multiplier = self.updated(cost)
        self.logger.record("constraint/cost", cost)
        self.logger.record("constraint/multiplier", self.multiplier)


class LagrangianCallback(MultiplierCallback):
    r"""Gradient ascent: :math:`\lambda \leftarrow \max(0, \lambda + \eta (J_C - d))`, of the mean cost :math:`J_C` of an episode
    and the limit d.

    Args:
        limit: what an episode may cost, on average.
        learning_rate: eta, > 0.
        initial: the multiplier at first, >= 0.
    """

    def __init__(self, limit: float, learning_rate: float = 0.035, initial: float = 0.001):
        super().__init__(limit, initial)
        check_number("learning_rate", learning_rate, "(0, inf)")
        self.learning_rate = learning_rate

    def updated(self, cost: float) -> float:
        """One step of the ascent."""
        return max(0.0, self.multiplier + self.learning_rate * (cost - self.limit))


class PIDLagrangianCallback(MultiplierCallback):
    r"""A PID controller (Stooke, Achiam and Abbeel, 2020): :math:`\lambda = \max(0, k_p P + I + k_d D)`, where P is a moving mean
    of the excess :math:`J_C - d`, I its sum in steps of :math:`k_i`, never below zero, and D the rise of a moving mean of
    :math:`J_C` over the last ``delay`` updates, where it rises.

    Args:
        limit: what an episode may cost, on average.
        k_p, k_i, k_d: gains, >= 0.
        delay: updates over which the rise is taken, >= 1.
        smoothing: of both moving means, what remains of the old value, in [0, 1).
        initial: I at first, and the multiplier, >= 0.
    """

    def __init__(
        self,
        limit: float,
        k_p: float = 0.1,
        k_i: float = 0.01,
        k_d: float = 0.01,
        delay: int = 10,
        smoothing: float = 0.95,
        initial: float = 0.001,
    ):
        super().__init__(limit, initial)
        for name, gain in (("k_p", k_p), ("k_i", k_i), ("k_d", k_d)):
            check_number(name, gain, "[0, inf)")
        check_integer("delay", delay, 1)
        check_number("smoothing", smoothing, "[0, 1)")
        self.gains, self.smoothing = (k_p, k_i, k_d), smoothing
        self._excess = self._smooth_cost = 0.0
        self._sum = float(initial)
        self._earlier = deque([0.0], maxlen=delay)  # smooth costs

    def updated(self, cost: float) -> float:
        """What the controller answers; it remembers the cost."""
        (k_p, k_i, k_d), kept, excess = self.gains, self.smoothing, cost - self.limit
        self._sum = max(0.0, self._sum + k_i * excess)
        self._excess = kept * self._excess + (1 - kept) * excess
        self._smooth_cost = kept * self._smooth_cost + (1 - kept) * cost
        rise = max(0.0, self._smooth_cost - self._earlier[0])
        self._earlier.append(self._smooth_cost)
        return max(0.0, k_p * self._excess + self._sum + k_d * rise)
