"""Gymnasium environments of network pruning, and their wrappers. Installed as ``prune_gym.envs``."""

from prune_gym.envs.blocks import BlocksEnv
from prune_gym.envs.pruning import Preview, PruningEnv
from prune_gym.envs.tabular import TabularEnv
from prune_gym.envs.wrappers import ImprovementReward, SoftmaxAction, SoftmaxVectorAction, reward_wrapper

__all__ = [
    "BlocksEnv",
    "ImprovementReward",
    "Preview",
    "PruningEnv",
    "SoftmaxAction",
    "SoftmaxVectorAction",
    "TabularEnv",
    "reward_wrapper",
]
