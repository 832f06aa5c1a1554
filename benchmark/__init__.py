"""Compares agents, repeats the experiments of the paper, and measures speed. Installed as ``prune_gym.benchmark``."""
