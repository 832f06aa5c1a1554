"""Every registered environment through the same conformance test, and the environment's own promises."""

from __future__ import annotations

import copy
import pickle
import warnings

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.wrappers import RecordVideo
from stable_baselines3.common.env_checker import check_env as check_env_sb3

import prune_gym
from prune_gym.envs import PruningEnv, SoftmaxAction
from prune_gym.registration import ENVIRONMENTS


@pytest.fixture
def env(tiny_task):
    made = PruningEnv(tiny_task, sparsity=0.5, step_ratio=0.1, device="cpu")
    made.reset(seed=0)
    return made


def rollout(env: gymnasium.Env, seed: int) -> list:
    """One seeded episode of random actions, everything that came out of it."""
    env.action_space.seed(seed)
    out = [env.reset(seed=seed)]
    done = False
    while not done:
        result = env.step(env.action_space.sample())
        done = result[2]
        out.append(result)
    return out


def assert_equal(a: object, b: object) -> None:
    assert type(a) is type(b)
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_equal(a[key], b[key])
    elif isinstance(a, list | tuple):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_equal(x, y)
    elif isinstance(a, np.ndarray):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)
    else:
        assert a == b


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_conformance(name):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env = gymnasium.make(name, render_mode="rgb_array", device="cpu")
        check_env(env.unwrapped)
        check_env_sb3(SoftmaxAction(gymnasium.make(name, device="cpu")))
        assert_equal(rollout(env, 3), rollout(gymnasium.make(f"prune_gym:{name}", device="cpu"), 3))
    observation, _ = env.reset(seed=0)
    assert observation.dtype == np.float32
    assert (observation == 1).all()
    _, reward, terminated, truncated, info = env.step(env.action_space.sample())
    assert [type(reward), type(terminated), type(truncated)] == [float, bool, bool]
    assert set(info) == {"accuracy", "flops_reduction", "params_reduction", "channel_sparsity", "widths", "evaluations"}


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_base_network_and_episode(name):
    env = gymnasium.make(name, sparsity=0.3, step_ratio=0.1, device="cpu")
    _, info = env.reset()
    assert info["accuracy"] >= 0.97
    assert info["evaluations"] == 0
    steps = rollout(env, 0)[1:]
    sparsities = [info["channel_sparsity"] for *_, info in steps]
    assert sparsities == sorted(sparsities)
    assert sparsities[-1] == pytest.approx(0.3, abs=0.005)
    assert [info["evaluations"] for *_, info in steps] == list(range(1, len(steps) + 1))
    assert [terminated for _, _, terminated, _, _ in steps] == [False] * (len(steps) - 1) + [True]


def test_pickling_keeps_the_state(env):
    env.step(env.uniform_action)
    again = pickle.loads(pickle.dumps(env))
    assert_equal(again.step(env.uniform_action), env.step(env.uniform_action))


def test_step_does_what_preview_said(env):
    rng = np.random.default_rng(0)
    while True:
        actions = rng.random((4, env.action_space.shape[0]))
        before = env.snapshot()
        previews = env.preview(actions)
        assert env.snapshot() is before
        _, reward, terminated, _, info = env.step(actions[2])
        assert reward == previews[2].reward
        assert terminated is previews[2].terminated
        assert info["accuracy"] == previews[2].score.accuracy
        assert env.architecture == previews[2].snapshot.architecture
        if terminated:
            break


def test_preview_counts_every_candidate(env):
    action = env.uniform_action
    env.preview([action] * 5)
    assert env.evaluations == 5
    *_, info = env.step(action)
    assert env.evaluations == info["evaluations"] == 6
    _, info = env.reset()
    assert (env.evaluations, info["evaluations"]) == (6, 0)


def test_snapshot_and_restore_are_exact(env):
    rng = np.random.default_rng(1)
    actions = rng.random((3, env.action_space.shape[0]))
    env.step(actions[0])
    here = env.snapshot()
    first = [env.step(action)[:4] for action in actions]
    observation, info = env.restore(here)
    np.testing.assert_array_equal(info["widths"], here.architecture.widths)
    np.testing.assert_array_equal(observation, (here.architecture.widths / env.graph.widths).astype(np.float32))
    assert_equal([env.step(action)[:4] for action in actions], first)


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda state: pickle.loads(pickle.dumps(state))])
def test_a_copied_snapshot_leads_to_the_same_place(env, clone):
    action = np.random.default_rng(1).random(env.action_space.shape[0])
    env.step(action)
    here = env.snapshot()
    expected = env.step(action)[:4]
    env.restore(clone(here))
    assert_equal(env.step(action)[:4], expected)


def test_carry_is_part_of_the_snapshot(tiny_task):
    env = PruningEnv(tiny_task, sparsity=0.4, step_ratio=0.03, rounding="carry", device="cpu")
    env.reset()
    action = np.random.default_rng(0).random(env.action_space.shape[0])
    env.step(action)
    here = env.snapshot()
    assert here.carry.any()
    widths = [env.step(action)[4]["widths"] for _ in range(3)]
    env.restore(here)
    assert_equal([env.step(action)[4]["widths"] for _ in range(3)], widths)


def test_best_is_the_best_network_at_the_target(env):
    assert env.best is None
    rng = np.random.default_rng(2)
    rewards = []
    for _ in range(3):
        env.reset()
        terminated = False
        while not terminated:
            for preview in env.preview(rng.random((2, env.action_space.shape[0]))):
                if preview.terminated:
                    rewards.append(preview.reward)
            _, reward, terminated, _, _ = env.step(rng.random(env.action_space.shape[0]))
            if terminated:
                rewards.append(reward)
    assert env.best.terminated
    assert env.best.reward == max(rewards)
    assert env.best.score.channel_sparsity >= 0.5


def test_reward_callable_sees_before_after_and_baseline(tiny_task):
    seen = []

    def reward(before, after, baseline):
        seen.append((before, after, baseline))
        return after.channel_sparsity - before.channel_sparsity

    env = PruningEnv(tiny_task, sparsity=0.5, step_ratio=0.2, reward=reward, device="cpu")
    env.reset()
    _, first, *_ = env.step(env.uniform_action)
    _, second, _, _, info = env.step(env.uniform_action)
    assert first + second == pytest.approx(info["channel_sparsity"])
    assert seen[1][0] == seen[0][1]
    assert seen[0][0] == seen[0][2] == seen[1][2] == env.simulator.baseline


def test_full_observation(tiny_task):
    env = PruningEnv(tiny_task, sparsity=0.5, step_ratio=0.2, observation="full", device="cpu")
    groups = len(env.graph.groups)
    observation, _ = env.reset()
    assert observation.shape == (4 + 5 * groups,)
    assert observation[0] == 0
    np.testing.assert_array_equal(observation[4 : 4 + groups], 1)
    np.testing.assert_array_equal(observation[4 + groups : 4 + 2 * groups], 0)
    action = np.arange(1.0, groups + 1)
    observation, _, _, _, info = env.step(action)
    assert observation[1] == np.float32(info["accuracy"])
    assert observation[2] == np.float32(info["flops_reduction"])
    np.testing.assert_allclose(observation[4 + groups : 4 + 2 * groups], action / action.sum(), rtol=1e-6)
    assert env.observation_space.contains(observation)


def test_reward_on_the_test_split(tiny_task):
    env = PruningEnv(tiny_task, sparsity=0.5, step_ratio=0.2, reward_split="test", device="cpu")
    env.reset()
    assert env.simulator.scorer.split.labels.equal(tiny_task.test.labels)


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (np.ones(2), r"action: expected one number for each of \d+ groups, shape \(\d+,\); got shape \(2,\)"),
        (lambda n: np.full(n, np.nan), "action: expected finite numbers, got nan for group 0"),
        (lambda n: np.linspace(-0.5, 1, n), r"action: expected numbers >= 0, got -0.5 for group 0"),
        (lambda n: np.array(["a"] * n), "action: expected real numbers, got dtype <U1"),
    ],
)
def test_bad_actions_change_nothing(env, action, message):
    env.step(env.uniform_action)
    before = env.snapshot()
    bad = action(env.action_space.shape[0]) if callable(action) else action
    for call in (lambda: env.step(bad), lambda: env.preview([env.uniform_action, bad])):
        with pytest.raises(ValueError, match=message):
            call()
    assert env.snapshot() is before
    assert env.evaluations == 1


def test_step_needs_a_running_episode(tiny_task):
    env = PruningEnv(tiny_task, sparsity=0.1, step_ratio=0.5, device="cpu")
    for call in (lambda: env.step(env.uniform_action), lambda: env.preview([env.uniform_action]), env.snapshot):
        with pytest.raises(RuntimeError, match=r"call reset\(\) first"):
            call()
    env.reset()
    *_, terminated, _, _ = env.step(env.uniform_action)
    assert terminated
    with pytest.raises(RuntimeError, match="step: the episode has ended"):
        env.step(env.uniform_action)
    with pytest.raises(RuntimeError, match="preview: the episode has ended"):
        env.preview([env.uniform_action])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"task": "digit"}, "task: expected one of .*; got 'digit'. Did you mean 'digits'?"),
        ({"sparsity": 1.0}, r"sparsity: expected a number in \(0, 1\), got 1.0"),
        ({"sparsity": 0.999}, "sparsity: 0.999 cannot be reached .* the largest that can is 0.8"),
        ({"step_ratio": 0}, r"step_ratio: expected a number in \(0, 1\], got 0"),
        ({"reward": "acuracy"}, "reward: expected one of .*; got 'acuracy'. Did you mean 'accuracy'?"),
        ({"reward": "flops", "reward_weights": (1, 0, 0)}, "reward_weights: expected None unless reward is 'paper'"),
        ({"reward_split": "train"}, "reward_split: expected one of val, test; got 'train'"),
        ({"observation": "ful"}, "observation: .* Did you mean 'full'?"),
        ({"rounding": "papr"}, "rounding: .* Did you mean 'paper'?"),
        ({"importance": "tailor"}, "importance: .* Did you mean 'taylor'?"),
        ({"device": "cdua"}, "device: expected one of .*; got 'cdua'. Did you mean 'cuda'?"),
        ({"render_mode": "human"}, "render_mode: expected one of rgb_array, ansi; got 'human'"),
    ],
)
def test_bad_settings(tiny_task, settings, message):
    with pytest.raises(ValueError, match=message):
        PruningEnv(**({"task": tiny_task, "device": "cpu"} | settings))


def test_the_largest_reachable_sparsity_is_reached(tiny_task):
    largest = np.floor(tiny_task.graph.max_sparsity * 1e4) / 1e4
    env = PruningEnv(tiny_task, sparsity=largest, step_ratio=0.3, device="cpu")
    *_, info = rollout(env, 0)[-1]
    assert info["channel_sparsity"] >= largest
    assert (info["widths"] >= 1).all()


def test_restore_refuses_what_is_not_its_own(env):
    with pytest.raises(TypeError, match="snapshot: expected what snapshot"):
        env.restore("a snapshot")
    other = PruningEnv("digits", device="cpu")
    other.reset()
    with pytest.raises(ValueError, match="architecture: expected one of this graph"):
        env.restore(other.snapshot())


def test_rendering(tiny_task, tmp_path):
    env = PruningEnv(tiny_task, sparsity=0.5, step_ratio=0.25, render_mode="rgb_array", device="cpu")
    video = RecordVideo(env, str(tmp_path / "video"), disable_logger=True)
    video.reset()
    before = env.render()
    video.step(env.uniform_action)
    after = env.render()
    video.close()
    assert before.shape == after.shape == (480, 800, 3)
    assert before.dtype == np.uint8
    assert (before != after).any()
    assert [path.suffix for path in (tmp_path / "video").iterdir()] == [".mp4"]

    text = PruningEnv(tiny_task, sparsity=0.5, step_ratio=0.25, render_mode="ansi", device="cpu")
    text.reset()
    text.step(text.uniform_action)
    lines = text.render().splitlines()
    assert len(lines) == 1 + len(text.graph.groups)
    for line, group, width in zip(lines[1:], text.graph.groups, text.architecture.widths, strict=True):
        assert line.startswith(group.name)
        assert line.endswith(f"{width}/{group.width}")


def test_registration_survives_a_second_import():
    before = dict(gymnasium.registry)
    prune_gym.registration.register()
    assert gymnasium.registry == before
