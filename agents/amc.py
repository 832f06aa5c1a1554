"""AMC: DDPG that goes through a network layer by layer, and CACP, the same for many targets.

He et al., *AMC: AutoML for model compression and acceleration on mobile devices*, ECCV 2018; values that the paper does not give
are those of the code released with it. CACP: Liu et al., *Conditional automated channel pruning for deep neural networks*, 2021.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

import gymnasium
import numpy as np
import torch
import torch.nn.functional as F
from stable_baselines3 import DDPG
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.type_aliases import GymEnv
from stable_baselines3.common.utils import polyak_update

from prune_gym.arguments import AtLeast, Within, check_settings
from prune_gym.envs.layerwise import LayerwiseEnv
from prune_gym.envs.wrappers import pruning_env, reward_wrapper

Positive = Annotated[float, Within("(0, inf)")]

HIDDEN = [300, 300]
REPLAY_EPISODES = 100
LEAST_DEVIATION = 1e-6  # of the exploration, after thousands of episodes


@dataclass(frozen=True)
class AMCConfig:
    """Settings of AMC."""

    warmup_episodes: Annotated[int, AtLeast(1)] | None = None
    """Episodes of uniformly random ratios, before learning; by default 100, or an eighth of the evaluations if that is less."""
    noise: Positive = 0.5
    """Standard deviation of the ratios around those of the policy in the first episode after these."""
    noise_decay: Annotated[float, Within("(0, 1]")] = 0.95
    """What it is multiplied by after every episode."""
    actor_learning_rate: Positive = 1e-4
    """Step size of the policy."""
    critic_learning_rate: Positive = 1e-3
    """Step size of the critic."""
    batch_size: Annotated[int, AtLeast(2)] = 64
    """Transitions per gradient step."""
    tau: Annotated[float, Within("(0, 1]")] = 0.01
    """Speed of the target networks."""
    baseline_rate: Annotated[float, Within("(0, 1]")] = 0.5
    """Weight of the present batch in the moving mean of rewards, which is subtracted from them."""

    def __post_init__(self) -> None:
        check_settings(self)


@dataclass(frozen=True)
class CACPConfig(AMCConfig):
    """Settings of CACP."""

    spread: Annotated[float, Within("(0, 1)")] = 0.1
    """Half of the episodes have the target of the run; those of the others lie so far below and above it, as fractions of the
    original network, or as far as there are networks."""


class AMC(DDPG):
    """The agent of AMC, for a :class:`prune_gym.envs.LayerwiseEnv`. It differs from SB3's DDPG in four ways:

    - Every transition of an episode is stored with the reward of its final network.
    - A moving mean of the rewards in the batches is subtracted from them. Nothing is discounted.
    - Exploration is a normal distribution around the policy's ratio, cut off at 0 and 1, whose deviation falls with every episode
      after those of warm-up.
    - It learns at the end of an episode, one batch for each of its steps, and the actor more slowly than the critic.

    Args:
        policy: SB3's, ``"MlpPolicy"``.
        env: a layerwise environment.
        config: the settings.
        options: of SB3's DDPG, ``seed`` for example.
    """

    at_once: ClassVar[bool] = True  # only the last step of an episode scores a network

    def __init__(self, policy: Any, env: GymEnv | None, config: AMCConfig | None = None, **options: Any):
        self.config = config = config or AMCConfig()
        self.warmup_episodes = 100 if config.warmup_episodes is None else config.warmup_episodes
        self.baseline: float | None = None
        self.groups = 1
        settings = {
            "learning_rate": config.critic_learning_rate,
            "batch_size": config.batch_size,
            "tau": config.tau,
            "gamma": 1.0,
            "train_freq": (1, "episode"),
            "gradient_steps": -1,  # as many as the episode had steps
            "policy_kwargs": {"net_arch": HIDDEN},
            "device": "cpu",
        }
        super().__init__(policy, env, **settings | options)  # type: ignore[arg-type]

    def _setup_model(self) -> None:
        if self.env is not None:  # as for one that is loaded, which knows its groups
            layerwise = self.env.get_attr("unwrapped")[0]
            if not isinstance(layerwise, LayerwiseEnv) or self.n_envs != 1:
                raise TypeError(f"env: expected one LayerwiseEnv, got {self.n_envs} of {type(layerwise).__name__}.")
            self.groups = len(layerwise.pruning.graph.groups)
        self.buffer_size = REPLAY_EPISODES * self.groups
        self.learning_starts = self.warmup_episodes * self.groups
        self.rng = np.random.default_rng(self.seed)
        super()._setup_model()
        for parameters in self.actor.optimizer.param_groups:
            parameters["lr"] = self.config.actor_learning_rate

    @property
    def steps_per_evaluation(self) -> int:
        """Timesteps until a network is scored."""
        return self.groups

    def _sample_action(self, learning_starts: int, action_noise: Any = None, n_envs: int = 1) -> tuple[np.ndarray, np.ndarray]:
        """A ratio, and the same in [-1, 1], as the networks have it."""
        if self._episode_num < self.warmup_episodes:
            ratio = self.rng.random((1, 1), np.float32)
        else:
            assert self._last_obs is not None
            mean, _ = self.predict(self._last_obs, deterministic=True)
            ratio = self.explore(mean)
        return ratio, self.policy.scale_action(ratio)

    def explore(self, mean: np.ndarray) -> np.ndarray:
        """Ratios around those of the policy, float32, in [0, 1]."""
        from scipy.stats import truncnorm  # which takes long to import

        mean, deviation = mean.astype(np.float64), max(self.deviation, LEAST_DEVIATION)
        low, high = -mean / deviation, (1 - mean) / deviation
        ratio = truncnorm.rvs(low, high, mean, deviation, mean.shape, random_state=self.rng)
        return np.clip(ratio, 0, 1).astype(np.float32)

    @property
    def deviation(self) -> float:
        """Standard deviation of the exploration in the present episode."""
        return self.config.noise * self.config.noise_decay ** max(0, self._episode_num - self.warmup_episodes)

    def _store_transition(
        self, replay_buffer: ReplayBuffer, buffer_action: Any, new_obs: Any, reward: Any, dones: Any, infos: Any
    ) -> None:
        super()._store_transition(replay_buffer, buffer_action, new_obs, reward, dones, infos)
        if dones[0]:
            episode = (replay_buffer.pos - 1 - np.arange(self.groups)) % replay_buffer.buffer_size
            replay_buffer.rewards[episode] = reward

    def train(self, gradient_steps: int, batch_size: int = 64) -> None:
        self.policy.set_training_mode(True)
        assert self.replay_buffer is not None
        for _ in range(gradient_steps):
            self._n_updates += 1
            data = self.replay_buffer.sample(batch_size)
            mean = data.rewards.mean().item()
            rate = 1.0 if self.baseline is None else self.config.baseline_rate
            self.baseline = rate * mean + (1 - rate) * (self.baseline or 0.0)
            with torch.no_grad():
                (following,) = self.critic_target(data.next_observations, self.actor_target(data.next_observations))
                target = data.rewards - self.baseline + self.gamma * (1 - data.dones) * following
            (value,) = self.critic(data.observations, data.actions)
            _descend(self.critic.optimizer, F.mse_loss(value, target))
            _descend(self.actor.optimizer, -self.critic.q1_forward(data.observations, self.actor(data.observations)).mean())
            polyak_update(self.critic.parameters(), self.critic_target.parameters(), self.tau)
            polyak_update(self.actor.parameters(), self.actor_target.parameters(), self.tau)


def _descend(optimizer: torch.optim.Optimizer, loss: torch.Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def make_amc(env: gymnasium.Env, config: AMCConfig, evaluations: int, seed: int | None = None) -> AMC:
    """AMC on the networks of a :class:`prune_gym.envs.PruningEnv`, or CACP with settings of it, for so many evaluations.

    Raises TypeError for another environment, ValueError if it would learn nothing within them, and for a wrapper that changes
    rewards. Shaping adds the same to all its episodes, whose one reward is that of a single step.
    """
    inner = pruning_env(env)
    if (wrapper := reward_wrapper(env)) is not None:
        raise ValueError(f"env: AMC plays a game of its own on the networks, and would not see {type(wrapper).__name__}.")
    targets = None
    if isinstance(config, CACPConfig):
        space = inner.simulator.space
        share = inner.simulator.schedule.target / space.total
        targets = (max(share - config.spread, 1 / space.total), min(share + config.spread, space.largest / space.total))
    first = max(1, min(100, evaluations // 8)) if config.warmup_episodes is None else config.warmup_episodes
    if first + 1 >= evaluations:  # it learns after the episode that follows, and not after the last
        raise ValueError(
            f"warmup_episodes: AMC would learn for the first time after {first + 1} episodes, and the search ends after "
            f"{evaluations}; choose fewer of them, or more evaluations."
        )
    if config.warmup_episodes is None and first < 100:
        warnings.warn(
            f"warmup_episodes: AMC learns for the first time after {first + 1} episodes instead of 101, as there are only "
            f"{evaluations} evaluations.",
            stacklevel=2,
        )
    return AMC("MlpPolicy", LayerwiseEnv(inner, targets), replace(config, warmup_episodes=first), seed=seed)
