"""RL-Pruner's equations against slow, separate re-statements, and the agent as a whole."""

from __future__ import annotations

import json
import math
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import configure
from torch import nn

import prune_gym
from prune_gym.agents import RLPruner, RLPrunerConfig, rl_pruner
from prune_gym.agents.budgeted_env import BudgetedEnv
from prune_gym.agents.rl_pruner import (
    ReplayBuffer,
    Sample,
    clip_change,
    epsilon_at,
    epsilon_greedy,
    initial_policy,
    layers_by_group,
    move_towards,
    noisy_action,
    share_within_groups,
)
from prune_gym.agents.sampling import q_values
from prune_gym.envs import Preview, PruningEnv, TabularEnv
from prune_gym.scoring.evaluation import Score

exact = settings(max_examples=60, deadline=None, derandomize=True)
groups_of_layers = st.lists(st.integers(0, 4), min_size=2, max_size=12).map(lambda ids: np.unique(ids, return_inverse=True)[1])


def policies(n: int, seed: int) -> np.ndarray:
    values = np.random.default_rng(seed).random(n) + 1e-3
    return values / values.sum()


@pytest.fixture
def env(tiny_task):
    return PruningEnv(tiny_task, sparsity=0.5, step_ratio=0.125, device="cpu")


small = RLPrunerConfig(stages=2, samples=3)


# ------------------------------------------------------------------------------------------------------ equations


@exact
@given(groups_of_layers, st.integers(0, 99))
def test_sharing_within_groups(groups, seed):
    values = np.random.default_rng(seed).random(len(groups))
    shared = share_within_groups(values, groups)
    for layer, number in enumerate(groups):
        same = [values[other] for other in range(len(groups)) if groups[other] == number]
        assert shared[layer] == pytest.approx(sum(same) / len(same))
    assert shared.sum() == pytest.approx(values.sum())


def test_initial_policy_is_proportional_to_channels():
    policy = initial_policy(np.array([16, 32, 16, 64]), np.array([0, 1, 0, 2]))
    np.testing.assert_allclose(policy, np.array([16, 32, 16, 64]) / 128)
    uneven = initial_policy(np.array([10, 30]), np.array([0, 0]))
    np.testing.assert_allclose(uneven, [0.5, 0.5])


@exact
@given(groups_of_layers, st.integers(0, 99), st.floats(0, 0.5))
def test_equations_11_and_12(groups, seed, std):
    """a = normalise(max(PD + noise, p_min)), then the mean within every group."""
    rng = np.random.default_rng(seed)
    policy, noise, floor = policies(len(groups), seed), std * rng.standard_normal(len(groups)), 1e-5
    action = noisy_action(policy, noise, groups, floor)
    raised = [max(float(p) + float(e), floor) for p, e in zip(policy, noise, strict=True)]
    total = math.fsum(raised)
    for layer in range(len(groups)):
        members = [raised[other] / total for other in range(len(groups)) if groups[other] == groups[layer]]
        assert action[layer] == pytest.approx(sum(members) / len(members))
    assert action.sum() == pytest.approx(1)
    assert (action > 0).all()


def test_equations_13_to_16():
    np.testing.assert_allclose(q_values(np.array([0.5, 0.8]), np.array([1.0, 0.0]), 0.9), [0.5 + 0.9, 0.8])


def sample(value: float, accuracy: float = 0.5, action: object = None) -> Sample:
    score = Score(accuracy, 1, 1, 0.0, 0.0, 0.0)
    return Sample(action, value, Preview(reward=value, terminated=False, score=score, snapshot=None, yardstick=0.0))


@exact
@given(st.lists(st.integers(0, 20), min_size=1, max_size=40), st.integers(1, 8))
def test_replay_buffer_keeps_the_best(values, slots):
    """Replacing the lowest, never by a lower one, keeps the highest values seen, whatever their order."""
    buffer = ReplayBuffer(slots)
    for i, value in enumerate(values):
        buffer.add(sample(value, action=i))
        assert len(buffer) == min(i + 1, slots)
    assert sorted(kept.value for kept in buffer.samples) == sorted(values)[-slots:]
    for kept in buffer.samples:
        assert values[kept.action] == kept.value


def test_replay_buffer_by_hand():
    buffer = ReplayBuffer(2)
    for name, value in (("a", 0.5), ("b", 0.7), ("c", 0.4), ("d", 0.6), ("e", 0.9)):
        buffer.add(sample(value, action=name))
    assert {kept.action: kept.value for kept in buffer.samples} == {"e": 0.9, "b": 0.7}
    buffer.add(sample(0.7, action="f"))  # no lower than the lowest: it replaces it
    assert {kept.action for kept in buffer.samples} == {"e", "f"}


def test_equation_18_frequencies():
    buffer = ReplayBuffer(4)
    for i, value in enumerate((0.1, 0.9, 0.3, 0.2)):
        buffer.add(sample(value, action=i))
    rng = np.random.default_rng(0)
    chosen = np.bincount([epsilon_greedy(buffer, 0.4, rng).action for _ in range(20_000)], minlength=4) / 20_000
    np.testing.assert_allclose(chosen, [0.1, 0.7, 0.1, 0.1], atol=0.012)
    assert all(epsilon_greedy(buffer, 0.0, rng).action == 1 for _ in range(50))


@exact
@given(st.integers(2, 10), st.integers(0, 99), st.floats(0.01, 1), st.floats(0.05, 0.5))
def test_equations_19_and_20(n, seed, step_size, clip):
    policy, action, floor = policies(n, seed), policies(n, seed + 1000), 1e-5
    proposed = move_towards(policy, action, step_size, floor)
    raised = [max(p + step_size * (a - p), floor) for p, a in zip(policy, action, strict=True)]
    np.testing.assert_allclose(proposed, [value / math.fsum(raised) for value in raised])

    updated = clip_change(policy, proposed, clip)
    scaled = [p * min(max(q / p, 1 - clip), 1 + clip) for p, q in zip(policy, proposed, strict=True)]
    np.testing.assert_allclose(updated, [value / math.fsum(scaled) for value in scaled])
    before_normalising = updated * math.fsum(scaled) / policy
    assert (before_normalising >= 1 - clip - 1e-9).all()
    assert (before_normalising <= 1 + clip + 1e-9).all()
    assert updated.sum() == pytest.approx(1)


def test_clip_binds():
    policy = np.array([0.5, 0.5])
    np.testing.assert_allclose(clip_change(policy, np.array([0.9, 0.1]), 0.2), np.array([1.2, 0.8]) / 2)
    np.testing.assert_allclose(clip_change(policy, np.array([0.55, 0.45]), 0.2), [0.55, 0.45])


@pytest.mark.parametrize("decay", ["constant", "linear", "cosine"])
def test_epsilon_schedules(decay):
    values = [epsilon_at(step, 100, 0.4, decay, 0.1) for step in range(100)]
    assert values[0] == pytest.approx(0.4)
    if decay == "constant":
        assert set(values) == {0.4}
        return
    assert values[10:] == [0.0] * 90
    assert values[:11] == sorted(values[:11], reverse=True)
    assert values[5] == pytest.approx(0.2)
    expected = 0.4 * (1 - 3 / 10) if decay == "linear" else 0.2 * (1 + math.cos(math.pi * 0.3))
    assert values[3] == pytest.approx(expected)


# ---------------------------------------------------------------------------------------------------- the sampling


def budgeted(env: PruningEnv, budget: int = 10**6) -> BudgetedEnv:
    env.reset()
    return BudgetedEnv(env, budget, lambda *_: True)


def test_tree_of_depth_two_against_brute_force(tiny_task, env):
    """Q(s, a) = R(s') + 0.9 * max over the sampled a' of R(s''), every network scored in an environment of its own."""
    agent = RLPruner(env, replace(small, sample_steps=2), seed=3)
    search = budgeted(env)
    search.step(env.uniform_action)
    here = env.snapshot()
    sampled: list[np.ndarray] = []
    original = agent.sample_action
    agent.sample_action = lambda: sampled.append(original()) or sampled[-1]
    samples = agent.sample_tree(search, 2)
    assert env.snapshot() is here
    assert len(sampled) == 3 + 3 * 3

    def reward_of(path: list[np.ndarray]) -> float:
        other = PruningEnv(tiny_task, sparsity=0.5, step_ratio=0.125, device="cpu")
        other.reset()
        other.step(env.uniform_action)
        for action in path:
            _, reward, *_ = other.step(agent.group_action(action).astype(np.float32))
        return reward

    np.testing.assert_array_equal([found.action for found in samples], sampled[:3])
    for i in range(3):
        deeper = sampled[3 + 3 * i : 6 + 3 * i]
        best = max(reward_of([sampled[i], action]) for action in deeper)
        assert samples[i].value == pytest.approx(reward_of([sampled[i]]) + 0.9 * best)
        assert samples[i].preview.reward == reward_of([sampled[i]])


def test_tree_ends_where_the_episode_ends(tiny_task):
    env = PruningEnv(tiny_task, sparsity=0.1, step_ratio=0.2, device="cpu")
    agent = RLPruner(env, replace(small, sample_steps=3), seed=0)
    agent.sample_tree(budgeted(env), 3)
    assert env.evaluations == 3  # all three are terminal: nothing lies below them


@pytest.mark.parametrize("times_uniform", [False, True])
def test_the_noise_of_a_sample(env, times_uniform):
    """Gaussian; in the released code, times one uniform number for the whole sample. By the draws of the same generator."""
    agent = RLPruner(env, replace(small, noise_std=0.03, noise_times_uniform=times_uniform), seed=4)
    rng = np.random.default_rng(4)
    for _ in range(3):
        noise = 0.03 * rng.standard_normal(len(agent.layer_policy)) * (rng.random() if times_uniform else 1.0)
        np.testing.assert_allclose(
            agent.sample_action(), noisy_action(agent.layer_policy, noise, agent.layer_groups, agent.config.min_probability)
        )


def test_actions_of_groups_sum_over_their_layers(env):
    agent = RLPruner(env, small, seed=0)
    layers = [group.layers for group in env.graph.groups]
    assert len(agent.layer_policy) == sum(len(group) for group in layers)
    np.testing.assert_allclose(agent.group_action(agent.layer_policy), env.uniform_action)
    assert np.bincount(agent.layer_groups).tolist() == [len(group) for group in layers]


class Tied(nn.Module):
    """The second layer has the first one's weight, transposed: its filters are the columns of that weight."""

    def __init__(self):
        super().__init__()
        self.enter, self.tied, self.head = nn.Linear(6, 20), nn.Linear(20, 12, bias=False), nn.Linear(20, 3)

    def forward(self, x):
        hidden = self.tied(self.enter(x.flatten(1)).relu()).relu()
        return self.head(nn.functional.linear(hidden, self.tied.weight.t()).relu())


class GroupedTransposed(nn.Module):
    """A transposed convolution of two groups: an index of its weight's output dimension stands for a filter of either group."""

    def __init__(self):
        super().__init__()
        self.enter, self.up, self.head = nn.Conv2d(1, 8, 3), nn.ConvTranspose2d(8, 16, 2, groups=2), nn.Linear(16, 3)

    def forward(self, x):
        return self.head(self.up(self.enter(x).relu()).relu().mean((2, 3)))


@pytest.mark.parametrize(
    ("model", "shape", "channels"), [(Tied(), (1, 2, 3), [20, 12, 20]), (GroupedTransposed(), (1, 6, 6), [8, 16])]
)
def test_channels_are_counted_where_weights_are_shared_or_grouped(model, shape, channels):
    graph = prune_gym.trace(model, torch.randn(2, *shape))
    groups, found = layers_by_group(graph)
    assert sorted(found.tolist()) == sorted(channels)
    assert np.bincount(groups, found).tolist() == graph.group_filters.tolist()


def test_channels_of_ordinary_layers(env):
    """In the order of the groups, as many as the layers have."""
    modules = dict(env.task.model.named_modules())
    groups, channels = layers_by_group(env.graph)
    layers = [layer for group in env.graph.groups for layer in group.layers]
    assert channels.tolist() == [modules[layer].weight.shape[0] for layer in layers]
    assert groups.tolist() == [number for number, group in enumerate(env.graph.groups) for _ in group.layers]


# ------------------------------------------------------------------------------------------- the stages of one step


def scripted(agent: RLPruner, stages: list[list[float]]) -> list[np.ndarray]:
    """Let the agent's stages give samples of these values, all of another action; gives the policies before and after every
    stage, as they come to be."""
    policies, rng = [], np.random.default_rng(7)
    left = iter(stages)

    def sample_tree(env, depth):
        policies.append(agent.layer_policy.copy())
        actions = rng.dirichlet(np.ones(len(agent.layer_policy)), 99)
        return [sample(value, action=action) for value, action in zip(next(left), actions, strict=False)]

    agent.sample_tree = sample_tree
    return policies


def updates(policies: list[np.ndarray], agent: RLPruner) -> list[bool]:
    after = [*policies[1:], agent.layer_policy]
    return [not np.array_equal(before, now) for before, now in zip(policies, after, strict=True)]


def test_policy_moves_towards_the_best_sample_so_far(env):
    """Stage by stage, with epsilon 0, by equations 19 and 20; the best sample may be of an earlier stage."""
    agent = RLPruner(env, replace(small, stages=3, samples=2), seed=5)
    policies = scripted(agent, [[0.1, 0.5], [0.4, 0.3], [0.2, 0.6]])
    rng = np.random.default_rng(7)
    actions = [rng.dirichlet(np.ones(len(agent.layer_policy)), 99)[:2] for _ in range(3)]
    assert agent.sample_stages(budgeted(env), 0.0) is None
    expected = initial_policy(agent.channels, agent.layer_groups)
    for before, best in zip(policies, (actions[0][1], actions[0][1], actions[2][1]), strict=True):
        np.testing.assert_allclose(before, expected)
        proposed = move_towards(expected, best, agent.config.step_size, agent.config.min_probability)
        expected = clip_change(expected, proposed, agent.config.clip)
    np.testing.assert_allclose(agent.layer_policy, expected)


@pytest.mark.parametrize(
    ("stages", "expected"),
    [
        ([[0.1, 0.5], [0.3, 0.2], [0.4, 0.4]], [True, False, False]),  # the third beats the second, but not the first
        ([[0.1, 0.5], [0.2, 0.6], [0.6, 0.1]], [True, True, False]),  # one sample that is better is enough; an equal one is not
        ([[0.1, 0.5], [0.4, 0.4], [0.7, 0.1]], [True, False, True]),
    ],
)
def test_released_code_updates_only_on_improvement(env, stages, expected):
    agent = RLPruner(env, replace(small, stages=3, samples=2, update="on_improvement"), seed=1)
    policies = scripted(agent, stages)
    agent.sample_stages(budgeted(env), 0.4)
    assert updates(policies, agent) == expected
    agent = RLPruner(env, replace(small, stages=3, samples=2), seed=1)
    policies = scripted(agent, stages)
    agent.sample_stages(budgeted(env), 0.4)
    assert updates(policies, agent) == [True] * 3


def test_the_buffer_holds_as_many_as_a_stage_samples(env):
    """With epsilon 1, any of the two best of all stages is chosen, and no other."""
    chosen = set()
    for seed in range(30):
        agent = RLPruner(env, replace(small, stages=3, samples=2, prune_with="sample"), seed=seed)
        scripted(agent, [[0.5, 0.9], [0.8, 0.1], [0.7, 0.2]])
        chosen.add(agent.sample_stages(budgeted(env), 1.0).value)
    assert chosen == {0.9, 0.8}


def test_with_a_step_size_of_0_nothing_is_learned(env):
    agent = RLPruner(env, replace(small, step_size=0.0, prune_with="sample"), seed=0).learn(40)
    np.testing.assert_allclose(agent.layer_policy, initial_policy(agent.channels, agent.layer_groups))
    uniform = env.uniform_action
    assert any(not np.allclose(action, uniform) for action in agent.plan.values())  # but samples prune


def test_every_step_begins_with_an_empty_buffer(env):
    agent = RLPruner(env, replace(small, stages=1, samples=2, prune_with="sample"), seed=0)
    scripted(agent, [[0.9, 0.8], [0.1, 0.2]])
    search = budgeted(env)
    assert [agent.sample_stages(search, 0.0).value for _ in range(2)] == [0.9, 0.2]


def test_presets():
    paper, released = RLPrunerConfig.paper(), RLPrunerConfig.released_code()
    assert paper == RLPrunerConfig()
    assert (paper.noise_std**2, paper.step_size, paper.clip, paper.epsilon) == (pytest.approx(0.04), 0.1, 0.2, 0.4)
    assert (paper.samples, paper.stages, paper.sample_steps, paper.discount) == (10, 10, 1, 0.9)
    assert (paper.epsilon_decay, paper.epsilon_fraction, paper.min_probability) == ("cosine", 0.1, 1e-5)
    assert (released.noise_std, released.noise_times_uniform, released.clip) == (0.04, True, 0.25)
    assert (released.update, released.prune_with, released.reset_on_drop) == ("on_improvement", "sample", 0.1)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"step_size": 1.5}, r"step_size: expected a number in \[0, 1\], got 1.5"),
        ({"clip": 1.5}, r"clip: expected a number in \(0, 1\), got 1.5"),
        ({"samples": 0}, "samples: expected an integer >= 1, got 0"),
        (
            {"epsilon_decay": "cosin"},
            "epsilon_decay: expected one of constant, linear, cosine; got .cosin",
        ),
        ({"noise_std": float("nan")}, r"noise_std: expected a number in \[0, inf\), got nan"),
        ({"noise_times_uniform": "x"}, "noise_times_uniform: expected True or False, got 'x'"),
        ({"reset_on_drop": 1}, r"reset_on_drop: expected a number in \(0, 1\), got 1"),
        ({"update": None}, "update: expected one of always, on_improvement; got None"),
        ({"stages": -1}, "stages: expected an integer >= 0, got -1"),
    ],
)
def test_bad_settings(setting, message):
    with pytest.raises((ValueError, TypeError), match=message):
        RLPrunerConfig(**setting)


# ----------------------------------------------------------------------------------------------------- an episode


def spied(agent: RLPruner, name: str, note) -> list:
    """What ``note`` gives of the arguments, at every call of a method."""
    notes, original = [], getattr(agent, name)

    def spy(*arguments):
        notes.append(note(*arguments))
        return original(*arguments)

    setattr(agent, name, spy)
    return notes


def test_every_episode_begins_with_the_initial_policy(env):
    agent = RLPruner(env, small, seed=0)
    starts = spied(agent, "sample_stages", lambda *_: agent.layer_policy.copy())
    agent.learn(2 * small.evaluations(4))
    assert len(starts) == 8
    first = initial_policy(agent.channels, agent.layer_groups)
    assert [np.array_equal(start, first) for start in starts] == [True, False, False, False] * 2


@pytest.mark.parametrize("fraction", [1.0, 0.75])
def test_epsilon_falls_from_step_to_step(tiny_task, fraction):
    """Linear, over a part of the steps of the episode: by hand."""
    env = PruningEnv(tiny_task, sparsity=0.5, step_ratio=0.125, device="cpu")
    agent = RLPruner(env, replace(small, epsilon=0.8, epsilon_decay="linear", epsilon_fraction=fraction), seed=0)
    used = spied(agent, "choose_action", lambda env, epsilon: epsilon)
    agent.learn(small.evaluations(4))
    assert used == pytest.approx([0.8, 0.6, 0.4, 0.2] if fraction == 1 else [0.8, 0.8 * 2 / 3, 0.8 / 3, 0.0])


def test_a_budget_of_one_episode_is_one_episode(env):
    recorder = Recorder()
    agent = RLPruner(env, small, seed=0).learn(small.evaluations(4), recorder)
    assert agent.num_timesteps == env.evaluations == 4 * (2 * 3 + 1)
    assert len(recorder.steps) == 4
    assert recorder.steps[-1] >= 0.5


class Recorder(BaseCallback):
    def __init__(self):
        super().__init__()
        self.steps = []

    def _on_step(self) -> bool:
        if self.locals["kind"] == "step":
            self.steps.append(self.locals["infos"][0]["channel_sparsity"])
        return True


@pytest.mark.parametrize("prune_with", ["policy", "sample"])
def test_what_prunes(env, prune_with):
    """The environment gets the policy after the stages, or a sampled action."""
    agent = RLPruner(env, replace(small, prune_with=prune_with, epsilon=0.0), seed=2)
    policies, choose = [], agent.choose_action

    def spy(search, epsilon):
        action = choose(search, epsilon)
        policies.append(agent.group_action(agent.layer_policy))
        return action

    agent.choose_action = spy
    agent.learn(small.evaluations(4))
    taken = [state.action for state in env.snapshot().trajectory()[1:]]
    same = [np.allclose(action, policy, atol=1e-6) for action, policy in zip(taken, policies, strict=True)]
    assert same == [prune_with == "policy"] * 4


@pytest.mark.parametrize("budget", [4, 7, 20, 61])
def test_any_budget_ends_with_a_whole_episode(env, budget):
    recorder = Recorder()
    agent = RLPruner(env, small, seed=0).learn(budget, recorder)
    assert agent.num_timesteps <= budget
    assert recorder.steps[-1] >= 0.5
    assert budget - agent.num_timesteps < 4  # too little for another episode


def test_same_seed_same_search(tiny_task):
    def search(seed: int) -> tuple:
        env = PruningEnv(tiny_task, sparsity=0.5, step_ratio=0.125, device="cpu")
        agent = RLPruner(env, small, seed=seed).learn(40)
        return env.best.snapshot.architecture.digest, agent.layer_policy.tobytes(), env.best.reward

    assert search(0) == search(0)
    assert search(0)[1] != search(1)[1]


@pytest.mark.parametrize("update", ["always", "on_improvement"])
@pytest.mark.parametrize("prune_with", ["policy", "sample"])
def test_epsilon_acts_once(env, monkeypatch, update, prune_with):
    """On what moves the policy, if that prunes; on what is pruned with, if that is a sample (eq 18)."""
    seen = []
    monkeypatch.setattr(
        rl_pruner, "epsilon_greedy", lambda buffer, epsilon, rng: seen.append(epsilon) or epsilon_greedy(buffer, epsilon, rng)
    )
    config = replace(small, epsilon=0.5, epsilon_decay="constant", update=update, prune_with=prune_with, stages=2)
    RLPruner(env, config, seed=0).learn(config.evaluations(4))
    if prune_with == "policy":
        assert set(seen) == {0.5}
    else:
        assert set(seen) == {0.0, 0.5}
        assert seen.count(0.5) == 4


def test_small_budgets_are_spread_over_the_steps(env):
    """Half of the evaluations that two stages per step need: one stage per step, not two in the first half of the steps."""
    agent = RLPruner(env, small, seed=0)
    previews = spied(agent, "_on_evaluation", lambda action, preview, info, kind: kind == "preview")
    agent.learn(4 * (small.samples + 1))
    assert previews == ([True] * small.samples + [False]) * 4


@pytest.mark.parametrize("rounding", ["paper", "carry", "largest_remainder"])
def test_the_planned_number_of_steps_is_enough(tiny_task, rounding):
    for seed in range(3):
        env = PruningEnv(tiny_task, sparsity=0.5, step_ratio=0.1, rounding=rounding, device="cpu")
        env.reset()
        planned = env.steps_left
        agent = RLPruner(env, small, seed=seed).learn(planned)
        assert agent.num_timesteps <= planned
        assert env.best is not None


# ------------------------------------------------------------------------------------------ a step that loses too much


def remaining_policy(agent: RLPruner, env: PruningEnv) -> np.ndarray:
    """Proportional to the channels that the layers still have, shared within groups: restated."""
    left = [
        int(channels) * env.architecture.widths[group] / env.graph.widths[group]
        for channels, group in zip(agent.channels, agent.layer_groups, strict=True)
    ]
    mean = {
        g: np.mean([x for x, other in zip(left, agent.layer_groups, strict=True) if other == g]) for g in set(agent.layer_groups)
    }
    shared = np.array([mean[group] for group in agent.layer_groups])
    return shared / shared.sum()


@pytest.mark.parametrize("prune_with", ["policy", "sample"])
def test_a_step_that_loses_too_much_is_sampled_anew(tiny_task, prune_with):
    """With a limit that any pruning exceeds, every step is sampled twice, the second time from a policy in proportion to the
    channels that are left."""
    env = PruningEnv(tiny_task, sparsity=0.5, step_ratio=0.125, reward="accuracy", device="cpu")
    config = replace(small, reset_on_drop=1e-9, prune_with=prune_with)
    agent = RLPruner(env, config, seed=0)
    agent.loses_too_much, original = lambda *arguments: original(*arguments) or True, agent.loses_too_much
    starts = spied(agent, "sample_stages", lambda *_: (agent.layer_policy.copy(), remaining_policy(agent, env)))
    agent.learn(config.evaluations(4))
    assert len(starts) == 8
    for policy, remaining in starts[1::2]:
        np.testing.assert_allclose(policy, remaining)
    assert not any(np.allclose(policy, remaining) for policy, remaining in starts[2::2])  # the next step goes on from there


@pytest.mark.parametrize(("prune_with", "looks"), [("policy", 1), ("sample", 0)])
@pytest.mark.parametrize("drops", [True, False])
def test_evaluations_are_an_upper_bound_that_is_reached(tiny_task, prune_with, looks, drops):
    """If every step is sampled twice. What a sample leads to is known; what the policy leads to must be looked at."""
    env = PruningEnv(tiny_task, sparsity=0.5, step_ratio=0.125, reward="accuracy", device="cpu")
    config = replace(small, reset_on_drop=0.1, prune_with=prune_with)
    env.reset()
    agent = RLPruner(env, config, seed=0)
    original = agent.loses_too_much
    agent.loses_too_much = lambda *arguments: (original(*arguments), drops)[1]
    stages = spied(agent, "sample_tree", lambda *_: None)
    search = budgeted(env, config.evaluations(4))
    agent.set_logger(configure(None, []))
    agent.search(search)
    assert config.evaluations(4) == 4 * (2 * 2 * 3 + 1 + looks)
    if drops:
        assert env.evaluations == config.evaluations(4)
        assert len(stages) == 4 * 2 * 2
    else:
        assert env.evaluations <= config.evaluations(4)  # what is left over goes into another episode


@pytest.mark.parametrize(
    ("accuracy", "limit", "expected"),
    [(0.9, 0.1, False), (0.89, 0.1, True), (0.91, 0.1, False), (0.5, 0.6, False), (0.1, None, False)],
)
def test_what_loses_too_much(env, accuracy, limit, expected):
    """More than the fraction ``limit`` of the accuracy that the network has now."""
    agent = RLPruner(env, replace(small, reset_on_drop=limit, prune_with="sample"), seed=0)
    search = budgeted(env)
    now = env.score().accuracy
    assert agent.loses_too_much(search, sample(1.0, accuracy=accuracy * now)) == expected
    assert env.evaluations == 0


@pytest.mark.parametrize(("budget", "expected"), [(4 + 4 * 3, True), (4 + 4 * 3 - 1, False)])
def test_no_step_is_sampled_anew_that_the_budget_does_not_pay_for(env, budget, expected):
    """A stage for each of the four steps must be left, else the step would be pruned with a policy that was not sampled."""
    agent = RLPruner(env, replace(small, reset_on_drop=0.1, prune_with="sample"), seed=0)
    search = budgeted(env, budget)
    assert agent.loses_too_much(search, sample(1.0, accuracy=0.0)) == expected
    search = budgeted(env, budget + 1)
    agent.config = replace(small, reset_on_drop=0.999)
    before = env.evaluations
    agent.loses_too_much(search, None)
    assert env.evaluations - before == expected  # it costs an evaluation to see what the policy leads to, if that can be paid


@pytest.mark.parametrize("budget", range(4, 60, 3))
def test_released_code_never_prunes_with_a_policy_after_a_reset_that_was_not_sampled(tiny_task, budget):
    env = PruningEnv(tiny_task, sparsity=0.5, step_ratio=0.125, reward="accuracy", device="cpu")
    agent = RLPruner(env, replace(RLPrunerConfig.released_code(), stages=2, samples=3, reset_on_drop=1e-9), seed=0)
    original, found = agent.sample_stages, []
    agent.sample_stages = lambda search, epsilon: found.append(original(search, epsilon)) or found[-1]
    counts = []
    choose = agent.choose_action
    agent.choose_action = lambda search, epsilon: (len(found), choose(search, epsilon), counts.append(len(found)))[1]
    agent.learn(budget)
    for before, after in zip([0, *counts], counts, strict=False):
        if after - before == 2:
            assert found[after - 1] is not None


# --------------------------------------------------------------------------------------------------- saved and loaded


def test_saved_and_loaded(env, tmp_path):
    agent = RLPruner(env, small, seed=0).learn(40)
    agent.save(tmp_path / "agent")
    loaded = RLPruner.load(tmp_path / "agent.zip")
    assert loaded.config == small
    np.testing.assert_array_equal(loaded.layer_policy, agent.layer_policy)
    unknown = np.full_like(env.reset()[0], 0.123)
    np.testing.assert_allclose(loaded.predict(unknown)[0], agent.group_action(agent.layer_policy), rtol=1e-6)


def test_another_environment(env, tmp_path):
    """The layers are those of the environment's network; the policy stays, if they are the same."""
    agent = RLPruner(env, small, seed=0).learn(40)
    agent.save(tmp_path / "agent")
    loaded = RLPruner.load(tmp_path / "agent")
    loaded.set_env(env)
    np.testing.assert_array_equal(loaded.layer_policy, agent.layer_policy)
    np.testing.assert_array_equal(loaded.channels, agent.channels)
    loaded.learn(40)
    other = PruningEnv("digits", sparsity=0.3, step_ratio=0.1, device="cpu")
    agent.set_env(other)
    groups, channels = layers_by_group(other.graph)
    np.testing.assert_array_equal(agent.layer_groups, groups)
    np.testing.assert_array_equal(agent.channels, channels)
    np.testing.assert_array_equal(agent.layer_policy, initial_policy(channels, groups))
    agent.learn(40)
    assert other.best is not None
    with pytest.raises(ValueError, match="env: expected the network that the saved agent pruned; the layers of this one differ"):
        RLPruner.load(tmp_path / "agent", other)


@pytest.mark.parametrize(
    "damage",
    [
        {"layer_policy": [0.5]},
        {"layer_policy": [-1.0] * 7},
        {"layer_groups": [0, 0, 1, 2, 3, 4, 9]},
        {"layer_groups": [0.5] * 7},
        {"config": {"noise_std": 10**400}},
        {"config": {"stage": 1}},
        {"config": None},
    ],
)
def test_damaged_files_are_refused(env, damage, tmp_path):
    agent = RLPruner(env, small, seed=0)
    assert len(agent.layer_policy) == 7
    with zipfile.ZipFile(tmp_path / "agent.zip", "w") as file:
        file.writestr("data.json", json.dumps(agent.get_data() | damage))
    with pytest.raises(ValueError, match=r"agent.zip: expected a saved RLPruner, but"):
        RLPruner.load(tmp_path / "agent.zip")


def test_a_policy_is_reset_on_a_table_as_well():
    config = RLPrunerConfig(stages=1, samples=2, reset_on_drop=0.001, prune_with="sample")
    env = TabularEnv("digits")
    agent = RLPruner(env, config, seed=0).learn(200)
    assert agent.best is not None
    assert env.best is not None
