"""Agents: RL-Pruner, Stable-Baselines3's, and baselines. Installed as ``prune_gym.agents``."""

from prune_gym.agents.baselines import (
    GlobalRankingAgent,
    GlobalSurgeonAgent,
    GlobalTaylorAgent,
    RandomAgent,
    RandomConfig,
    UniformAgent,
)
from prune_gym.agents.budgeted_env import BudgetedEnv
from prune_gym.agents.cma_es import CMAESAgent, CMAESConfig
from prune_gym.agents.config import RunConfig
from prune_gym.agents.lookahead import Lookahead, LookaheadConfig
from prune_gym.agents.rl_pruner import RLPruner, RLPrunerConfig
from prune_gym.agents.run import run
from prune_gym.agents.search_agent import SearchAgent
from prune_gym.agents.uct import UCT, UCTConfig
from prune_gym.agents.vec_env import SB3VecEnv

__all__ = [
    "UCT",
    "BudgetedEnv",
    "CMAESAgent",
    "CMAESConfig",
    "GlobalRankingAgent",
    "GlobalSurgeonAgent",
    "GlobalTaylorAgent",
    "Lookahead",
    "LookaheadConfig",
    "RLPruner",
    "RLPrunerConfig",
    "RandomAgent",
    "RandomConfig",
    "RunConfig",
    "SB3VecEnv",
    "SearchAgent",
    "UCTConfig",
    "UniformAgent",
    "run",
]
