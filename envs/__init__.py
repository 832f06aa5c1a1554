"""Gymnasium environments of network pruning, and their wrappers. Installed as ``prune_gym.envs``."""

from prune_gym.envs.blocks import BlocksEnv
from prune_gym.envs.layerwise import LayerwiseEnv
from prune_gym.envs.pruning import Preview, PruningEnv
from prune_gym.envs.purl import PuRLEnv
from prune_gym.envs.rewards import ImprovementReward, SelfCompetition, ShapingReward
from prune_gym.envs.tabular import TabularEnv
from prune_gym.envs.wrappers import GroupAction, SoftmaxAction, SoftmaxVectorAction, reward_wrapper

__all__ = [
    "BlocksEnv",
    "GroupAction",
    "ImprovementReward",
    "LayerwiseEnv",
    "Preview",
    "PruningEnv",
    "PuRLEnv",
    "SelfCompetition",
    "ShapingReward",
    "SoftmaxAction",
    "SoftmaxVectorAction",
    "TabularEnv",
    "reward_wrapper",
]
