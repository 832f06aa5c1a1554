"""UCT over groups: a tree of which group loses the next step's budget, searched by upper confidence bounds.

Kocsis and Szepesvári, *Bandit based Monte-Carlo planning*, 2006. Nothing is random in an episode, and only its end counts here,
so values are those of networks at the target: what is left of an episode is completed at once by uniform pruning.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import log, sqrt
from typing import Annotated, Any

import numpy as np
from stable_baselines3.common.type_aliases import GymEnv

from prune_gym.agents.budgeted_env import BudgetedEnv
from prune_gym.agents.configured_agent import ConfiguredAgent
from prune_gym.arguments import Within, check_settings
from prune_gym.simulation.terms import Formula


@dataclass(frozen=True)
class UCTConfig:
    """Settings of UCT."""

    exploration: Annotated[float, Within("[0, inf)")] = 0.1
    """Weight of the bound's width, in the unit of the reward."""

    def __post_init__(self) -> None:
        check_settings(self)


@dataclass(eq=False)
class Node:
    """A state of the tree, and what is known of the episodes through it."""

    snapshot: Any
    untried: list[int]  # groups, the next one last; none at the target
    children: dict[int, Node] = field(default_factory=dict)
    visits: int = 0
    total: float = 0.0
    best: float = -np.inf
    exhausted: bool = False  # nothing below it is left to try

    @property
    def open(self) -> list[Node]:
        """The children below which something was not tried yet."""
        return [child for child in self.children.values() if not child.exhausted]


class UCT(ConfiguredAgent[UCTConfig]):
    """UCT with the Stable-Baselines3 API; a timestep is one evaluation. Every pruning step gets the same share of them, then the
    group that led to the best network takes the step, and its part of the tree is kept."""

    config_type = UCTConfig
    reads_reward = True

    def set_env(self, env: GymEnv | str, force_reset: bool = True) -> None:
        """Like :meth:`SearchAgent.set_env`. Raises ValueError for a reward that reads what was before a step: that of the last
        one says nothing of the steps on the way."""
        super().set_env(env, force_reset)
        reward = self.pruning_env.reward
        if isinstance(reward, Formula) and reward.reads_before:
            raise ValueError(
                f"reward: UCT values a network at the target by the reward of it alone, and {reward} reads another one."
            )

    def search(self, env: BudgetedEnv) -> None:
        for _ in env.episodes():
            root = self.node(env, env.snapshot())
            while not env.finished:
                rest = env.evaluations_left - env.evaluations_left // env.steps_left
                while env.evaluations_left >= rest + 2 and not root.exhausted:
                    self.iterate(env, root)
                env.restore(root.snapshot)
                group = max(root.children, key=lambda child: root.children[child].best, default=None)
                env.step(env.uniform_action if group is None else self.one_group(env, group))  # None: too little for a tree
                now, child = env.snapshot(), None if group is None else root.children[group]
                root = child if child is not None and child.snapshot.key == now.key else self.node(env, now)  # it may be trained

    def node(self, env: BudgetedEnv, snapshot: Any) -> Node:
        return Node(snapshot, self.rng.permutation(len(env.graph.groups)).tolist())

    def one_group(self, env: BudgetedEnv, group: int) -> np.ndarray:
        """The action that takes everything from one group."""
        return np.eye(len(env.graph.groups))[group]

    def iterate(self, env: BudgetedEnv, root: Node) -> None:
        """Walk down to a state that was not tried, look at a network at the target from there, and tell all states on the way. It
        costs two evaluations, or one where the new state is at the target."""
        path = [root]
        while not path[-1].untried:
            path.append(self.select(path[-1]))
        last = path[-1]
        env.restore(last.snapshot)
        group = last.untried.pop()
        (preview,) = env.preview(self.one_group(env, group)[None])
        last.children[group] = child = self.node(env, preview.snapshot)
        value = preview.reward
        if preview.terminated:
            child.untried, child.exhausted = [], True
        else:
            env.restore(child.snapshot)
            value = env.preview(env.uniform_action[None], to_target=True)[0].reward
        for node in [child, *reversed(path)]:
            node.visits += 1
            node.total += value
            node.best = max(node.best, value)
            node.exhausted |= not node.untried and not node.open

    def select(self, node: Node) -> Node:
        """The open child with the highest upper confidence bound of its mean, the first of equal ones."""
        return max(
            node.open,
            key=lambda child: child.total / child.visits + self.config.exploration * sqrt(log(node.visits) / child.visits),
        )
