"""RL-Pruner (Wang and Kindratenko, 2024), equation by equation.

The numbers in brackets are the paper's equations. A policy is a distribution over prunable layers; layers that are pruned
together form a *set* and hold equal entries. The environment's action is per set: the sum of the entries of its layers.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import cos, pi
from typing import Any, Literal, get_args

import numpy as np
from stable_baselines3.common.type_aliases import GymEnv

from prune_gym.agents.base import SearchAgent
from prune_gym.arguments import check_choice, check_integer, check_number, unwrap_numpy_scalars
from prune_gym.simulation.simulator import PruningState

EpsilonDecay = Literal["constant", "linear", "cosine"]
Update = Literal["always", "on_improvement"]
PruneWith = Literal["policy", "sample"]


@dataclass(frozen=True)
class RLPrunerConfig:
    """Settings of RL-Pruner; the defaults are the paper's."""

    noise_std: float = 0.2
    """Standard deviation of the Gaussian noise on the policy (eq 11); the paper's variance is 0.04."""
    noise_times_uniform: bool = False
    """Scale each sample's noise by one uniform draw, as the released code does."""
    step_size: float = 0.1
    """Lambda, how far the policy moves towards the chosen action (eq 19)."""
    discount: float = 0.9
    """Discount of the tree's next level (eqs 13-16)."""
    sample_steps: int = 1
    """Tau, the depth of the sampling tree; a stage costs samples + samples^2 + ... + samples^tau evaluations."""
    samples: int = 10
    """N, samples per stage, and slots of the replay buffer."""
    stages: int = 10
    """Sampling stages before every pruning step."""
    clip: float = 0.2
    """Delta, the largest relative change of an entry of the policy in one update (eq 20)."""
    epsilon: float = 0.4
    """Initial probability of a random choice from the buffer (eq 18)."""
    epsilon_decay: EpsilonDecay = "cosine"
    """How epsilon falls to 0 over the first steps; "constant" stays."""
    epsilon_fraction: float = 0.1
    """Part of the pruning steps over which epsilon falls to 0."""
    min_probability: float = 1e-5
    """Floor of an entry before normalisation."""
    update: Update = "always"
    """Update the policy after every stage, or only after one that beats all before it in this pruning step."""
    prune_with: PruneWith = "policy"
    """The action of the pruning step: the policy itself, or a sampled action, by the epsilon-greedy rule of eq 18."""
    reset_on_drop: float | None = None
    """Start a pruning step anew, once, with the initial policy if it would lose more than this fraction of the accuracy."""

    def __post_init__(self) -> None:
        unwrap_numpy_scalars(self)
        for name, least in {"sample_steps": 1, "samples": 1, "stages": 0}.items():
            check_integer(name, getattr(self, name), least)
        intervals = {
            "noise_std": "[0, inf)",
            "step_size": "(0, 1]",
            "discount": "[0, 1]",
            "clip": "(0, 1)",
            "epsilon": "[0, 1]",
            "epsilon_fraction": "(0, 1]",
            "min_probability": "(0, 1)",
        }
        for name, interval in intervals.items():
            check_number(name, getattr(self, name), interval)
        if self.reset_on_drop is not None:
            check_number("reset_on_drop", self.reset_on_drop, "(0, 1)")
        for name, choices in {"epsilon_decay": EpsilonDecay, "update": Update, "prune_with": PruneWith}.items():
            check_choice(name, getattr(self, name), get_args(choices))

    @property
    def stage_cost(self) -> int:
        """Evaluations of one sampling stage, at most: the nodes of a tree of depth tau."""
        return sum(self.samples**depth for depth in range(1, self.sample_steps + 1))

    def evaluations(self, steps: int) -> int:
        """What one episode of so many pruning steps takes, at most."""
        return steps * (self.stages * self.stage_cost + 1)

    @classmethod
    def paper(cls) -> RLPrunerConfig:
        """The method as the paper describes it."""
        return cls()

    @classmethod
    def released_code(cls) -> RLPrunerConfig:
        """The method as the authors' code runs it; the differences are listed in docs/rl_pruner.md."""
        return cls(
            noise_std=0.04,
            noise_times_uniform=True,
            clip=0.25,
            update="on_improvement",
            prune_with="sample",
            reset_on_drop=0.1,
        )


# ----------------------------------------------------------------------------------------- the method's equations


def normalise(values: np.ndarray) -> np.ndarray:
    return values / values.sum()


def share_within_sets(values: np.ndarray, sets: np.ndarray) -> np.ndarray:
    """Give the layers of one set the mean of their entries; ``sets`` numbers the set of every layer."""
    return (np.bincount(sets, values) / np.bincount(sets))[sets]


def initial_policy(channels: np.ndarray, sets: np.ndarray) -> np.ndarray:
    """PD_0: proportional to the output channels of the layers."""
    return normalise(share_within_sets(channels.astype(np.float64), sets))


def noisy_action(policy: np.ndarray, noise: np.ndarray, sets: np.ndarray, floor: float) -> np.ndarray:
    """(11, 12) a = normalise(max(PD + noise, p_min)), shared within sets."""
    return share_within_sets(normalise(np.maximum(policy + noise, floor)), sets)


def q_values(rewards: np.ndarray, best_next: np.ndarray, discount: float) -> np.ndarray:
    """(13-16) Q(s, a) = R(s') + discount * max over a' of Q(s', a'); ``best_next`` is 0 at the deepest level."""
    return rewards + discount * best_next


class ReplayBuffer:
    """The N best (action, Q) of a pruning step: a new one replaces the lowest Q, and is discarded if it is lower still."""

    def __init__(self, slots: int):
        self.slots = slots
        self.actions: list[np.ndarray] = []
        self.values: list[float] = []

    def __len__(self) -> int:
        return len(self.values)

    def add(self, action: np.ndarray, value: float) -> None:
        if len(self) < self.slots:
            self.actions.append(action)
            self.values.append(value)
            return
        lowest = int(np.argmin(self.values))
        if value >= self.values[lowest]:
            self.actions[lowest], self.values[lowest] = action, value


def choose(buffer: ReplayBuffer, epsilon: float, rng: np.random.Generator) -> np.ndarray:
    """(18) a* = with probability epsilon any entry of the buffer, else the one with the highest Q."""
    if rng.random() < epsilon:
        return buffer.actions[int(rng.integers(len(buffer)))]
    return buffer.actions[int(np.argmax(buffer.values))]


def move_towards(policy: np.ndarray, action: np.ndarray, step_size: float, floor: float) -> np.ndarray:
    """(19) PD' = PD + lambda * (a* - PD), floored and normalised."""
    return normalise(np.maximum(policy + step_size * (action - policy), floor))


def clip_change(policy: np.ndarray, proposed: np.ndarray, clip: float) -> np.ndarray:
    """(20) PD <- normalise(PD * clip(PD' / PD, 1 - delta, 1 + delta)), the ratio of PPO."""
    return normalise(policy * np.clip(proposed / policy, 1 - clip, 1 + clip))


def exploration(step: int, steps: int, epsilon: float, decay: str, fraction: float) -> float:
    """Epsilon at pruning step ``step`` of ``steps``: ``epsilon`` at first, 0 after ``fraction`` of the steps."""
    if decay == "constant":
        return epsilon
    progress = step / (fraction * steps)
    if progress >= 1:
        return 0.0
    return epsilon * (1 - progress) if decay == "linear" else epsilon * (1 + cos(pi * progress)) / 2


# ------------------------------------------------------------------------------------------------------ the agent


class RLPruner(SearchAgent):
    """RL-Pruner with the face of a Stable-Baselines3 algorithm; a timestep is one evaluation.

    Before every pruning step it samples actions around its policy in several stages and moves the policy towards good
    ones; then it prunes. ``learn`` with more evaluations than one episode needs starts another from the initial policy;
    with fewer, every step has fewer stages.
    """

    def __init__(
        self,
        env: GymEnv | str | None,
        config: RLPrunerConfig | None = None,
        seed: int | None = None,
        tensorboard_log: str | None = None,
        verbose: int = 0,
    ):
        if not isinstance(config, RLPrunerConfig | None):
            raise TypeError(f"config: expected an RLPrunerConfig, got {type(config).__name__}.")
        self.config = config or RLPrunerConfig.paper()
        self.layer_policy = np.zeros(0)
        super().__init__(env, seed, tensorboard_log, verbose)

    def _setup_model(self) -> None:
        super()._setup_model()
        if self.env is None:
            return
        graph = self.pruning_env.graph
        entries = [(g, layer) for g, group in enumerate(graph.groups) for layer in group.layers]
        filters = {entry.layer: entry for entry in graph.prunable_layers}
        owner = np.repeat(np.arange(len(graph.groups)), graph.widths)
        self.sets = np.array([g for g, _ in entries])
        units = [filters[layer].units for _, layer in entries]
        self.channels = np.array([np.count_nonzero(owner[u[u >= 0]] == g) for (g, _), u in zip(entries, units, strict=True)])
        self.layer_policy = initial_policy(self.channels, self.sets)

    def episode(self) -> None:
        config, env = self.config, self.pruning_env
        self.layer_policy = initial_policy(self.channels, self.sets)
        steps = env.steps_left
        step = 0
        while not self.finished:
            epsilon = exploration(step, steps, config.epsilon, config.epsilon_decay, config.epsilon_fraction)
            action = self._sampled(epsilon)
            if config.reset_on_drop is not None and self._drops(action, config.reset_on_drop):
                self.layer_policy = initial_policy(self.channels, self.sets)
                action = self._sampled(epsilon)
            self.logger.record("rl_pruner/epsilon", epsilon)
            self.logger.record("rl_pruner/policy_entropy", float(-(self.layer_policy * np.log(self.layer_policy)).sum()))
            self.act(self.group_action(action))
            step += 1

    def _sampled(self, epsilon: float) -> np.ndarray:
        """The stages of one pruning step: sample, fill the buffer, update the policy; then the action to prune with."""
        config = self.config
        here = self.pruning_env.snapshot()
        buffer = ReplayBuffer(config.samples)
        best = -np.inf
        affordable = self.evaluations_left // (self.pruning_env.steps_left * config.stage_cost)
        for _ in range(min(config.stages, affordable)):
            actions, values = self.sample_tree(here, config.sample_steps)
            for action, value in zip(actions, values, strict=True):
                buffer.add(action, value)
            if config.update == "always" or max(values) > best:
                chosen = choose(buffer, epsilon if config.prune_with == "policy" else 0.0, self.rng)
                proposed = move_towards(self.layer_policy, chosen, config.step_size, config.min_probability)
                self.layer_policy = clip_change(self.layer_policy, proposed, config.clip)
            best = max(best, *values)
        if config.prune_with == "sample" and len(buffer):
            return choose(buffer, epsilon, self.rng)
        return self.layer_policy

    def sample_tree(self, at: PruningState, depth: int) -> tuple[np.ndarray, np.ndarray]:
        """Sampled actions (N, layers) from a state and their Q values (N,), looking ``depth`` steps ahead. The environment
        is left in that state."""
        env = self.pruning_env
        env.restore(at)
        actions = np.stack([self.sample_action() for _ in range(self.config.samples)])
        previews = self.preview(np.stack([self.group_action(action) for action in actions]))
        best_next = np.zeros(len(previews))
        if depth > 1:
            for i, preview in enumerate(previews):
                if not preview.terminated:
                    best_next[i] = self.sample_tree(preview.snapshot, depth - 1)[1].max()
            env.restore(at)
        return actions, q_values(np.array([preview.reward for preview in previews]), best_next, self.config.discount)

    def sample_action(self) -> np.ndarray:
        noise = self.config.noise_std * self.rng.standard_normal(len(self.layer_policy))
        if self.config.noise_times_uniform:
            noise *= self.rng.random()
        return noisy_action(self.layer_policy, noise, self.sets, self.config.min_probability)

    def group_action(self, layer_action: np.ndarray) -> np.ndarray:
        """An action over layers as the environment takes it: summed over the layers of each set."""
        return np.bincount(self.sets, layer_action)

    def _drops(self, action: np.ndarray, limit: float) -> bool:
        """Whether pruning with ``action`` would lose more than ``limit`` of the accuracy, and there is budget to retry."""
        if self.config.stage_cost + 1 > self.evaluations_left:
            return False
        (preview,) = self.preview(self.group_action(action)[None])
        return preview.score.accuracy < (1 - limit) * self.pruning_env.score().accuracy

    def default_action(self) -> np.ndarray:
        return self.group_action(self.layer_policy)

    def get_data(self) -> dict[str, Any]:
        return super().get_data() | {
            "config": asdict(self.config),
            "layer_policy": self.layer_policy.tolist(),
            "sets": self.sets.tolist(),
        }

    def set_data(self, data: dict[str, Any]) -> None:
        super().set_data(data)
        self.config = RLPrunerConfig(**data["config"])
        self.layer_policy = np.array(data["layer_policy"])
        sets = np.array(data["sets"])
        if self.env is not None and not np.array_equal(sets, self.sets):
            raise ValueError("env: expected the network that the saved agent pruned; the layers of this one differ.")
        self.sets = sets
