from prune_gym.graph import Architecture, ChannelGraph, ChannelGroup, Cost
from prune_gym.surgery import compact, mask
from prune_gym.trace import UnknownOperatorError, trace
