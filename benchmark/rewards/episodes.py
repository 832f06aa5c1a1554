"""Random games on a table, and what rewards make of them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from prune_gym.simulation.block_world import BlockGame
from prune_gym.simulation.score_functions import of_rows
from prune_gym.simulation.terms import Formula, Transition
from prune_gym.simulation.yardsticks import Yardstick


@dataclass(frozen=True)
class Episodes:
    """Games of N players that take blocks at random, all moves with the same probability.

    Attributes:
        game: the game.
        states: the states that they come to, int64 (longest game + 1, N); a game that is over stays where it is.
    """

    game: BlockGame
    states: np.ndarray

    @cached_property
    def moved(self) -> np.ndarray:
        """In which steps which games still ran, bool (longest game, N)."""
        return ~self.game.over[self.states[:-1]]

    def transitions(self) -> Transition:
        """All their moves, a transition of arrays (moves,), game by game at the same time."""
        before, after = self.states[:-1][self.moved], self.states[1:][self.moved]
        world = self.game.world
        return Transition(world.scores_of(before), world.scores_of(after), world.baseline, self.game.goal, self.game.over[after])

    def rewards(self, reward: Formula) -> np.ndarray:
        """The reward of every step, float64 (longest game, N); 0 where a game is over. Raises ValueError or TypeError for one
        that is no finite number."""
        before, after, *others = self.transitions()
        given = np.zeros(self.moved.shape)
        given[self.moved] = of_rows("reward", reward, [before, after], *others)
        return given

    def returns(self, reward: Formula, gamma: float) -> np.ndarray:
        """The sum of the rewards of every game, discounted by ``gamma`` from step to step, float64 (N,)."""
        return gamma ** np.arange(len(self.moved)) @ self.rewards(reward)

    def worth(self, yardstick: Yardstick) -> np.ndarray:
        """What the last networks are worth by the yardstick, float64 (N,)."""
        world = self.game.world
        return of_rows("yardstick", yardstick, [world.scores_of(self.states[-1])], world.baseline)


def random_episodes(game: BlockGame, number: int, seed: int = 0) -> Episodes:
    """So many random games."""
    rng, world = np.random.default_rng(seed), game.world
    states = [np.full(number, world.start)]
    while not (over := game.over[states[-1]]).all():
        moves = rng.integers(len(world.table.groups), size=number)
        states.append(np.where(over, states[-1], world.following[states[-1], moves]))
    return Episodes(game, np.array(states))
