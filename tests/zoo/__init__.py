"""Odd networks, small enough that what belongs together in them can be written down by hand, and ways to look at the outcome."""

from zoo import attention, joins, norms, published, splits, various, writing
from zoo.looking import (
    built,
    chain,
    images,
    inputs,
    macs,
    parameters,
    prepare,
    random_architecture,
    relative_error,
    tensors_in,
)
from zoo.parts import Net, conv, mean, parameter
from zoo.random_networks import KINDS, Block, random_network
from zoo.registry import NETWORKS, Entry, groups_of, network

__all__ = [
    "KINDS", "NETWORKS", "Block", "Entry", "Net", "attention", "built", "chain", "conv", "groups_of", "images", "inputs", "joins",
    "macs", "mean", "network", "norms", "parameter", "parameters", "prepare", "published", "random_architecture",
    "random_network", "relative_error", "splits", "tensors_in", "various", "writing",
]  # fmt: skip
