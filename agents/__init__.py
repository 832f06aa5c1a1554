"""Agents: RL-Pruner and others of the literature, Stable-Baselines3's, and baselines. Installed as ``prune_gym.agents``."""

from prune_gym.agents.amc import AMC, AMCConfig, CACPConfig, make_amc
from prune_gym.agents.baselines import (
    GlobalLampAgent,
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
from prune_gym.agents.eagle_eye import EagleEyeAgent, EagleEyeConfig
from prune_gym.agents.gnn_rl import GNNRL, GNNRLConfig
from prune_gym.agents.greedy import GreedyAgent
from prune_gym.agents.lagrange import LagrangianCallback, PIDLagrangianCallback
from prune_gym.agents.lookahead import Lookahead, LookaheadConfig
from prune_gym.agents.purl import make_purl
from prune_gym.agents.registry import register_agent
from prune_gym.agents.rl_pruner import RLPruner, RLPrunerConfig
from prune_gym.agents.run import run
from prune_gym.agents.search_agent import SearchAgent
from prune_gym.agents.tpe import TPEAgent, TPEConfig
from prune_gym.agents.uct import UCT, UCTConfig
from prune_gym.agents.vec_env import SB3VecEnv

__all__ = [
    "AMC",
    "GNNRL",
    "UCT",
    "AMCConfig",
    "BudgetedEnv",
    "CACPConfig",
    "CMAESAgent",
    "CMAESConfig",
    "EagleEyeAgent",
    "EagleEyeConfig",
    "GNNRLConfig",
    "GlobalLampAgent",
    "GlobalRankingAgent",
    "GlobalSurgeonAgent",
    "GlobalTaylorAgent",
    "GreedyAgent",
    "LagrangianCallback",
    "Lookahead",
    "LookaheadConfig",
    "PIDLagrangianCallback",
    "RLPruner",
    "RLPrunerConfig",
    "RandomAgent",
    "RandomConfig",
    "RunConfig",
    "SB3VecEnv",
    "SearchAgent",
    "TPEAgent",
    "TPEConfig",
    "UCTConfig",
    "UniformAgent",
    "make_amc",
    "make_purl",
    "register_agent",
    "run",
]
