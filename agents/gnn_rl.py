"""GNN-RL: PPO whose policy is a graph network over the groups, so that one policy prunes any network.

Yu et al., *Topology-aware network pruning using multi-stage graph embedding and reinforcement learning*, ICML 2022; values that
the paper does not give are those of the code released with it. What differs here:

- The graph is the project's own: a node for every group, an edge between groups that meet in a layer. The source has a graph of
  primitive operations, which it pools stage by stage.
- Actions are read from the nodes, which the source reads from the pooled graph, one output for each layer of one network.
- Actions and values come from one network, where the source has two, and values have no tanh, as their targets may be beyond 1.
- The policy learns at the end of an episode, as soon as there are enough steps, which the source does in the middle of one.
- Now and then an episode that misses the target is scored after all, see :class:`GNNRL`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any

import gymnasium
import numpy as np
import torch
import torch.nn.functional as F
from stable_baselines3.common.type_aliases import GymEnv
from torch import Tensor, nn

from prune_gym.agents.budgeted_env import BudgetedEnv
from prune_gym.agents.configured_agent import ConfiguredAgent
from prune_gym.arguments import AtLeast, Within, check_settings
from prune_gym.envs.pruning import PruningEnv
from prune_gym.envs.wrappers import pruning_env
from prune_gym.graph.features import FEATURES, min_max
from prune_gym.simulation.space import nearest

Positive = Annotated[float, Within("(0, inf)")]

HIDDEN, ROUNDS = 64, 3
NODE_FEATURES = len(FEATURES) + 3  # and the share of the filters, what the group keeps, and how far the network is
MISSED = -100.0  # reward of an episode that does not come to the target, which is that of a network that is never right
MOST_MISSES = 20  # in a row; then one of them is scored, so that every search ends
HALVINGS = 30  # of an interval of ratios, whose width is then below 1e-9


@dataclass(frozen=True)
class GNNRLConfig:
    """Settings of GNN-RL."""

    steps: Annotated[int, AtLeast(1)] = 5
    """Most steps of an episode, in each of which all groups are cut."""
    low: Annotated[float, Within("(0, 1)")] = 0.1
    """Least fraction of its units that a group keeps; the released code has 0.9 for MobileNet."""
    sigma: Positive = 0.5
    """Standard deviation of actions around those of the policy; it stays the same."""
    update_steps: Annotated[int, AtLeast(2)] = 100
    """Steps after which the policy learns, at the end of an episode."""
    epochs: Annotated[int, AtLeast(1)] = 10
    """Gradient steps each time, all of them on all these steps."""
    learning_rate: Positive = 3e-4
    """Step size of Adam."""
    gamma: Annotated[float, Within("[0, 1]")] = 0.99
    """Discount."""
    clip: Annotated[float, Within("(0, 1)")] = 0.2
    """How far the probability of an action may move from its old one, relatively, before it no longer counts."""

    def __post_init__(self) -> None:
        check_settings(self)


# -------------------------------------------------------------------------------------------------------- the policy


class GraphPolicy(nn.Module):
    """Actions of all nodes of a graph, and its value, by rounds of messages: a node's new state comes from its own and the mean
    of its neighbours'. Nothing depends on how many nodes there are, or on their order."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(NODE_FEATURES, HIDDEN)
        self.own = nn.ModuleList(nn.Linear(HIDDEN, HIDDEN) for _ in range(ROUNDS))
        self.others = nn.ModuleList(nn.Linear(HIDDEN, HIDDEN, bias=False) for _ in range(ROUNDS))
        self.actor, self.critic = nn.Linear(HIDDEN, 1), nn.Linear(HIDDEN, 1)

    def forward(self, nodes: Tensor, links: Tensor) -> tuple[Tensor, Tensor]:
        """Means of actions (..., groups), in (-1, 1), and values (...).

        Args:
            nodes: features (..., groups, features).
            links: (groups, groups), in each row the weights of a node's neighbours, whose sum is 1, or 0 if it has none.
        """
        states = self.embed(nodes).relu()
        for own, others in zip(self.own, self.others, strict=True):
            states = (own(states) + others(links @ states)).relu()
        return self.actor(states).squeeze(-1).tanh(), self.critic(states.mean(-2)).squeeze(-1)


def new_policy(seed: int) -> GraphPolicy:
    """One with random weights, whatever state PyTorch's generator is in, which stays as it is."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return GraphPolicy()


# ---------------------------------------------------------------------------------------------------------- the game


class RatioGame:
    """A network as the policy sees and prunes it: every group keeps a ratio of its units, 1 at first, and all are cut at once.

    Attributes:
        links: see :meth:`GraphPolicy.forward`; float32.

    Args:
        env: says what widths there are, and what the target is. Nothing is scored.
        low: the least ratio.

    Raises ValueError if the target is out of reach.
    """

    def __init__(self, env: PruningEnv, low: float):
        simulator = env.simulator
        self.low, self._space, self._full = low, simulator.space, env.graph.widths
        self._target = simulator.schedule.target
        self._static = np.column_stack([min_max(simulator.group_features), env.uniform_action])
        linked = simulator.group_links
        degree = linked.sum(1, keepdims=True)
        self.links = torch.from_numpy((linked / np.maximum(degree, 1)).astype(np.float32))
        least = np.full(len(self._full), low)
        if not self.is_over(least):
            raise ValueError(
                f"low: expected a ratio with which the target, {self._target / self._space.total:.4f} of the {self._space.unit}, "
                f"is in reach; where all groups keep {low}, only {self._gone(least) / self._space.total:.4f} are gone."
            )

    def nodes(self, keep: np.ndarray) -> Tensor:
        """What the policy sees of ratios (groups,): of each group :data:`FEATURES`, from 0 to 1 over the groups, its share of the
        filters and its ratio; and what is gone, as a fraction of what is to go. Float32 (groups, features)."""
        progress = np.full(len(keep), self._gone(keep) / self._target)
        return torch.from_numpy(np.column_stack([self._static, keep, progress]).astype(np.float32))

    def cut(self, keep: np.ndarray, action: np.ndarray) -> np.ndarray:
        """The ratios after an action, (groups,): k (1 - a), in [low, 1]. So an action below 0 gives units back."""
        return np.clip(keep * (1 - action), self.low, 1)

    def widths(self, keep: np.ndarray) -> np.ndarray:
        """The nearest widths that groups may have, the larger of two, int64 (groups,)."""
        pairs = zip(self._space.allowed, keep * self._full, strict=True)
        return np.array([mine[nearest(mine, wanted)] for mine, wanted in pairs], np.int64)

    def is_over(self, keep: np.ndarray) -> bool:
        """Whether the network meets the target."""
        return self._gone(keep) >= self._target

    def scaled(self, keep: np.ndarray) -> np.ndarray:
        """These ratios if they meet the target, else all of them times the largest factor with which they do, in [low, 1]."""
        if self.is_over(keep):
            return keep
        below, above = self.low, 1.0  # with the former, every group keeps the least
        for _ in range(HALVINGS):
            factor = (below + above) / 2
            below, above = (factor, above) if self.is_over(np.maximum(keep * factor, self.low)) else (below, factor)
        return np.maximum(keep * below, self.low)

    def _gone(self, keep: np.ndarray) -> int:
        return int(self._space.removed(self.widths(keep)))


@dataclass(eq=False)
class Rollout:
    """Steps of whole episodes on one network, to learn from."""

    nodes: list[Tensor] = field(default_factory=list)
    actions: list[Tensor] = field(default_factory=list)
    returns: list[float] = field(default_factory=list)  # of those before the present episode

    def end(self, reward: float, gamma: float) -> None:
        """Note what the episode is worth: its last step the reward, each before it a discounted one."""
        steps = len(self.actions) - len(self.returns)
        self.returns += [reward * gamma**left for left in reversed(range(steps))]


# --------------------------------------------------------------------------------------------------------- the agent


class GNNRL(ConfiguredAgent[GNNRLConfig]):
    """GNN-RL with the Stable-Baselines3 API; a timestep is one evaluation.

    In an episode all groups are cut, again and again, until the target is met; only then the network is scored, for one
    evaluation. The reward is minus its error in percent. An episode that misses the target within ``steps`` costs nothing, and
    its reward is -100. Of 20 that follow each other, the last one goes on: its ratios are scaled until they meet the target, and
    the network is scored and can be the best one, though the policy still learns that it missed. So a search always ends.

    The policy does not know which network it prunes. ``set_env`` keeps it, also with another network, where it can learn on, or
    be used as it is::

        agent = GNNRL(PruningEnv("digits", macs_reduction=0.75)).learn(400)
        other = PruningEnv("digits-resnet", macs_reduction=0.75)
        other.reset()
        other.prune_to(agent.policy_widths(other)).score.accuracy  # for one evaluation
        agent.set_env(other)
        agent.learn(400)

    As for all search agents, ``load(path, env)`` is for the network that the agent pruned last; for others, ``load(path)`` and
    then ``set_env(env)``. Every ``learn`` begins with new moments of Adam. ``predict`` gives, in every state, the proportions in
    which filters are gone in the best network.

    Attributes:
        network: the policy, and the values of states.
    """

    config_type = GNNRLConfig
    at_once = True

    def __init__(
        self,
        env: GymEnv | str | None,
        config: GNNRLConfig | None = None,
        seed: int | None = None,
        tensorboard_log: str | None = None,
        verbose: int = 0,
    ):
        super().__init__(env, config, seed, tensorboard_log, verbose)
        self.network = new_policy(int(self.rng.integers(2**32)))

    def search(self, env: BudgetedEnv) -> None:
        config = self.config
        game = RatioGame(self.pruning_env, config.low)
        optimizer = torch.optim.Adam(self.network.parameters(), config.learning_rate)
        rollout, misses = Rollout(), 0
        while True:  # until the budget ends it
            keep = self.play(game, rollout)
            missed = not game.is_over(keep)
            misses += missed
            reward = MISSED
            if not missed or misses == MOST_MISSES:
                self.logger.record("gnn_rl/missed", misses)  # since the last network that was scored
                env.reset()
                accuracy = env.prune_to(game.widths(game.scaled(keep))).score.accuracy
                reward, misses = MISSED if missed else -100 * (1 - accuracy), 0
            rollout.end(reward, config.gamma)
            if len(rollout.actions) >= config.update_steps:
                self.update(rollout, game.links, optimizer)
                rollout = Rollout()

    def play(self, game: RatioGame, rollout: Rollout | None = None) -> np.ndarray:
        """The ratios at the end of an episode, float64 (groups,); actions are drawn around those of the policy and noted, or the
        policy's own without a rollout."""
        keep = np.ones(len(game.links))
        for _ in range(self.config.steps):
            nodes = game.nodes(keep)
            with torch.no_grad():
                action, _ = self.network(nodes, game.links)
            if rollout is not None:
                noise = self.rng.standard_normal(len(keep), np.float32)
                action = action + self.config.sigma * torch.from_numpy(noise)
                rollout.nodes.append(nodes)
                rollout.actions.append(action)
            keep = game.cut(keep, action.numpy().astype(np.float64))
            if game.is_over(keep):
                break
        return keep

    def update(self, rollout: Rollout, links: Tensor, optimizer: torch.optim.Optimizer) -> None:
        """Improve the policy by PPO's clipped objective. The advantage is the return, which is normalised over the rollout, less
        the value; as the deviation is fixed, there is no entropy to reward."""
        nodes, actions, returns = torch.stack(rollout.nodes), torch.stack(rollout.actions), torch.tensor(rollout.returns)
        returns = (returns - returns.mean()) / (returns.std() + 1e-5)
        with torch.no_grad():  # nothing was learnt since the rollout began
            before = self._log_probabilities(self.network(nodes, links)[0], actions)
        for _ in range(self.config.epochs):
            means, values = self.network(nodes, links)
            ratios = (self._log_probabilities(means, actions) - before).exp()
            advantages = returns - values.detach()
            clipped = ratios.clamp(1 - self.config.clip, 1 + self.config.clip)
            gain = torch.minimum(ratios * advantages, clipped * advantages).mean()
            optimizer.zero_grad()
            (0.5 * F.mse_loss(values, returns) - gain).backward()
            optimizer.step()

    def _log_probabilities(self, means: Tensor, actions: Tensor) -> Tensor:
        """Of actions (N, groups) by normal distributions, up to a constant; (N,)."""
        return -((actions - means) ** 2).sum(-1) / (2 * self.config.sigma**2)

    def policy_widths(self, env: gymnasium.Env) -> np.ndarray:
        """The widths to which the policy prunes the network of an environment, any one, without noise and without an evaluation;
        int64 (groups,). Where it misses the target its ratios are scaled.

        Raises TypeError for anything but a :class:`PruningEnv`, in wrappers or not, ValueError if the target is out of reach.
        """
        game = RatioGame(pruning_env(env), self.config.low)
        return game.widths(game.scaled(self.play(game)))

    def get_data(self) -> dict[str, Any]:
        weights = np.concatenate([values.numpy().ravel() for values in self.network.state_dict().values()])
        return super().get_data() | {"policy": weights.astype("<f4").tobytes().hex()}

    def set_data(self, data: dict[str, Any]) -> None:
        super().set_data(data)
        weights = np.frombuffer(bytes.fromhex(data["policy"]), "<f4")
        state = self.network.state_dict()
        if len(weights) != sum(values.numel() for values in state.values()) or not np.isfinite(weights).all():
            raise ValueError("its policy is not one of this agent")
        parts = torch.from_numpy(weights.astype(np.float32)).split([values.numel() for values in state.values()])
        self.network.load_state_dict(
            {name: part.view_as(values) for (name, values), part in zip(state.items(), parts, strict=True)}
        )
