"""Baselines that any search must beat: the same fraction everywhere, and chance."""

from __future__ import annotations

import numpy as np

from prune_gym.agents.base import SearchAgent


class UniformAgent(SearchAgent):
    """Prunes every group by the same fraction at every step. One episode is all it can do, whatever its budget."""

    once = True

    def episode(self) -> None:
        while not self.finished:
            self.act(self.default_action())

    def default_action(self) -> np.ndarray:
        return self.pruning_env.uniform_action


class RandomAgent(SearchAgent):
    """Draws every action uniformly from the action space, episode after episode, and keeps the best network found."""

    def episode(self) -> None:
        while not self.finished:
            self.act(self.rng.uniform(size=self.action_space.shape))

    def default_action(self) -> np.ndarray:
        """Another draw, from a generator of its own, so that asking changes no search."""
        return np.random.default_rng(self.num_timesteps).uniform(size=self.action_space.shape)
