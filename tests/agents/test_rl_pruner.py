"""RL-Pruner's equations against slow, separate re-statements, and the agent as a whole."""

from __future__ import annotations

import math
import zipfile
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3.common.callbacks import BaseCallback, CheckpointCallback, EvalCallback
from stable_baselines3.common.evaluation import evaluate_policy

from prune_gym.agents import RLPruner, RLPrunerConfig, rl_pruner
from prune_gym.agents.rl_pruner import (
    ReplayBuffer,
    choose,
    clip_change,
    exploration,
    initial_policy,
    move_towards,
    noisy_action,
    q_values,
    share_within_sets,
)
from prune_gym.envs import PruningEnv, SoftmaxAction

exact = settings(max_examples=60, deadline=None, derandomize=True)
sets_of_layers = st.lists(st.integers(0, 4), min_size=2, max_size=12).map(lambda ids: np.unique(ids, return_inverse=True)[1])


def policies(n: int, seed: int) -> np.ndarray:
    values = np.random.default_rng(seed).random(n) + 1e-3
    return values / values.sum()


@pytest.fixture
def env(tiny_task):
    return PruningEnv(tiny_task, sparsity=0.5, step_ratio=0.125, device="cpu")


small = RLPrunerConfig(stages=2, samples=3)


# ------------------------------------------------------------------------------------------------------ equations


@exact
@given(sets_of_layers, st.integers(0, 99))
def test_sharing_within_sets(sets, seed):
    values = np.random.default_rng(seed).random(len(sets))
    shared = share_within_sets(values, sets)
    for layer, number in enumerate(sets):
        same = [values[other] for other in range(len(sets)) if sets[other] == number]
        assert shared[layer] == pytest.approx(sum(same) / len(same))
    assert shared.sum() == pytest.approx(values.sum())


def test_initial_policy_is_proportional_to_channels():
    policy = initial_policy(np.array([16, 32, 16, 64]), np.array([0, 1, 0, 2]))
    np.testing.assert_allclose(policy, np.array([16, 32, 16, 64]) / 128)
    uneven = initial_policy(np.array([10, 30]), np.array([0, 0]))
    np.testing.assert_allclose(uneven, [0.5, 0.5])


@exact
@given(sets_of_layers, st.integers(0, 99), st.floats(0, 0.5))
def test_equations_11_and_12(sets, seed, std):
    """a = normalise(max(PD + noise, p_min)), then the mean within every set."""
    rng = np.random.default_rng(seed)
    policy, noise, floor = policies(len(sets), seed), std * rng.standard_normal(len(sets)), 1e-5
    action = noisy_action(policy, noise, sets, floor)
    raised = [max(float(p) + float(e), floor) for p, e in zip(policy, noise, strict=True)]
    total = math.fsum(raised)
    for layer in range(len(sets)):
        members = [raised[other] / total for other in range(len(sets)) if sets[other] == sets[layer]]
        assert action[layer] == pytest.approx(sum(members) / len(members))
    assert action.sum() == pytest.approx(1)
    assert (action > 0).all()


def test_equations_13_to_16():
    np.testing.assert_allclose(q_values(np.array([0.5, 0.8]), np.array([1.0, 0.0]), 0.9), [0.5 + 0.9, 0.8])


@exact
@given(st.lists(st.integers(0, 20), min_size=1, max_size=40), st.integers(1, 8))
def test_replay_buffer_keeps_the_best(values, slots):
    """Replacing the lowest, never by a lower one, keeps the highest values seen, whatever their order."""
    buffer = ReplayBuffer(slots)
    for i, value in enumerate(values):
        buffer.add(np.array([i]), value)
        assert len(buffer) == min(i + 1, slots)
    assert sorted(buffer.values) == sorted(values)[-slots:]
    for action, value in zip(buffer.actions, buffer.values, strict=True):
        assert values[action[0]] == value


def test_replay_buffer_by_hand():
    buffer = ReplayBuffer(2)
    for name, value in (("a", 0.5), ("b", 0.7), ("c", 0.4), ("d", 0.6), ("e", 0.9)):
        buffer.add(name, value)
    assert dict(zip(buffer.actions, buffer.values, strict=True)) == {"e": 0.9, "b": 0.7}


def test_equation_18_frequencies():
    buffer = ReplayBuffer(4)
    for i, value in enumerate((0.1, 0.9, 0.3, 0.2)):
        buffer.add(np.array([i]), value)
    rng = np.random.default_rng(0)
    chosen = np.bincount([choose(buffer, 0.4, rng)[0] for _ in range(20_000)], minlength=4) / 20_000
    np.testing.assert_allclose(chosen, [0.1, 0.7, 0.1, 0.1], atol=0.012)
    assert all(choose(buffer, 0.0, rng)[0] == 1 for _ in range(50))


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
def test_exploration_schedules(decay):
    values = [exploration(step, 100, 0.4, decay, 0.1) for step in range(100)]
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


def test_tree_of_depth_two_against_brute_force(tiny_task, env):
    """Q(s, a) = R(s') + 0.9 * max over the sampled a' of R(s''), every network scored in an environment of its own."""
    agent = RLPruner(env, replace(small, sample_steps=2), seed=3)
    agent.learn(4)  # sets the agent up; too few evaluations for a stage
    env.reset()
    env.step(env.uniform_action)
    here = env.snapshot()
    sampled: list[np.ndarray] = []
    original = agent.sample_action
    agent.sample_action = lambda: sampled.append(original()) or sampled[-1]
    agent._total_timesteps = 10**6
    actions, values = agent.sample_tree(here, 2)
    assert env.snapshot() is here
    assert len(sampled) == 3 + 3 * 3

    def reward_of(path: list[np.ndarray]) -> float:
        other = PruningEnv(tiny_task, sparsity=0.5, step_ratio=0.125, device="cpu")
        other.reset()
        other.step(env.uniform_action)
        for action in path:
            _, reward, *_ = other.step(agent.group_action(action).astype(np.float32))
        return reward

    np.testing.assert_array_equal(actions, sampled[:3])
    for i in range(3):
        deeper = sampled[3 + 3 * i : 6 + 3 * i]
        best = max(reward_of([sampled[i], action]) for action in deeper)
        assert values[i] == pytest.approx(reward_of([sampled[i]]) + 0.9 * best)


def test_tree_ends_where_the_episode_ends(tiny_task):
    env = PruningEnv(tiny_task, sparsity=0.1, step_ratio=0.2, device="cpu")
    agent = RLPruner(env, replace(small, sample_steps=3), seed=0)
    agent.learn(1)
    env.reset()
    agent._total_timesteps = 10**6
    evaluations = env.evaluations
    agent.sample_tree(env.snapshot(), 3)
    assert env.evaluations - evaluations == 3  # all three are terminal: nothing lies below them


def test_actions_of_sets_sum_over_their_layers(env):
    agent = RLPruner(env, small, seed=0)
    layers = [group.layers for group in env.graph.groups]
    assert len(agent.layer_policy) == sum(len(group) for group in layers)
    np.testing.assert_allclose(agent.group_action(agent.layer_policy), env.uniform_action)
    assert np.bincount(agent.sets).tolist() == [len(group) for group in layers]


def test_policy_update_reads_the_buffer(env):
    """One stage with epsilon 0: the policy moves by equations 19 and 20 towards the best sampled action."""
    config = replace(small, stages=1, samples=4, epsilon=0.0)
    agent = RLPruner(env, config, seed=5)
    steps = env.reset() and env.steps_left
    agent.learn(steps)
    agent._total_timesteps = 10**6
    env.reset()
    before = agent.layer_policy = initial_policy(agent.channels, agent.sets)
    seen = []
    original = agent.sample_tree
    agent.sample_tree = lambda at, depth: seen.append(original(at, depth)) or seen[-1]
    agent._sampled(0.0)
    ((actions, values),) = seen
    proposed = move_towards(before, actions[np.argmax(values)], config.step_size, config.min_probability)
    np.testing.assert_allclose(agent.layer_policy, clip_change(before, proposed, config.clip))


def test_released_code_updates_only_on_improvement(env):
    agent = RLPruner(env, replace(RLPrunerConfig.released_code(), stages=6, samples=3, reset_on_drop=None), seed=1)
    agent.learn(8)
    agent._total_timesteps = 10**6
    env.reset()
    history, values = [], []
    original = agent.sample_tree

    def spy(at, depth):
        history.append(agent.layer_policy.copy())
        result = original(at, depth)
        values.append(result[1].max())
        return result

    agent.sample_tree = spy
    agent._sampled(0.4)
    history.append(agent.layer_policy)
    best = -np.inf
    for stage, value in enumerate(values):
        changed = not np.array_equal(history[stage], history[stage + 1])
        assert changed == (value > best)
        best = max(best, value)


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
        ({"step_size": 0}, r"step_size: expected a number in \(0, 1\], got 0"),
        ({"clip": 1.5}, r"clip: expected a number in \(0, 1\), got 1.5"),
        ({"samples": 0}, "samples: expected an integer >= 1, got 0"),
        (
            {"epsilon_decay": "cosin"},
            "epsilon_decay: expected one of constant, linear, cosine; got .cosin",
        ),
        ({"noise_std": float("nan")}, r"noise_std: expected a number in \[0, inf\), got nan"),
    ],
)
def test_bad_settings(setting, message):
    with pytest.raises(ValueError, match=message):
        RLPrunerConfig(**setting)


# ---------------------------------------------------------------------------------------------- as an SB3 algorithm


class Recorder(BaseCallback):
    def __init__(self):
        super().__init__()
        self.timesteps, self.steps = [], []

    def _on_step(self) -> bool:
        self.timesteps.append(self.num_timesteps)
        if not self.locals["preview"]:
            self.steps.append(self.locals["infos"][0]["channel_sparsity"])
        return True


def test_learn_counts_evaluations_and_finishes(env):
    env.reset()
    steps = env.steps_left
    budget = steps * (small.stages * small.stage_cost + 1)
    recorder = Recorder()
    agent = RLPruner(env, small, seed=0).learn(budget, recorder)
    assert agent.num_timesteps == env.evaluations == budget
    assert recorder.timesteps == list(range(1, budget + 1))
    assert len(recorder.steps) == steps
    assert recorder.steps[-1] >= 0.5
    assert env.best is not None


@pytest.mark.parametrize("budget", [4, 7, 20, 61])
def test_any_budget_ends_with_a_whole_episode(env, budget):
    recorder = Recorder()
    agent = RLPruner(env, small, seed=0).learn(budget, recorder)
    assert agent.num_timesteps <= budget
    assert recorder.steps[-1] >= 0.5
    assert budget - agent.num_timesteps < 4  # too little for another episode


def test_too_small_a_budget_is_refused(env):
    with pytest.raises(ValueError, match="total_timesteps: expected at least 4 evaluations, one per pruning step, got 3"):
        RLPruner(env, small).learn(3)


def test_same_seed_same_search(tiny_task):
    def search(seed: int) -> tuple:
        env = PruningEnv(tiny_task, sparsity=0.5, step_ratio=0.125, device="cpu")
        agent = RLPruner(env, small, seed=seed).learn(40)
        return env.best.snapshot.architecture.digest, agent.layer_policy.tobytes(), env.best.reward

    assert search(0) == search(0)
    assert search(0)[1] != search(1)[1]


def test_evaluate_policy_repeats_the_best_episode(env):
    agent = RLPruner(env, small, seed=0).learn(60)
    mean, std = evaluate_policy(agent, agent.get_env(), n_eval_episodes=2, warn=False)
    assert std == 0
    env.reset()
    observation, terminated, rewards = env.reset()[0], False, []
    while not terminated:
        action, _ = agent.predict(observation)
        observation, reward, terminated, _, _ = env.step(action)
        rewards.append(reward)
    assert mean == pytest.approx(sum(rewards), abs=1e-5)
    assert rewards[-1] == env.best.reward
    assert env.architecture == env.best.snapshot.architecture


def test_callbacks_of_sb3_work(env, tiny_task, tmp_path):
    other = PruningEnv(tiny_task, sparsity=0.5, step_ratio=0.125, device="cpu")
    evaluate = EvalCallback(other, n_eval_episodes=1, eval_freq=30, log_path=str(tmp_path), verbose=0, warn=False)
    checkpoint = CheckpointCallback(25, str(tmp_path), "agent")
    agent = RLPruner(env, small, seed=0, tensorboard_log=str(tmp_path / "tb")).learn(60, [evaluate, checkpoint])
    assert np.isfinite(evaluate.best_mean_reward)
    assert (tmp_path / "agent_25_steps.zip").exists()
    assert list((tmp_path / "tb").rglob("events*"))
    loaded = RLPruner.load(tmp_path / "agent_50_steps.zip", env)
    assert loaded.num_timesteps == 50
    assert agent.num_timesteps > 50


def test_save_and_load(env, tmp_path):
    agent = RLPruner(env, small, seed=0).learn(40)
    agent.save(tmp_path / "agent")
    loaded = RLPruner.load(tmp_path / "agent.zip")
    assert loaded.config == small
    np.testing.assert_array_equal(loaded.layer_policy, agent.layer_policy)
    observation = env.reset()[0]
    np.testing.assert_array_equal(loaded.predict(observation)[0], agent.predict(observation)[0])
    unknown = np.full_like(observation, 0.123)
    np.testing.assert_allclose(loaded.predict(unknown)[0], agent.group_action(agent.layer_policy), rtol=1e-6)
    with pytest.raises(ValueError, match=r"env: this agent has no environment; load it with load\(path, env\)"):
        loaded.learn(40)
    loaded = RLPruner.load(tmp_path / "agent.zip", env)
    loaded.learn(40, reset_num_timesteps=False)
    assert 40 < agent.num_timesteps + 40 - 4 < loaded.num_timesteps <= agent.num_timesteps + 40

    (tmp_path / "foreign.zip").write_text("no zip")
    with pytest.raises(ValueError, match=r"foreign.zip: expected a saved RLPruner, but"):
        RLPruner.load(tmp_path / "foreign.zip")
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as file:
        file.writestr("data.json", '{"agent": "RandomAgent"}')
    with pytest.raises(ValueError, match="it holds a RandomAgent"):
        RLPruner.load(tmp_path / "other.zip")


def test_environments_that_do_not_fit(env):
    with pytest.raises(ValueError, match=r"env: RLPruner acts with sparsity distributions.*without SoftmaxAction"):
        RLPruner(SoftmaxAction(env))
    with pytest.raises(TypeError, match="env: expected a PruningEnv, got PendulumEnv"):
        RLPruner("Pendulum-v1")


def watched(agent: RLPruner) -> tuple[list[np.ndarray], int]:
    """The policies that every sampling of a step will start from, and how many steps an episode has."""
    starts, original = [], agent._sampled
    agent._sampled = lambda epsilon: starts.append(agent.layer_policy.copy()) or original(epsilon)
    agent.pruning_env.reset()
    return starts, agent.pruning_env.steps_left


def test_reset_on_drop_starts_the_step_anew(tiny_task):
    """With a limit that any pruning exceeds, every step is sampled twice, and the second time from the initial policy."""
    env = PruningEnv(tiny_task, sparsity=0.5, step_ratio=0.25, reward="accuracy", device="cpu")
    config = replace(small, reset_on_drop=1e-9, stages=1)
    agent = RLPruner(env, config, seed=0)
    starts, steps = watched(agent)
    agent.learn(steps * (2 * config.samples + 2))  # one episode: two samplings, the look at what the first gives, and the step
    assert env.best is not None
    assert len(starts) == 2 * steps
    first = initial_policy(agent.channels, agent.sets)
    assert all(np.array_equal(start, first) for start in starts[1::2])
    assert not any(np.array_equal(start, first) for start in starts[2::2])  # the next step goes on from the second one


def test_nothing_is_reset_where_accuracy_holds(tiny_task):
    env = PruningEnv(tiny_task, sparsity=0.5, step_ratio=0.25, reward="accuracy", device="cpu")
    config = replace(small, reset_on_drop=1 - 1e-9, stages=1)
    agent = RLPruner(env, config, seed=0)
    starts, steps = watched(agent)
    agent.learn(steps * (config.samples + 2))
    assert len(starts) == steps


@pytest.mark.parametrize("update", ["always", "on_improvement"])
@pytest.mark.parametrize("prune_with", ["policy", "sample"])
def test_epsilon_acts_once(env, monkeypatch, update, prune_with):
    """On what moves the policy, if that prunes; on what is pruned with, if that is a sample (eq 18)."""
    seen = []
    monkeypatch.setattr(rl_pruner, "choose", lambda buffer, epsilon, rng: seen.append(epsilon) or choose(buffer, epsilon, rng))
    config = replace(small, epsilon=0.5, epsilon_decay="constant", update=update, prune_with=prune_with, stages=2)
    agent = RLPruner(env, config, seed=0)
    env.reset()
    steps = env.steps_left
    agent.learn(config.evaluations(steps))
    if prune_with == "policy":
        assert set(seen) == {0.5}
    else:
        assert set(seen) == {0.0, 0.5}
        assert seen.count(0.5) == steps


def test_small_budgets_are_spread_over_the_steps(env):
    """Half of the evaluations that two stages per step need: one stage per step, not two in the first half of the steps."""
    env.reset()
    steps = env.steps_left
    recorder = Recorder()
    agent = RLPruner(env, small, seed=0)
    costs = []
    original = agent.act
    agent.act = lambda action: costs.append(agent.num_timesteps) or original(action)
    agent.learn(steps * (small.samples + 1), recorder)
    assert np.diff([0, *costs]).tolist() == [small.samples] + [small.samples + 1] * (steps - 1)


@pytest.mark.parametrize("rounding", ["paper", "carry", "largest_remainder"])
def test_the_planned_number_of_steps_is_enough(tiny_task, rounding):
    for seed in range(3):
        env = PruningEnv(tiny_task, sparsity=0.5, step_ratio=0.1, rounding=rounding, device="cpu")
        env.reset()
        planned = env.steps_left
        agent = RLPruner(env, small, seed=seed).learn(planned)
        assert agent.num_timesteps <= planned
        assert env.best is not None


def test_names_with_dots_are_different_files(env, tmp_path):
    agent = RLPruner(env, small, seed=0)
    for name in ("agent_0.1", "agent_0.2"):
        agent.save(tmp_path / name)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["agent_0.1.zip", "agent_0.2.zip"]
