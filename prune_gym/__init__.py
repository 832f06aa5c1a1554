"""prune_gym: prune convolutional networks with reinforcement learning.

The pruning core (``trace``, ``compact``, ``mask``, ``importance``, ``allocate``, ``save_pruned``) knows no RL;
``prune_gym.envs`` makes it into Gymnasium environments and ``prune_gym.agents`` holds the agents. Importing this package
registers the environments ``PruneGym/...``.
"""

from prune_gym.allocation import allocate
from prune_gym.checkpoint import PrunedFileError, load_pruned, save_pruned
from prune_gym.graph import Architecture, ChannelGraph, ChannelGroup, Cost
from prune_gym.importance import importance
from prune_gym.program import PrunedNetwork
from prune_gym.registration import register
from prune_gym.surgery import compact, mask
from prune_gym.trace import UnknownOperatorError, trace

__all__ = [
    "Architecture",
    "ChannelGraph",
    "ChannelGroup",
    "Cost",
    "PrunedFileError",
    "PrunedNetwork",
    "UnknownOperatorError",
    "allocate",
    "compact",
    "importance",
    "load_pruned",
    "mask",
    "save_pruned",
    "trace",
]

register()
