"""PuRL's agent: DQN on :class:`prune_gym.envs.PuRLEnv`, for about 55 episodes (recalled from the paper, not verified)."""

from __future__ import annotations

import gymnasium
from stable_baselines3 import DQN

from prune_gym.envs.purl import PuRLEnv

EPISODES = 55


def make_purl(env: gymnasium.Env, seed: int | None = None, episodes: int = EPISODES) -> DQN:
    """A DQN for so many episodes of ``env``, a :class:`PuRLEnv` in wrappers or not; learn with
    ``agent.learn(episodes * len(env.unwrapped.layers))``. It takes random actions in the first fifth of them, and fewer and
    fewer until the half; all else is as in Stable-Baselines3, but for short episodes. Raises TypeError for another environment.
    """
    inner = env.unwrapped
    if not isinstance(inner, PuRLEnv):
        raise TypeError(f"env: expected a PuRLEnv, got {type(inner).__name__}.")
    layers = len(inner.layers)
    steps = episodes * layers
    return DQN(
        "MlpPolicy",
        env,
        learning_rate=1e-3,
        learning_starts=steps // 5,
        exploration_fraction=0.5,
        train_freq=1,
        target_update_interval=10 * layers,
        buffer_size=steps,
        batch_size=64,
        gamma=0.99,
        seed=seed,
        device="cpu",
    )
