"""prune_gym: prune convolutional networks with reinforcement learning.

The pruning core (``trace``, ``compact``, ``mask``, ``importance``, ``allocate``, ``save_pruned``) knows no RL;
``prune_gym.envs`` makes it into Gymnasium environments and ``prune_gym.agents`` holds the agents. Importing this package
registers the environments ``PruneGym/...``.
"""

from prune_gym.graph.channel_graph import Architecture, ChannelGraph, ChannelGroup
from prune_gym.graph.cost import Cost
from prune_gym.graph.trace import UnknownOperatorError, trace
from prune_gym.registration import register
from prune_gym.scoring.importance import importance
from prune_gym.simulation.allocation import allocate
from prune_gym.surgery.compact import compact
from prune_gym.surgery.mask import mask
from prune_gym.surgery.narrowing import FormError
from prune_gym.surgery.pruned_file import PrunedFileError, load_pruned, save_pruned
from prune_gym.surgery.pruned_network import PrunedNetwork

__all__ = [
    "Architecture",
    "ChannelGraph",
    "ChannelGroup",
    "Cost",
    "FormError",
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
