"""Every registered environment through the same conformance test, and the environment's own promises."""

from __future__ import annotations

import copy
import pickle
import warnings

import gymnasium
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import check_env
from gymnasium.wrappers import RecordVideo
from stable_baselines3.common.env_checker import check_env as check_env_sb3

import prune_gym
from prune_gym.envs import PruningEnv, SoftmaxAction, TabularEnv
from prune_gym.registration import LIVE
from prune_gym.simulation.terms import Function
from prune_gym.testing import assert_same
from prune_gym.training.distillation import PostTraining


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


@pytest.mark.parametrize("name", ["PruneGym/Digits-v0", *(pytest.param(name, marks=pytest.mark.slow) for name in list(LIVE)[1:])])
def test_with_its_wrappers_and_by_its_long_id(name):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env = gymnasium.make(f"prune_gym:{name}", render_mode="rgb_array", device="cpu")
        check_env(env.unwrapped)  # which renders
        check_env_sb3(SoftmaxAction(gymnasium.make(name, device="cpu")))
    observation, _ = env.reset(seed=0)
    assert observation.dtype == np.float32
    assert (observation == 1).all()
    _, reward, terminated, truncated, info = env.step(env.action_space.sample())
    assert [type(reward), type(terminated), type(truncated)] == [float, bool, bool]
    reductions = {"flops_reduction", "params_reduction", "channel_sparsity"}
    assert set(info) == {"accuracy", "macs", "params", *reductions, "widths", "evaluations", "compute"}
    assert [type(info[name]) for name in ("macs", "params", "evaluations", "compute")] == [int] * 4


@pytest.mark.parametrize("name", LIVE)
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
    assert_same(again.step(env.uniform_action), env.step(env.uniform_action))


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
    assert_same([env.step(action)[:4] for action in actions], first)


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda state: pickle.loads(pickle.dumps(state))])
def test_a_copied_snapshot_leads_to_the_same_place(env, clone):
    action = np.random.default_rng(1).random(env.action_space.shape[0])
    env.step(action)
    here = env.snapshot()
    expected = env.step(action)[:4]
    env.restore(clone(here))
    assert_same(env.step(action)[:4], expected)


def test_carry_is_part_of_the_snapshot(tiny_task):
    env = PruningEnv(tiny_task, sparsity=0.4, step_ratio=0.03, rounding="carry", device="cpu")
    env.reset()
    action = np.random.default_rng(0).random(env.action_space.shape[0])
    env.step(action)
    here = env.snapshot()
    assert here.carry.any()
    widths = [env.step(action)[4]["widths"] for _ in range(3)]
    env.restore(here)
    assert_same([env.step(action)[4]["widths"] for _ in range(3)], widths)


def test_best_is_the_best_network_at_the_target(tiny_task):
    env = PruningEnv(tiny_task, sparsity=0.2, step_ratio=0.1, device="cpu")
    assert env.best is None
    rng = np.random.default_rng(2)
    accuracies = []
    for _ in range(3):
        env.reset()
        terminated = False
        while not terminated:
            for preview in env.preview(rng.random((2, env.action_space.shape[0]))):
                if preview.terminated:
                    accuracies.append(preview.score.accuracy)
            _, _, terminated, _, info = env.step(rng.random(env.action_space.shape[0]))
            if terminated:
                accuracies.append(info["accuracy"])
    assert env.best.terminated
    assert env.best.yardstick == env.best.score.accuracy == max(accuracies) > min(accuracies)
    assert env.best.score.channel_sparsity >= 0.2


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
    assert env.observation_space.shape == (4 + 5 * groups,) == (29,)
    start, info = env.reset()
    original = [
        *(0, info["accuracy"], 0, 0),
        *np.ones(5),
        *np.zeros(5),
        *np.array([8 * 2, 6 * 1, 6 * 4, 4 * 2, 10 * 1]) / 64,  # filters of the groups of TinyNet
        *np.array([8, 6, 6, 4, 10]) / 10,
        *(0, 0.25, 0.5, 0.75, 1),
    ]
    np.testing.assert_allclose(start, original, rtol=1e-6)
    action = np.array([0.2, 0.4, 0.0, 1.0, 0.6])
    observation, _, _, _, info = env.step(action)
    removed = [2, 1, 4, 2, 1] @ ([8, 6, 6, 4, 10] - info["widths"])
    expected = original.copy()
    expected[:4] = removed / 32, info["accuracy"], info["flops_reduction"], info["params_reduction"]
    expected[4:9] = info["widths"] / [8, 6, 6, 4, 10]
    expected[9:14] = action / 2.2
    np.testing.assert_allclose(observation, expected, rtol=1e-6)
    assert 0 < removed < 32
    assert env.observation_space.contains(observation)
    assert observation.dtype == np.float32


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
        (lambda n: np.eye(n)[1] * 1.5, r"action: expected numbers <= 1, got 1.5 for group 1; .* divide it by its largest number"),
        (lambda n: np.full(n, 1 + 2e-6), r"action: expected numbers <= 1, got 1.000002 for group 0"),
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
        ({"yardstick": "acuracy"}, "yardstick: expected one of accuracy; got 'acuracy'. Did you mean 'accuracy'?"),
        ({"precision": "float31"}, "precision: expected one of float32, bfloat16; got 'float31'. Did you mean 'float32'?"),
        ({"posttraining": {"epoch": 1}}, "posttraining: expected one of epochs, .*; got 'epoch'. Did you mean 'epochs'?"),
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
    before = env.snapshot()
    with pytest.raises(ValueError, match="snapshot: expected a state of this environment, but its network is another one"):
        env.restore(other.snapshot())
    assert env.snapshot() is before


def test_settings_of_other_names_and_kinds(tiny_task):
    for make in (PruningEnv, lambda **settings: gymnasium.make("PruneGym/Digits-v0", **settings)):
        with pytest.raises(
            TypeError, match=r"keyword: expected one of task, sparsity, .*; got 'sparcity'. Did you mean 'sparsity'\?"
        ):
            make(sparcity=0.5)
    with pytest.raises(TypeError, match=r"reward: expected a function of \(before, after, baseline\), got <lambda>\(after\)"):
        PruningEnv(tiny_task, reward=lambda after: after.accuracy)
    with pytest.raises(TypeError, match=r"yardstick: expected a function of \(after, baseline\), got <lambda>\(a, b, c\)"):
        PruningEnv(tiny_task, yardstick=lambda a, b, c: 1.0)


@pytest.mark.parametrize("name", ["reward", "yardstick"])
@pytest.mark.parametrize(
    ("value", "error"), [(None, TypeError), ("0.5", TypeError), (np.zeros(2), TypeError), (np.nan, ValueError)]
)
def test_functions_must_give_finite_numbers(tiny_task, name, value, error):
    env = PruningEnv(tiny_task, sparsity=0.5, step_ratio=0.2, device="cpu", **{name: lambda *scores: value})
    env.reset()
    for call in (lambda: env.step(env.uniform_action), lambda: env.preview([env.uniform_action])):
        with pytest.raises(error, match=f"{name}: expected a finite number, got .* for Score"):
            call()
    assert env.snapshot().steps == 0


@pytest.mark.parametrize(("seed", "error"), [(-1, ValueError), (1.5, ValueError), ("1", TypeError)])
def test_bad_seeds(env, seed, error):
    with pytest.raises(error, match=f"seed: expected an integer >= 0, got {seed!r}"):
        env.reset(seed=seed)


def test_seeds_are_for_wrappers(env):
    draws = []
    for seed in (0, np.int64(7), 7):
        env.reset(seed=seed)
        draws.append(float(env.np_random.random()))
    assert draws[0] != draws[1] == draws[2]
    env.reset()
    assert float(env.np_random.random()) != draws[2]  # goes on


def test_actions_may_be_above_one_by_rounding(env):
    n = env.action_space.shape[0]
    env.step(np.full(n, 1 + 1e-7))
    expected = env.architecture
    env.reset()
    env.step(np.ones(n, np.float32))
    assert env.architecture == expected


def test_previews_of_something_else(env):
    with pytest.raises(TypeError, match=r"actions: expected a sequence of actions or an array .* got int"):
        env.preview(5)
    assert env.preview([]) == []


# ------------------------------------------------------------------------------------------------ the yardstick


def test_best_does_not_compare_rewards_of_different_states(tiny_task):
    """A step that wins back accuracy that the one before lost has a high reward, and not a good network."""
    env = PruningEnv(tiny_task, 0.2, 0.1, reward=lambda before, after, baseline: after.accuracy - before.accuracy, device="cpu")
    rng = np.random.default_rng(1)
    ends = []
    for _ in range(8):
        env.reset()
        terminated = False
        while not terminated:
            _, reward, terminated, _, info = env.step(rng.random(5))
        ends.append((info["accuracy"], reward))
    by_reward = max(ends, key=lambda end: end[1])
    assert env.best.score.accuracy == max(accuracy for accuracy, _ in ends) > by_reward[0]


def test_a_yardstick_of_ones_own(tiny_task):
    seen = []

    def fewest_params(after, baseline):
        seen.append((after, baseline))
        return -after.params

    env = PruningEnv(tiny_task, sparsity=0.5, step_ratio=1.0, yardstick=fewest_params, device="cpu")
    env.reset()
    previews = env.preview(np.eye(5)[[0, 4, 2, 4]])
    assert [preview.yardstick for preview in previews] == [-preview.score.params for preview in previews]
    assert env.best is min(previews, key=lambda preview: preview.score.params)
    assert seen == [(preview.score, env.simulator.baseline) for preview in previews]
    assert type(env.best.yardstick) is float


def test_the_first_of_equal_networks_is_the_best(tiny_task):
    env = PruningEnv(tiny_task, sparsity=0.5, step_ratio=1.0, yardstick=lambda after, baseline: 1.0, device="cpu")
    env.reset()
    first, _ = env.preview(np.eye(5)[[0, 4]])
    env.step(np.eye(5)[2])
    assert env.best is first


# ------------------------------------------------------------------------------------------------ vectors


def test_vector_rewards(tiny_task):
    env = PruningEnv(tiny_task, sparsity=0.5, step_ratio=0.2, reward="vector", device="cpu")
    env.reset()
    (preview,) = env.preview([env.uniform_action])
    _, reward, _, _, info = env.step(env.uniform_action)
    assert env.reward_space == gymnasium.spaces.Box(0.0, 1.0, (3,), np.float32)
    assert env.reward_dim == 3
    assert env.reward_space.contains(reward)
    np.testing.assert_array_equal(reward, np.float32([info["accuracy"], info["flops_reduction"], info["params_reduction"]]))
    np.testing.assert_array_equal(preview.reward, reward)
    assert len(set(reward.tolist())) == 3
    assert "reward" not in info


def test_wrappers_may_write_to_vector_rewards(tiny_task):
    env = PruningEnv(tiny_task, sparsity=0.5, step_ratio=1.0, reward="vector", device="cpu")
    env.reset()
    _, reward, *_ = env.step(env.uniform_action)
    reward[:] = -1
    assert (env.best.reward >= 0).all()
    assert env.best.reward[0] == np.float32(env.best.score.accuracy)


def test_numbers_have_no_reward_space(env):
    assert not hasattr(env, "reward_space")
    assert not hasattr(env, "reward_dim")


def test_multi_objective_wrappers_run_unmodified(tiny_task):
    wrappers = pytest.importorskip("mo_gymnasium.wrappers")
    make = {"sparsity": 0.5, "step_ratio": 0.2, "reward": "vector", "device": "cpu"}
    linear = wrappers.LinearReward(PruningEnv(tiny_task, **make), weight=np.array([0.5, 0.25, 0.25]))
    linear.reset()
    _, reward, _, _, info = linear.step(linear.unwrapped.uniform_action)
    assert reward == pytest.approx(0.5 * info["accuracy"] + 0.25 * (info["flops_reduction"] + info["params_reduction"]))
    recorded = wrappers.MORecordEpisodeStatistics(wrappers.MOClipReward(PruningEnv(tiny_task, **make), 0, 0, 0.1), gamma=0.9)
    recorded.reset()
    terminated, rewards = False, []
    while not terminated:
        _, reward, terminated, _, info = recorded.step(recorded.unwrapped.uniform_action)
        rewards.append(reward)
    np.testing.assert_allclose(info["episode"]["r"], np.sum(rewards, axis=0), rtol=1e-6)
    np.testing.assert_allclose(info["episode"]["dr"], sum(0.9**t * r for t, r in enumerate(rewards)), rtol=1e-6)


def test_an_algorithm_of_morl_baselines_runs_unmodified():
    capql = pytest.importorskip("morl_baselines.multi_policy.capql.capql")
    made = [SoftmaxAction(TabularEnv("digits-mobilenet", reward="vector", macs_reduction=0.6, step_ratio=0.2)) for _ in range(2)]
    agent = capql.CAPQL(made[0], learning_starts=20, batch_size=16, net_arch=[16, 16], log=False, seed=0, device="cpu")
    agent.train(
        total_timesteps=40,
        eval_env=made[1],
        ref_point=np.zeros(3),
        num_eval_weights_for_front=3,
        num_eval_weights_for_eval=3,
        num_eval_episodes_for_front=1,
        eval_freq=1000,
    )
    assert made[0].unwrapped.evaluations == 40
    assert made[0].unwrapped.best.terminated


# ------------------------------------------------------------------------------------------------ specs, pickles and copies


@pytest.mark.parametrize("posttraining", [{"epochs": 1, "period": 2}, PostTraining(epochs=1, period=2)])
def test_specs_survive_json(posttraining):
    made = gymnasium.make("PruneGym/Digits-v0", sparsity=0.25, posttraining=posttraining, device="cpu")
    spec = EnvSpec.from_json(SoftmaxAction(made, scale=1.5).spec.to_json())
    again = gymnasium.make(spec)
    assert isinstance(again.env, gymnasium.Wrapper)
    assert again.get_wrapper_attr("scale") == 1.5
    assert again.unwrapped.simulator.posttraining == PostTraining(epochs=1, period=2)
    assert again.unwrapped.simulator.process == made.unwrapped.simulator.process
    assert made.unwrapped.spec.kwargs["sparsity"] == 0.25


def test_functions_are_in_no_json():
    env = gymnasium.make("PruneGym/Digits-v0", reward=lambda before, after, baseline: 1.0, device="cpu")
    with pytest.raises(TypeError, match="not JSON serializable"):
        env.spec.to_json()
    assert env.unwrapped.reward == Function(env.spec.kwargs["reward"])
    assert gymnasium.make(env.spec).unwrapped.reward == env.unwrapped.reward


def test_pickled_snapshots_are_small_and_lead_on(env, tiny_task):
    for action in np.random.default_rng(0).random((3, 5)):
        env.step(action)
    content = pickle.dumps(env.snapshot())
    assert len(content) < 1500
    here, expected = env.architecture, env.step(env.uniform_action)[:4]
    again = pickle.loads(content)
    assert again.architecture == here
    env.restore(again)
    assert env.architecture == here
    assert env.architecture.graph is env.graph
    assert_same(env.step(env.uniform_action)[:4], expected)
    other = PruningEnv(tiny_task, sparsity=0.5, step_ratio=0.1, device="cpu")
    other.restore(again)
    assert_same(other.step(env.uniform_action)[:4], expected)


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda env: pickle.loads(pickle.dumps(env))])
def test_copied_environments_stand_on_their_own_graph(env, clone):
    assert clone(PruningEnv(env.task, 0.5, 0.1, device="cpu")).best is None
    while not env.simulator.is_terminal(env.snapshot()):
        env.step(env.uniform_action)
    again = clone(env)
    assert again.graph is not env.graph
    assert again.architecture.graph is again.best.snapshot.architecture.graph is again.graph
    assert again.architecture == env.architecture == again.best.snapshot.architecture
    assert again.best.yardstick == env.best.yardstick
    again.reset()
    again.restore(env.snapshot())
    assert again.evaluations == env.evaluations


@pytest.mark.parametrize("change", [{"sparsity": 0.3}, {"step_ratio": 0.2}, {"rounding": "paper"}])
def test_restore_refuses_a_state_of_another_schedule(env, tiny_task, change):
    other = PruningEnv(tiny_task, **{"sparsity": 0.5, "step_ratio": 0.1, "device": "cpu", **change})
    other.reset()
    other.step(other.uniform_action)
    with pytest.raises(ValueError, match="snapshot: expected a state of this environment, but its schedule is another one"):
        env.restore(other.snapshot())
    assert env.snapshot().steps == 0


def test_steps_left_counts_down(env):
    left = [env.steps_left]
    while not env.simulator.is_terminal(env.snapshot()):
        env.step(env.uniform_action)
        left.append(env.steps_left)
    assert left == [6, 5, 4, 3, 2, 1, 0]  # 32 filters, 6 at a time


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
