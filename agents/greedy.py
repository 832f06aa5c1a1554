"""Greedy sensitivity: at every step one group loses units, the one that leaves the best network then."""

from __future__ import annotations

import numpy as np

from prune_gym.agents.budgeted_env import BudgetedEnv
from prune_gym.agents.search_agent import SearchAgent
from prune_gym.agents.work import Work


class GreedyAgent(SearchAgent):
    """Previews for each group the step that takes everything from this group, and takes the best by the yardstick, the first of
    equal ones. A step costs an evaluation per group, and its own.

    One episode is all it can do: another would be the same. Where the budget does not pay for all groups at every step, all of
    them are previewed at the first steps; then as many as it pays for, drawn at random; and the last steps prune all groups by
    the same fraction.
    """

    def expected_work(self, evaluations: int, steps: int) -> Work:
        return Work(min(evaluations, steps * (1 + len(self.group_filters))), steps, 1)

    def search(self, env: BudgetedEnv) -> None:
        env.reset()
        while not env.finished:
            env.step(self.choose_action(env))

    def choose_action(self, env: BudgetedEnv) -> np.ndarray:
        """The best of the actions that the budget pays for, (groups,)."""
        groups = len(env.graph.groups)
        if env.evaluations_left < 1:
            return env.uniform_action
        chosen = self.rng.choice(groups, min(groups, env.evaluations_left), replace=False)
        actions = np.eye(groups)[np.sort(chosen)]
        worth = [preview.yardstick for preview in env.preview(actions)]
        return actions[int(np.argmax(worth))]
