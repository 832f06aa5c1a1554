"""RL-Pruner (Wang and Kindratenko, 2024), equation by equation.

The numbers in brackets are the paper's equations. A policy is a distribution over prunable layers; layers that are pruned
together form a *group* (the paper's set) and hold equal entries. The environment's action is per group: the sum of the entries
of its layers.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count
from math import cos, pi
from typing import Annotated, Any, Literal

import numpy as np
from stable_baselines3.common.type_aliases import GymEnv

from prune_gym.agents.budgeted_env import BudgetedEnv
from prune_gym.agents.configured_agent import ConfiguredAgent
from prune_gym.agents.sampling import Sample, sample_tree
from prune_gym.agents.work import Work, work_in_stages
from prune_gym.arguments import AtLeast, Within, check_settings
from prune_gym.envs.rewards import check_discount
from prune_gym.graph.channel_graph import ChannelGraph

EpsilonDecay = Literal["constant", "linear", "cosine"]
Update = Literal["always", "on_improvement"]
PruneWith = Literal["policy", "sample"]


@dataclass(frozen=True)
class RLPrunerConfig:
    """Settings of RL-Pruner; the defaults are the paper's."""

    noise_std: Annotated[float, Within("[0, inf)")] = 0.2
    """Standard deviation of the Gaussian noise on the policy (eq 11); the paper's variance is 0.04."""
    noise_times_uniform: bool = False
    """Scale each sample's noise by one uniform draw, as the released code does."""
    step_size: Annotated[float, Within("[0, 1]")] = 0.1
    """Lambda, how far the policy moves towards the chosen action (eq 19); with 0 it learns nothing."""
    discount: Annotated[float, Within("[0, 1]")] = 0.9
    """Discount of the tree's next level (eqs 13-16)."""
    sample_steps: Annotated[int, AtLeast(1)] = 1
    """Tau, the depth of the sampling tree; a stage costs samples + samples^2 + ... + samples^tau evaluations."""
    samples: Annotated[int, AtLeast(1)] = 10
    """N, samples per stage, and slots of the replay buffer."""
    stages: Annotated[int, AtLeast(0)] = 10
    """Sampling stages before every pruning step."""
    clip: Annotated[float, Within("(0, 1)")] = 0.2
    """Delta, the largest relative change of an entry of the policy in one update (eq 20)."""
    epsilon: Annotated[float, Within("[0, 1]")] = 0.4
    """Initial probability of a random choice from the buffer (eq 18)."""
    epsilon_decay: EpsilonDecay = "cosine"
    """How epsilon falls to 0 over the first steps; "constant" stays."""
    epsilon_fraction: Annotated[float, Within("(0, 1]")] = 0.1
    """Part of the pruning steps over which epsilon falls to 0."""
    min_probability: Annotated[float, Within("(0, 1)")] = 1e-5
    """Floor of an entry before normalisation."""
    update: Update = "always"
    """Update the policy after every stage, or only after one that beats all before it in this pruning step."""
    prune_with: PruneWith = "policy"
    """The action of the pruning step: the policy itself, or a sampled action, by the epsilon-greedy rule of eq 18."""
    reset_on_drop: Annotated[float, Within("(0, 1)")] | None = None
    """Start a pruning step anew, once, with the initial policy if it would lose more than this fraction of the accuracy."""

    def __post_init__(self) -> None:
        check_settings(self)

    @property
    def stage_cost(self) -> int:
        """Evaluations of one sampling stage, at most: the nodes of a tree of depth tau."""
        return sum(self.samples**depth for depth in range(1, self.sample_steps + 1))

    def evaluations(self, steps: int) -> int:
        """What one episode of so many pruning steps takes, at most: if every step is sampled anew, where that may be."""
        stages = self.stages * self.stage_cost
        if self.reset_on_drop is not None:
            stages *= 2
            stages += self.prune_with == "policy"  # what the policy leads to must be seen first; a sample was seen
        return steps * (stages + 1)

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
    """Positive numbers (layers,) as a distribution, whose sum is 1."""
    return values / values.sum()


def share_within_groups(values: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Give the layers of one group the mean of their entries; ``groups`` is the group of every layer."""
    return (np.bincount(groups, values) / np.bincount(groups))[groups]


def initial_policy(channels: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """PD_0: proportional to the output channels of the layers."""
    return normalise(share_within_groups(channels.astype(np.float64), groups))


def noisy_action(policy: np.ndarray, noise: np.ndarray, groups: np.ndarray, floor: float) -> np.ndarray:
    """(11, 12) a = normalise(max(PD + noise, p_min)), shared within groups."""
    return share_within_groups(normalise(np.maximum(policy + noise, floor)), groups)


class ReplayBuffer:
    """The N samples of a pruning step with the highest Q: a new one replaces the lowest, unless it is lower still."""

    def __init__(self, slots: int):
        self.slots = slots
        self.samples: list[Sample] = []

    def __len__(self) -> int:
        return len(self.samples)

    def add(self, sample: Sample) -> None:
        if len(self) < self.slots:
            self.samples.append(sample)
            return
        lowest = min(range(len(self)), key=lambda i: self.samples[i].value)
        if sample.value >= self.samples[lowest].value:
            self.samples[lowest] = sample


def epsilon_greedy(buffer: ReplayBuffer, epsilon: float, rng: np.random.Generator) -> Sample:
    """(18) a* = with probability epsilon any entry of the buffer, else the one with the highest Q."""
    if rng.random() < epsilon:
        return buffer.samples[int(rng.integers(len(buffer)))]
    return max(buffer.samples, key=lambda sample: sample.value)


def move_towards(policy: np.ndarray, action: np.ndarray, step_size: float, floor: float) -> np.ndarray:
    """(19) PD' = PD + lambda * (a* - PD), floored and normalised."""
    return normalise(np.maximum(policy + step_size * (action - policy), floor))


def clip_change(policy: np.ndarray, proposed: np.ndarray, clip: float) -> np.ndarray:
    """(20) PD <- normalise(PD * clip(PD' / PD, 1 - delta, 1 + delta)), the ratio of PPO."""
    return normalise(policy * np.clip(proposed / policy, 1 - clip, 1 + clip))


def epsilon_at(step: int, steps: int, epsilon: float, decay: str, fraction: float) -> float:
    """Epsilon at pruning step ``step`` of ``steps``: ``epsilon`` at first, 0 after ``fraction`` of the steps."""
    if decay == "constant":
        return epsilon
    progress = step / (fraction * steps)
    if progress >= 1:
        return 0.0
    return epsilon * (1 - progress) if decay == "linear" else epsilon * (1 + cos(pi * progress)) / 2


# ------------------------------------------------------------------------------------------------------ the agent


class RLPruner(ConfiguredAgent[RLPrunerConfig]):
    """RL-Pruner with the Stable-Baselines3 API; a timestep is one evaluation.

    Before every pruning step it samples actions around its policy in several stages and moves the policy towards good
    ones; then it prunes. ``learn`` with more evaluations than one episode needs starts another from the initial policy;
    with fewer, every step has fewer stages.

    Attributes:
        layer_policy: PD, a distribution over prunable layers, float64 (layers,).
        layer_groups: the group of every layer, int64 (layers,), rising.
        channels: output channels of every layer that can be removed, int64 (layers,).
    """

    config_type = RLPrunerConfig
    reads_reward = True
    layer_policy = layer_groups = channels = np.zeros(0)

    def set_env(self, env: GymEnv | str, force_reset: bool = True) -> None:
        """Like :meth:`SearchAgent.set_env`; for another network, the policy is the initial one again. Raises ValueError for
        shaping that discounts otherwise than the agent does."""
        known = self.group_filters
        super().set_env(env, force_reset)
        if self.config.sample_steps > 1:  # else it looks one step ahead, and discounts nothing
            check_discount(self.pruning_env, self.config.discount)
        self.layer_groups, self.channels = layers_by_group(self.pruning_env.graph)
        if self.group_filters != known:
            self.layer_policy = initial_policy(self.channels, self.layer_groups)

    def expected_work(self, evaluations: int, steps: int) -> Work:
        return work_in_stages(evaluations, steps, self.config.stage_cost, self.config.evaluations(steps))

    def search(self, env: BudgetedEnv) -> None:
        config = self.config
        for _ in env.episodes():
            self.layer_policy = initial_policy(self.channels, self.layer_groups)
            steps = env.steps_left
            for step in count():
                if env.finished:
                    break
                epsilon = epsilon_at(step, steps, config.epsilon, config.epsilon_decay, config.epsilon_fraction)
                action = self.choose_action(env, epsilon)
                self.logger.record("rl_pruner/epsilon", epsilon)
                self.logger.record("rl_pruner/policy_entropy", float(-(self.layer_policy * np.log(self.layer_policy)).sum()))
                env.step(action)

    def choose_action(self, env: BudgetedEnv, epsilon: float) -> np.ndarray:
        """The action of one pruning step, (groups,); it is sampled anew, once, if it loses too much accuracy."""
        sample = self.sample_stages(env, epsilon)
        if self.loses_too_much(env, sample):
            remaining = self.channels * (env.snapshot().widths / env.graph.widths)[self.layer_groups]
            self.layer_policy = initial_policy(remaining, self.layer_groups)
            sample = self.sample_stages(env, epsilon)
        return self.group_action(self.layer_policy if sample is None else sample.action)

    def sample_stages(self, env: BudgetedEnv, epsilon: float) -> Sample | None:
        """The stages of one pruning step: sample, fill the buffer, update the policy. Gives the sample to prune with, or None to
        prune with the policy itself."""
        config = self.config
        buffer = ReplayBuffer(config.samples)
        best = -np.inf
        for _ in range(self.affordable_stages(env)):
            samples = self.sample_tree(env, config.sample_steps)
            for sample in samples:
                buffer.add(sample)
            best_of_stage = max(sample.value for sample in samples)
            if config.update == "always" or best_of_stage > best:
                chosen = epsilon_greedy(buffer, epsilon if config.prune_with == "policy" else 0.0, self.rng)
                proposed = move_towards(self.layer_policy, chosen.action, config.step_size, config.min_probability)
                self.layer_policy = clip_change(self.layer_policy, proposed, config.clip)
            best = max(best, best_of_stage)
        return epsilon_greedy(buffer, epsilon, self.rng) if config.prune_with == "sample" and len(buffer) else None

    def affordable_stages(self, env: BudgetedEnv, spent: int = 0) -> int:
        """Stages before the next step, if the rest of the budget, less ``spent``, is spread evenly over all steps."""
        per_step = (env.evaluations_left - spent) // env.steps_left
        return min(self.config.stages, max(0, per_step // self.config.stage_cost))

    def sample_tree(self, env: BudgetedEnv, depth: int) -> list[Sample]:
        """Actions sampled in the present state, with Q values that look ``depth`` steps ahead. The environment is left in that
        state."""
        return sample_tree(env, self.sample_action, self.group_action, self.config.samples, depth, self.config.discount)

    def sample_action(self) -> np.ndarray:
        """A policy with noise, (layers,)."""
        noise = self.config.noise_std * self.rng.standard_normal(len(self.layer_policy))
        if self.config.noise_times_uniform:
            noise *= self.rng.random()
        return noisy_action(self.layer_policy, noise, self.layer_groups, self.config.min_probability)

    def group_action(self, layer_action: np.ndarray) -> np.ndarray:
        """An action over layers as the environment takes it: summed over the layers of each group."""
        return np.bincount(self.layer_groups, layer_action)

    def loses_too_much(self, env: BudgetedEnv, sample: Sample | None) -> bool:
        """Whether the step is to be sampled anew: it would lose more than ``reset_on_drop`` of the accuracy, and the budget pays
        for at least one more stage in this step and every later one. What the policy leads to costs an evaluation."""
        limit = self.config.reset_on_drop
        if limit is None or self.affordable_stages(env, spent=int(sample is None)) == 0:
            return False
        preview = env.preview(self.group_action(self.layer_policy)[None])[0] if sample is None else sample.preview
        return preview.score.accuracy < (1 - limit) * env.score().accuracy

    def default_action(self) -> np.ndarray:
        """The policy, in a state that is not on the way to the best network."""
        return self.group_action(self.layer_policy)

    def get_data(self) -> dict[str, Any]:
        return super().get_data() | {
            "layer_policy": self.layer_policy.tolist(),
            "layer_groups": self.layer_groups.tolist(),
        }

    def set_data(self, data: dict[str, Any]) -> None:
        super().set_data(data)
        self.layer_policy = np.array(data["layer_policy"], np.float64)
        self.layer_groups = np.array(data["layer_groups"])
        fits = self.layer_policy.shape == self.layer_groups.shape and self.layer_policy.min(initial=1) > 0
        if not fits or self.layer_groups.dtype != np.int64 or set(data["layer_groups"]) != set(range(len(self.group_filters))):
            raise ValueError("its policy does not fit its network")


def layers_by_group(graph: ChannelGraph) -> tuple[np.ndarray, np.ndarray]:
    """The prunable layers, group by group: the group of each, and its output channels that can be removed, int64 (layers,)."""
    groups, layers = np.nonzero(graph.layer_filters.T)
    return groups, graph.layer_filters[layers, groups]
