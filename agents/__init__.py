"""Agents: RL-Pruner, Stable-Baselines3's, and baselines. Installed as ``prune_gym.agents``."""

from prune_gym.agents.baselines import GlobalRankingAgent, GlobalSurgeonAgent, GlobalTaylorAgent, RandomAgent, UniformAgent
from prune_gym.agents.budgeted_env import BudgetedEnv
from prune_gym.agents.config import RunConfig
from prune_gym.agents.rl_pruner import RLPruner, RLPrunerConfig
from prune_gym.agents.run import run
from prune_gym.agents.search_agent import SearchAgent

__all__ = [
    "BudgetedEnv",
    "GlobalRankingAgent",
    "GlobalSurgeonAgent",
    "GlobalTaylorAgent",
    "RLPruner",
    "RLPrunerConfig",
    "RandomAgent",
    "RunConfig",
    "SearchAgent",
    "UniformAgent",
    "run",
]
