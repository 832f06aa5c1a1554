"""Pruning step by step: the budget and its allocation, versions of the weights, rewards, and the simulator that composes them."""
