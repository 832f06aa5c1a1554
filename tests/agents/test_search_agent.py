"""Search agents as algorithms of Stable-Baselines3: learn, predict, save, load, callbacks, and environments that do not fit."""

from __future__ import annotations

import json
import zipfile

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.wrappers import (
    ClipReward,
    NormalizeReward,
    RecordEpisodeStatistics,
    TransformAction,
    TransformObservation,
    TransformReward,
)
from stable_baselines3.common.callbacks import BaseCallback, CheckpointCallback, EvalCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from prune_gym.agents import (
    CMAESAgent,
    GlobalTaylorAgent,
    Lookahead,
    RandomAgent,
    RLPruner,
    RLPrunerConfig,
    SearchAgent,
    UniformAgent,
)
from prune_gym.envs import PruningEnv, SoftmaxAction

SMALL = RLPrunerConfig(stages=2, samples=3)
AGENTS = [UniformAgent, GlobalTaylorAgent, RandomAgent, CMAESAgent, RLPruner, Lookahead]


@pytest.fixture
def env(tiny_task):
    return PruningEnv(tiny_task, sparsity=0.5, step_ratio=0.125, device="cpu")


class Greedy(SearchAgent):
    """Takes the best of seven random actions at every step."""

    def search(self, env):
        for _ in env.episodes():
            while not env.finished:
                previews = env.preview(self.rng.dirichlet(np.ones(len(env.graph.groups)), 7))
                env.step(max(previews, key=lambda preview: preview.reward).snapshot.action)


@pytest.mark.parametrize("budget", [4, 9, 32, 39, 60])
def test_no_search_exceeds_its_budget(env, budget):
    agent = Greedy(env, seed=0).learn(budget)
    assert env.evaluations == agent.num_timesteps <= budget
    assert budget - agent.num_timesteps < 7 + 4


def test_a_timestep_is_an_evaluation(env):
    class Recorder(BaseCallback):
        timesteps, rewards, previews, dones = (), (), (), ()
        progress = ()

        def _on_step(self) -> bool:
            self.timesteps += (self.num_timesteps,)
            self.rewards += (self.locals["rewards"][0],)
            self.previews += (self.locals["kind"] == "preview",)
            self.dones += (bool(self.locals["dones"][0]),)
            self.progress += (self.model._current_progress_remaining,)
            assert self.locals["actions"].shape == (1, 5)
            return True

    recorder = Recorder()
    agent = Greedy(env, seed=0).learn(64, recorder)
    assert recorder.timesteps == tuple(range(1, 65))
    assert recorder.previews == ((True,) * 7 + (False,)) * 8
    assert [i for i, done in enumerate(recorder.dones) if done] == [31, 63]
    assert agent._episode_num == 2
    assert recorder.progress[0] == pytest.approx(1 - 1 / 64)
    assert recorder.rewards[63] == pytest.approx(env.score().accuracy)
    assert len(agent.ep_info_buffer) == 2


def test_a_callback_stops_the_search(env):
    class Stop(BaseCallback):
        def _on_step(self) -> bool:
            return self.num_timesteps < 9

    agent = RandomAgent(env, seed=0).learn(60, Stop())
    assert agent.num_timesteps == env.evaluations == 9
    assert agent.best is not None  # of the two episodes that were finished


def test_going_on_adds_timesteps(env):
    agent = RandomAgent(env, seed=0).learn(8)
    agent.learn(8, reset_num_timesteps=False)
    assert agent.num_timesteps == env.evaluations == 16
    agent.learn(8)
    assert agent.num_timesteps == 8


def test_too_small_a_budget_is_refused(env):
    for agent in AGENTS:
        with pytest.raises(ValueError, match="total_timesteps: expected at least 4 evaluations, one per pruning step, got 3"):
            agent(env).learn(3)


@pytest.mark.parametrize(("budget", "error"), [(7.5, ValueError), ("9", TypeError), (None, TypeError), (True, TypeError)])
def test_a_budget_is_an_integer(env, budget, error):
    with pytest.raises(error, match=r"total_timesteps: expected an integer >= 0, got "):
        UniformAgent(env).learn(budget)


# ----------------------------------------------------------------------------------------------- the plan is the agent's


def follow(agent: SearchAgent, env: PruningEnv) -> list[np.ndarray]:
    """The actions of an episode by ``predict``."""
    observation, taken, terminated = env.reset()[0], [], False
    while not terminated:
        taken.append(agent.predict(observation)[0])
        observation, _, terminated, _, _ = env.step(taken[-1])
    return taken


def test_agents_in_one_environment_keep_their_own_plans(env):
    """Whoever found the best network in it."""
    found = {}
    for make in (lambda: RLPruner(env, SMALL, seed=0), lambda: UniformAgent(env), lambda: RandomAgent(env, seed=3)):
        agent = make().learn(60)
        found[agent] = agent.best
    assert len({id(best) for best in found.values()}) == 3
    for agent, best in found.items():
        taken = follow(agent, env)
        np.testing.assert_allclose(taken, [state.action for state in best.snapshot.trajectory()[1:]], atol=1e-7)
        assert env.architecture == best.snapshot.architecture
    uniform = next(agent for agent in found if isinstance(agent, UniformAgent))
    np.testing.assert_allclose(follow(uniform, env), [env.uniform_action] * 4, atol=1e-6)


@pytest.mark.parametrize("observation", ["architecture", "full"])
def test_evaluate_policy_repeats_the_best_episode(tiny_task, observation):
    env = PruningEnv(tiny_task, sparsity=0.5, step_ratio=0.125, observation=observation, device="cpu")
    agent = RLPruner(env, SMALL, seed=0).learn(60)
    mean, std = evaluate_policy(agent, agent.get_env(), n_eval_episodes=2, warn=False)
    assert std == 0
    follow(agent, env)
    assert env.architecture == agent.best.snapshot.architecture == env.best.snapshot.architecture
    states = agent.best.snapshot.trajectory()[1:]
    assert mean == pytest.approx(sum(score.accuracy for score in env.simulator.scores(states)), abs=1e-5)


def test_a_worse_network_found_later_changes_no_plan(env):
    agent = RandomAgent(env, seed=0).learn(60)
    best, plan = agent.best, dict(agent.plan)
    agent.learn(4)
    assert agent.best.yardstick >= best.yardstick
    if agent.best is best:
        assert agent.plan.keys() == plan.keys()
    assert len(agent.plan) == 4


def test_a_better_network_found_later_changes_the_plan(tiny_task):
    class OneAction(SearchAgent):
        def search(self, env):
            while not env.finished:
                env.step(self.action)

    options = {"sparsity": 0.5, "step_ratio": 0.125, "yardstick": lambda after, _: after.flops_reduction}
    env = PruningEnv(tiny_task, device="cpu", **options)
    agent = OneAction(env)
    agent.action = np.array([0, 1, 1, 1, 1])
    worse = agent.learn(4).best
    agent.action = np.array([0.5, 0, 0, 0, 1])
    better = agent.learn(4).best
    assert better.yardstick > worse.yardstick
    assert follow(agent, env)[0].tolist() == [0.5, 0, 0, 0, 1]


def test_the_environment_is_left_as_the_search_left_it(env):
    UniformAgent(env).learn(4)
    assert env.steps_left == 0


def test_predict_takes_batches_and_unknown_observations(env):
    agent = GlobalTaylorAgent(env).learn(4)
    first = env.reset()[0]
    unknown = np.full_like(first, 0.123)
    actions, state = agent.predict(np.stack([first, unknown]))
    np.testing.assert_array_equal(actions[0], agent.predict(first)[0])
    np.testing.assert_allclose(actions[1], env.uniform_action, rtol=1e-6)
    assert (actions.dtype, state) == (np.float32, None)
    with pytest.raises(TypeError, match="observation: expected an array, got a dict"):
        agent.predict({"a": first})


# ------------------------------------------------------------------------------------------------------- save and load


@pytest.mark.parametrize("kind", AGENTS)
def test_save_and_load(kind, env, tmp_path):
    agent = kind(env, seed=0).learn(40)
    agent.save(tmp_path / "agent")
    observation = env.reset()[0]
    for loaded in (kind.load(tmp_path / "agent.zip"), kind.load(tmp_path / "agent", env)):
        np.testing.assert_array_equal(loaded.predict(observation)[0], agent.predict(observation)[0])
        assert loaded.num_timesteps == agent.num_timesteps
    loaded = kind.load(tmp_path / "agent")
    with pytest.raises(ValueError, match=r"env: this agent has no environment; load it with load\(path, env\), or call set_env"):
        loaded.learn(40)
    loaded.set_env(env)
    loaded.learn(40, reset_num_timesteps=False)
    assert agent.num_timesteps < loaded.num_timesteps <= agent.num_timesteps + 40


def test_a_loaded_agent_draws_what_the_saved_one_would(env, tmp_path):
    agent = RandomAgent(env, seed=0).learn(8)
    agent.save(tmp_path / "agent")
    loaded = RandomAgent.load(tmp_path / "agent", env)
    assert loaded.rng.random() == agent.rng.random()


def test_saving_twice_gives_the_same_bytes(env, tmp_path):
    agent = RandomAgent(env, seed=0).learn(8)
    for name in ("a.zip", "b.zip"):
        agent.save(tmp_path / name)
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()


def test_names_with_dots_are_different_files(env, tmp_path):
    agent = UniformAgent(env)
    for name in ("agent_0.1", "agent_0.2"):
        agent.save(tmp_path / name)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["agent_0.1.zip", "agent_0.2.zip"]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ({"agent": "RLPruner"}, "it holds a RLPruner"),
        ({"num_timesteps": -1}, "num_timesteps: expected an integer >= 0, got -1"),
        ({"num_timesteps": 1e300}, "num_timesteps: expected an integer"),
        ({"group_filters": {"a": "b"}}, "filters of a: expected an integer"),
        ({"group_filters": []}, "has no attribute"),
        ({"plan": [["00", [1.0]]]}, "an action in its plan does not fit the network"),
        ({"plan": [["00", [float("nan")] * 5]]}, "NaN is no JSON"),
        ({"plan": [["xx", [0.2] * 5]]}, "non-hexadecimal"),
        ({"plan": 3}, "not iterable"),
        ({"rng": {"bit_generator": "PCG64", "state": {"state": 10**80, "inc": 1}, "has_uint32": 0, "uinteger": 0}}, ""),
        ({"rng": {}}, ""),
    ],
)
def test_damaged_files_are_named(env, damage, message, tmp_path):
    content = UniformAgent(env).get_data() | damage
    with zipfile.ZipFile(tmp_path / "agent.zip", "w") as file:
        file.writestr("data.json", json.dumps(content))
    with pytest.raises(ValueError, match=rf"agent.zip: expected a .*{message}"):
        UniformAgent.load(tmp_path / "agent.zip")


def test_files_that_are_no_agents(env, tmp_path):
    (tmp_path / "foreign.zip").write_text("no zip")
    with pytest.raises(ValueError, match=r"foreign.zip"):
        UniformAgent.load(tmp_path / "foreign.zip")
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as file:
        file.writestr("data.json", "[]")
    with pytest.raises(ValueError, match=r"other.zip: expected"):
        UniformAgent.load(tmp_path / "other.zip")
    content = UniformAgent(env).get_data()
    for missing in content:
        with zipfile.ZipFile(tmp_path / "other.zip", "w") as file:
            file.writestr("data.json", json.dumps({key: value for key, value in content.items() if key != missing}))
        with pytest.raises(ValueError, match=rf"other.zip: expected a saved UniformAgent, but it lacks '{missing}'"):
            UniformAgent.load(tmp_path / "other.zip")


def test_callbacks_of_sb3_work(env, tiny_task, tmp_path):
    other = PruningEnv(tiny_task, sparsity=0.5, step_ratio=0.125, device="cpu")
    evaluate = EvalCallback(other, n_eval_episodes=1, eval_freq=30, log_path=str(tmp_path), verbose=0, warn=False)
    checkpoint = CheckpointCallback(25, str(tmp_path), "agent")
    agent = RLPruner(env, SMALL, seed=0, tensorboard_log=str(tmp_path / "tb")).learn(60, [evaluate, checkpoint])
    assert np.isfinite(evaluate.best_mean_reward)
    assert list((tmp_path / "tb").rglob("events*"))
    loaded = RLPruner.load(tmp_path / "agent_50_steps.zip", env)
    assert loaded.num_timesteps == 50
    assert agent.num_timesteps == 60


# ------------------------------------------------------------------------------------------------- other environments


def test_another_environment(env, tiny_task):
    """The plan stays while the network is the same; what was found in another environment is compared with nothing."""
    agent = UniformAgent(env).learn(4)
    plan = agent.plan
    shorter = PruningEnv(tiny_task, sparsity=0.25, step_ratio=0.125, device="cpu")
    agent.set_env(shorter)
    assert agent.best is None
    assert agent.plan == plan
    agent.learn(2)
    assert agent.best is shorter.best or agent.best.yardstick == shorter.best.yardstick
    assert len(agent.plan) == 2
    agent.set_env(PruningEnv("digits", sparsity=0.3, step_ratio=0.1, device="cpu"))
    assert agent.plan == {}
    assert agent.action_space == agent.pruning_env.action_space
    np.testing.assert_allclose(agent.default_action(), agent.pruning_env.uniform_action)
    agent.learn(9)


class Doubled(gymnasium.Wrapper):
    def step(self, action):
        observation, reward, *others = self.env.step(action)
        return (observation, 2 * reward, *others)


class Watching(gymnasium.Wrapper):
    keeps_reward = True

    def step(self, action):
        return self.env.step(action)


@pytest.mark.parametrize("kind", AGENTS)
@pytest.mark.parametrize(
    "wrap",
    [
        lambda env: TransformReward(env, lambda reward: -reward),
        lambda env: ClipReward(env, 0, 0.5),
        NormalizeReward,
        Doubled,
        lambda env: Watching(RecordEpisodeStatistics(Doubled(env))),
    ],
)
def test_wrappers_that_change_rewards_are_refused(kind, wrap, env):
    with pytest.raises(ValueError, match=r"env: .* previews the rewards of the environment itself, and .* reward=\."):
        kind(wrap(env))
    agent = kind(env)
    with pytest.raises(ValueError, match=r"env: .* previews the rewards"):
        agent.set_env(wrap(env))
    assert agent.pruning_env is env


def test_rewards_that_are_no_number_are_refused(env):
    env.reward_space = spaces.Box(0, 1, (3,))
    with pytest.raises(ValueError, match="env: RLPruner learns from one number; make the environment with another reward"):
        RLPruner(env)


def test_environments_that_do_not_fit(env, tiny_task):
    with pytest.raises(ValueError, match=r"env: RLPruner acts with sparsity distributions.*without SoftmaxAction"):
        RLPruner(SoftmaxAction(env))
    with pytest.raises(ValueError, match=r"env: RLPruner acts with sparsity distributions.*without TransformAction"):
        RLPruner(TransformAction(env, lambda action: action[::-1], env.action_space))
    with pytest.raises(ValueError, match=r"env: UniformAgent knows states by the observations.*without TransformObservation"):
        UniformAgent(TransformObservation(env, lambda x: 1 - x, env.observation_space))
    wider = spaces.Box(0, 2, env.observation_space.shape, np.float32)
    with pytest.raises(ValueError, match=r"without TransformObservation"):
        UniformAgent(RecordEpisodeStatistics(TransformObservation(env, lambda x: 2 * x, wider)))
    with pytest.raises(TypeError, match="env: expected a PruningEnv, got PendulumEnv"):
        RLPruner("Pendulum-v1")
    with pytest.raises(TypeError, match="env: expected a Gymnasium environment or a DummyVecEnv of one, got VecNormalize"):
        RLPruner(VecNormalize(DummyVecEnv([lambda: env])))
    with pytest.raises(TypeError, match="env: expected a Gymnasium environment or a DummyVecEnv of one, got DummyVecEnv"):
        RLPruner(DummyVecEnv([lambda: env, lambda: PruningEnv(tiny_task, device="cpu")]))


def test_environments_that_fit(env):
    for fitting in (env, RecordEpisodeStatistics(env), Monitor(env), Watching(env), DummyVecEnv([lambda: env])):
        agent = RandomAgent(fitting, seed=0).learn(8)
        assert agent.pruning_env is env
        assert agent.best is not None
