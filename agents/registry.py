"""The agents by name, each made from the settings of a run."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import gymnasium
from stable_baselines3.common.base_class import BaseAlgorithm

from prune_gym.agents.baselines import GlobalTaylorAgent, RandomAgent, UniformAgent
from prune_gym.agents.rl_pruner import RLPruner
from prune_gym.agents.sb3 import make_sb3

if TYPE_CHECKING:
    from prune_gym.agents.config import RunConfig

AgentMaker = Callable[["RunConfig", gymnasium.Env], BaseAlgorithm]

AGENTS: dict[str, AgentMaker] = {
    "rl_pruner": lambda config, env: RLPruner(env, config.rl_pruner, seed=config.seed),
    "ppo": lambda config, env: make_sb3("ppo", env, config.ppo, config.seed),
    "a2c": lambda config, env: make_sb3("a2c", env, config.a2c, config.seed),
    "sac": lambda config, env: make_sb3("sac", env, config.off_policy, config.seed),
    "td3": lambda config, env: make_sb3("td3", env, config.off_policy, config.seed),
    "ddpg": lambda config, env: make_sb3("ddpg", env, config.off_policy, config.seed),
    "taylor": lambda config, env: GlobalTaylorAgent(env, seed=config.seed),
    "uniform": lambda config, env: UniformAgent(env, seed=config.seed),
    "random": lambda config, env: RandomAgent(env, seed=config.seed),
}


def make_agent(config: RunConfig, env: gymnasium.Env) -> BaseAlgorithm:
    """The agent that ``config`` names, on ``env``, a pruning environment."""
    return AGENTS[config.agent](config, env)
