"""The sampling tree that searches share: actions around a policy, scored by previews, with Q values that look ahead."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from prune_gym.agents.budgeted_env import BudgetedEnv
from prune_gym.envs.pruning import Preview


@dataclass(frozen=True, eq=False)
class Sample:
    """A sampled action as its search knows it, its Q value, and what it led to."""

    action: np.ndarray
    value: float
    preview: Preview


def q_values(rewards: np.ndarray, best_next: np.ndarray, discount: float) -> np.ndarray:
    """Q(s, a) = R(s') + discount * max over a' of Q(s', a'), equations 13 to 16 of RL-Pruner; ``best_next`` is 0 at the deepest
    level."""
    return rewards + discount * best_next


def sample_tree(
    env: BudgetedEnv,
    draw: Callable[[], np.ndarray],
    group_action: Callable[[np.ndarray], np.ndarray],
    samples: int,
    depth: int = 1,
    discount: float = 1.0,
    to_target: bool = False,
) -> list[Sample]:
    """Actions sampled in the present state, whose environment is left as it is.

    Args:
        env: where actions are previewed, for ``samples + samples^2 + ... + samples^depth`` evaluations.
        draw: gives an action of the search.
        group_action: gives the action of the environment that it stands for, (groups,).
        samples: how many actions are drawn in every state.
        depth: levels of the tree.
        discount: of the next level.
        to_target: score actions as networks at the target, see :meth:`prune_gym.envs.PruningEnv.preview`; for one level.
    """
    here = env.snapshot()
    actions = [draw() for _ in range(samples)]
    previews = env.preview(np.stack([group_action(action) for action in actions]), to_target)
    best_next = np.zeros(len(previews))
    if depth > 1:
        for i, preview in enumerate(previews):
            if not preview.terminated:
                env.restore(preview.snapshot)
                deeper = sample_tree(env, draw, group_action, samples, depth - 1, discount)
                best_next[i] = max(sample.value for sample in deeper)
        env.restore(here)
    values = q_values(np.array([preview.reward for preview in previews]), best_next, discount)
    return [Sample(*each) for each in zip(actions, values.tolist(), previews, strict=True)]
