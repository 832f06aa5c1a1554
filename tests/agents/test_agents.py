"""The other agents: baselines, Stable-Baselines3's, and that all of them are bound by the same budget."""

from __future__ import annotations

import warnings
from itertools import pairwise
from math import isnan

import numpy as np
import pytest
from stable_baselines3.common.callbacks import BaseCallback

from prune_gym.agents import GlobalTaylorAgent, RandomAgent, UniformAgent
from prune_gym.agents.config import RunConfig
from prune_gym.agents.recorder import EvaluationBudget
from prune_gym.agents.registry import AGENTS, make_agent
from prune_gym.agents.run import search
from prune_gym.agents.sb3 import A2CConfig, ARSConfig, DQNConfig, OffPolicyConfig, PPOConfig, TRPOConfig, make_sb3
from prune_gym.envs import PruningEnv
from prune_gym.simulation.result_cache import ResultCache


@pytest.fixture
def env(tiny_task):
    return PruningEnv(tiny_task, sparsity=0.5, step_ratio=0.125, device="cpu")


# ------------------------------------------------------------------------------------------------------- baselines


def test_uniform_prunes_every_group_alike(tiny_task):
    env = PruningEnv(tiny_task, sparsity=0.5, step_ratio=0.125, rounding="carry", device="cpu")
    agent = UniformAgent(env).learn(500)
    assert agent.num_timesteps == 4  # its one episode
    widths = env.best.snapshot.architecture.widths
    assert np.abs(widths - env.graph.widths / 2).max() <= 1  # one unit of rounding


def test_random_uses_the_whole_budget_and_depends_on_its_seed(tiny_task):
    def search(seed: int) -> tuple[list, int]:
        env = PruningEnv(tiny_task, sparsity=0.5, step_ratio=0.125, device="cpu")
        agent = RandomAgent(env, seed=seed).learn(42)
        assert agent._episode_num == 10
        return env.best.snapshot.architecture.widths.tolist(), agent.num_timesteps

    first, timesteps = search(0)
    assert timesteps == 40  # ten episodes of four steps
    assert search(0) == (first, 40)
    assert search(1)[0] != first


def test_asking_a_random_agent_changes_nothing(env):
    agent = RandomAgent(env, seed=0)
    state = agent.rng.bit_generator.state
    agent.predict(env.reset()[0])
    assert agent.rng.bit_generator.state == state


def ranking(env: PruningEnv, scores: np.ndarray) -> np.ndarray:
    """Filters that every group loses, unit by unit, in plain Python."""
    groups, units = env.graph.groups, []
    for number, group in enumerate(groups):
        mine = {place: float(score) for place, score in enumerate(scores[group.first_unit :][: group.width]) if not isnan(score)}
        norm = sum(score**2 for score in mine.values()) ** 0.5 or 1.0
        best = max(mine, key=lambda place: (mine[place], -place))
        units += [(score / norm, group.first_unit + place, number) for place, score in mine.items() if place != best]
    left, lost = env.simulator.step_budget(env.snapshot()), [0] * len(groups)
    for _, _, number in sorted(units):
        if groups[number].filters_per_unit <= left:
            lost[number] += groups[number].filters_per_unit
            left -= groups[number].filters_per_unit
    return np.array(lost)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("step_ratio", [0.125, 0.6, 1.0])
def test_taylor_ranks_all_units_together(tiny_task, monkeypatch, seed, step_ratio):
    """Whatever the scores are: also if a whole group, that it must keep a unit of, has the lowest ones, and if one is dead."""
    env = PruningEnv(tiny_task, sparsity=0.8, step_ratio=step_ratio, device="cpu")
    agent = GlobalTaylorAgent(env)
    env.reset()
    rng = np.random.default_rng(seed)
    scores = rng.random(env.graph.n_units)
    lowest = env.graph.groups[seed % 5]
    own = slice(lowest.first_unit, lowest.first_unit + lowest.width)
    scores[own] = 0.0 if seed == 0 else scores[own] * 1e-3
    removed = rng.choice(env.graph.n_units, 3, replace=False)
    scores[removed] = np.nan
    asked = []
    monkeypatch.setattr(env.simulator, "unit_scores", lambda network, name: asked.append(name) or scores.copy())
    lost = ranking(env, scores)
    np.testing.assert_allclose(agent.ranking_action(env.snapshot()), lost / lost.sum())
    assert asked == ["taylor"]


def test_taylor_keeps_the_best_unit_of_every_group(tiny_task, monkeypatch):
    """All scores of a group are equal, so those of the widest one, divided by its norm, are the lowest."""
    env = PruningEnv(tiny_task, sparsity=0.25, step_ratio=0.25, device="cpu")
    agent = GlobalTaylorAgent(env)
    env.reset()
    monkeypatch.setattr(env.simulator, "unit_scores", lambda *_: np.ones(env.graph.n_units))
    action = agent.ranking_action(env.snapshot())
    widest = int(env.graph.widths.argmax())
    filters = env.simulator.step_budget(env.snapshot())
    assert filters > env.graph.widths[widest]
    assert action[widest] * filters == pytest.approx(env.graph.widths[widest] - 1)


def test_taylor_scores_every_state_anew(env):
    agent = GlobalTaylorAgent(env)
    agent.learn(500)
    states = agent.best.snapshot.trajectory()
    assert len(states) == 5
    for before, after in pairwise(states):
        np.testing.assert_allclose(after.action, agent.ranking_action(before), atol=1e-6)


# --------------------------------------------------------------------------------------------------------- SB3's agents


SB3 = {
    "ppo": PPOConfig(n_steps=8, batch_size=4, n_epochs=2),
    "recurrent_ppo": PPOConfig(n_steps=8, batch_size=4, n_epochs=2),
    "trpo": TRPOConfig(n_steps=8, batch_size=4),
    "a2c": A2CConfig(n_steps=5),
    "dqn": DQNConfig(learning_starts=10),
    "ars": ARSConfig(n_delta=1),
    **dict.fromkeys(("sac", "tqc", "td3", "ddpg"), OffPolicyConfig(learning_starts=10)),
}


@pytest.mark.parametrize("name", SB3)
def test_sb3_agents_stop_exactly_at_their_budget(name, tiny_task):
    """Every evaluation is noted, once, and the same seed gives the same ones."""

    cache = ResultCache()

    def rows() -> list[dict]:
        env = PruningEnv(tiny_task, sparsity=0.5, step_ratio=0.125, device="cpu", cache=cache)
        agent = make_sb3(name, env, SB3[name], 21, seed=0)
        found = search(env, agent, 21).rows
        assert env.evaluations == agent.num_timesteps == 21
        assert env.best.yardstick == max(row["yardstick"] for row in found if row["step"] == 3)
        return found

    first = rows()
    assert [row["evaluation"] for row in first] == list(range(1, 22))
    assert [(row["episode"], row["step"]) for row in first] == [divmod(number, 4) for number in range(21)]
    assert len({row["compute"] for row in first}) == 21
    assert rows() == first


def test_augmented_random_search_stops_when_any_callback_says_so(env):
    class Watch(BaseCallback):
        ended = 0

        def _on_step(self) -> bool:
            return True

        def _on_training_end(self) -> None:
            self.ended += 1

    agent = make_sb3("ars", env, ARSConfig(n_delta=1), 30, seed=0)
    recorder = search(env, agent, 30, compute=5e8)
    assert recorder.rows[-2]["compute"] < 5e8 <= recorder.rows[-1]["compute"]
    watch = Watch()
    agent.learn(19, [watch, EvaluationBudget(19)])
    assert (agent.num_timesteps, watch.ended) == (19, 1)
    agent.learn(16, watch)  # to its own end
    assert (agent.num_timesteps, watch.ended) == (16, 2)


@pytest.mark.parametrize("name", ["dqn", "ars", "recurrent_ppo"])
def test_a_loaded_sb3_agent_does_the_same(name, env, tmp_path):
    agent = make_sb3(name, env, SB3[name], 21, seed=0)
    agent.learn(21, EvaluationBudget(21))
    agent.save(tmp_path / "agent")
    loaded = type(agent).load(tmp_path / "agent")
    observation, _ = env.reset()
    action, _ = agent.predict(observation, deterministic=True)
    np.testing.assert_array_equal(loaded.predict(observation, deterministic=True)[0], action)
    assert agent.action_space.contains(action)


def test_the_agents_act_in_their_own_ways(env):
    assert make_sb3("dqn", env, DQNConfig(), 500).action_space.n == 5
    for name in SB3.keys() - {"dqn"}:
        assert (make_sb3(name, env, SB3[name], 500).action_space.low == -1).all()
    ars = make_sb3("ars", env, ARSConfig(), 500)
    action, _ = ars.predict(env.reset()[0])
    np.testing.assert_array_equal(action, np.zeros(5))  # it starts from the same fraction everywhere


def test_dqn_learns_after_every_step_and_its_target_follows(env):
    agent = make_sb3("dqn", env, DQNConfig(learning_starts=4, learning_rate=0.1, tau=1.0), 21, seed=0)
    first = agent.q_net.state_dict()["q_net.0.weight"].clone()
    agent.learn(21, EvaluationBudget(21))
    assert agent._n_updates == 16  # after steps 5 to 20
    learned, target = (module.state_dict()["q_net.0.weight"] for module in (agent.q_net, agent.q_net_target))
    assert (learned - target).norm() < 0.3 * (learned - first).norm()  # that of one step of 16


@pytest.mark.parametrize(("n_steps", "batch_size", "expected"), [(33, 32, 33), (7, 2, 4), (5, 2, 3), (8, 2, 2), (3, 2, 3)])
def test_a_recurrent_policy_never_learns_from_a_single_step(n_steps, batch_size, expected, env):
    """The standard deviation of one number is NaN."""
    agent = make_sb3("recurrent_ppo", env, PPOConfig(n_steps=n_steps, batch_size=batch_size, n_epochs=1), 500, seed=0)
    assert agent.batch_size == expected
    agent.learn(2 * n_steps + 1, EvaluationBudget(2 * n_steps + 1))
    assert all(tensor.isfinite().all() for tensor in agent.policy.state_dict().values())


def learns(agent, evaluations: int) -> bool:
    """Whether its policy changes within a search."""
    before = {name: tensor.clone() for name, tensor in agent.policy.state_dict().items()}
    agent.learn(evaluations, EvaluationBudget(evaluations))
    after = agent.policy.state_dict()
    return any(not tensor.allclose(before[name]) for name, tensor in after.items())  # a mean of equal ones is rounded


@pytest.mark.parametrize(
    ("name", "config", "setting", "first"),
    [
        ("ppo", PPOConfig, "n_steps", 12),
        ("a2c", A2CConfig, "n_steps", 12),
        ("td3", OffPolicyConfig, "learning_starts", 12),
        ("dqn", DQNConfig, "learning_starts", 12),
        ("trpo", TRPOConfig, "n_steps", 12),
        ("recurrent_ppo", PPOConfig, "n_steps", 12),
    ],
)
def test_an_agent_that_would_never_learn_is_refused(name, config, setting, first, env):
    """The largest setting that is accepted lets it learn once, the next one not at all."""
    extra = 1 if setting == "learning_starts" else 0  # the first step after them is learned from
    chosen = config(**{setting: first - extra})
    with pytest.raises(ValueError, match=f"{setting}: {name} would learn for the first time after 12 steps, .* ends after 12; "):
        make_sb3(name, env, chosen, 12)
    assert not learns(make_sb3(name, env, chosen, 13, seed=0), 12)
    assert learns(make_sb3(name, env, chosen, 13, seed=0), 13)


def test_augmented_random_search_needs_the_episodes_of_a_step(env):
    """Two for every direction."""
    with pytest.raises(
        ValueError, match=r"n_delta: ars would learn for the first time after 16 steps, .* after 16; choose a smaller n_delta"
    ):
        make_sb3("ars", env, ARSConfig(n_delta=2), 16)
    assert not learns(make_sb3("ars", env, ARSConfig(n_delta=2), 17, seed=0), 16)
    assert learns(make_sb3("ars", env, ARSConfig(n_delta=2), 17, seed=0), 17)


@pytest.mark.parametrize(
    ("name", "config", "setting", "default", "few"),
    [
        ("ppo", PPOConfig(), "n_steps", 64, {255: 63, 40: 10, 3: 2}),
        ("a2c", A2CConfig(), "n_steps", 10, {39: 9, 2: 1}),
        ("sac", OffPolicyConfig(), "learning_starts", 100, {403: 99, 40: 9, 2: 0}),
        ("dqn", DQNConfig(), "learning_starts", 100, {403: 99, 40: 9, 2: 0}),
        ("trpo", TRPOConfig(), "n_steps", 64, {255: 63, 40: 10, 3: 2}),
        ("ars", ARSConfig(), "n_delta", 8, {255: 7, 40: 1, 9: 1}),
    ],
)
def test_default_rollouts_fit_the_budget(name, config, setting, default, few, env):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert getattr(make_sb3(name, env, config, 404), setting) == default
    for evaluations, expected in few.items():
        with pytest.warns(UserWarning, match=rf"^{setting}: {name} learns for the first time after"):
            agent = make_sb3(name, env, config, evaluations)
        assert getattr(agent, setting) == expected
        if name in ("ppo", "trpo"):
            assert agent.batch_size == min(32, expected)
    with pytest.raises(ValueError, match=f"{setting}: {name} would learn for the first time after"):
        make_sb3(name, env, config, min(few) - 1)


def test_off_policy_agents_explore_as_they_should(env):
    sac, td3, ddpg = (make_sb3(name, env, OffPolicyConfig(), 500) for name in ("sac", "td3", "ddpg"))
    assert sac.action_noise is None
    for agent in (td3, ddpg):
        np.testing.assert_array_equal(agent.action_noise._sigma, np.full(5, 0.2))
        np.testing.assert_array_equal(agent.action_noise._mu, np.zeros(5))


@pytest.mark.parametrize("name", AGENTS)
def test_every_name_makes_its_agent(name, env):
    agent = make_agent(RunConfig(agent=name, seed=5), env)
    otherwise = {"taylor": "GlobalTaylorAgent", "obs": "GlobalSurgeonAgent", "lamp": "GlobalLampAgent", "cacp": "AMC"}
    kind = type(agent).__name__
    assert kind == otherwise[name] if name in otherwise else kind.lower().removesuffix("agent") == name.replace("_", "")
    assert agent.seed == 5


def test_agents_read_their_own_settings(env):
    assert make_agent(RunConfig(agent="ppo", ppo=PPOConfig(gamma=0.5)), env).gamma == 0.5
    assert make_agent(RunConfig(agent="a2c", a2c=A2CConfig(gamma=0.5)), env).gamma == 0.5
    assert make_agent(RunConfig(agent="recurrent_ppo", ppo=PPOConfig(gamma=0.5)), env).gamma == 0.5
    assert make_agent(RunConfig(agent="trpo", trpo=TRPOConfig(target_kl=0.5)), env).target_kl == 0.5
    assert make_agent(RunConfig(agent="dqn", dqn=DQNConfig(exploration_final_eps=0.5)), env).exploration_final_eps == 0.5
    assert make_agent(RunConfig(agent="ars", ars=ARSConfig(n_delta=3)), env).n_delta == 3
    for name in ("sac", "tqc", "td3", "ddpg"):
        assert make_agent(RunConfig(agent=name, off_policy=OffPolicyConfig(gamma=0.5)), env).gamma == 0.5
    assert make_agent(RunConfig(agent="ppo", evaluations=40, ppo=PPOConfig(n_steps=39)), env).n_steps == 39
    with pytest.raises(ValueError, match="n_steps: ppo would learn for the first time after 40 steps"):
        make_agent(RunConfig(agent="ppo", evaluations=40, ppo=PPOConfig(n_steps=40)), env)


@pytest.mark.parametrize(
    ("agent", "settings", "message"),
    [
        ("uniform", {"ppo": PPOConfig(n_steps=128)}, "ppo: these settings have no effect on 'uniform'; .*: ppo"),
        ("ppo", {"a2c": A2CConfig(gamma=0.5)}, "a2c: these settings have no effect on 'ppo'; .*: a2c"),
        (
            "a2c",
            {"off_policy": OffPolicyConfig(tau=0.5)},
            "off_policy: these settings have no effect on 'a2c'; .*: sac, tqc, td3, ddpg",
        ),
        ("sac", {"dqn": DQNConfig(tau=0.5)}, "dqn: these settings have no effect on 'sac'; .*: dqn"),
        ("dqn", {"off_policy": OffPolicyConfig(tau=0.5)}, "off_policy: these settings have no effect on 'dqn'"),
        ("ppo", {"trpo": TRPOConfig(gamma=0.5)}, "trpo: these settings have no effect on 'ppo'; .*: trpo"),
        ("ppo", {"ars": ARSConfig(n_delta=2)}, "ars: these settings have no effect on 'ppo'; .*: ars"),
    ],
)
def test_settings_of_another_agent_are_refused(agent, settings, message, env):
    with pytest.raises(ValueError, match=message):
        make_agent(RunConfig(agent=agent, **settings), env)


@pytest.mark.parametrize(
    ("setting", "value", "expected"),
    [
        ("n_steps", 1, "an integer >= 2"),
        ("n_steps", 2.5, "an integer >= 2"),
        ("batch_size", 1, "an integer >= 2"),
        ("n_epochs", 0, "an integer >= 1"),
        ("gamma", 1.5, r"a number in \[0, 1\]"),
        ("learning_rate", float("nan"), r"a number in \(0, inf\)"),
    ],
)
def test_settings_out_of_range(setting, value, expected):
    with pytest.raises(ValueError, match=f"{setting}: expected {expected}, got {value}"):
        PPOConfig(**{setting: value})


def test_settings_at_the_edge():
    PPOConfig(n_steps=2, batch_size=2, n_epochs=1, gamma=1.0, gae_lambda=0.0, ent_coef=0.0)
    A2CConfig(n_steps=1, gamma=0)
    OffPolicyConfig(learning_starts=0, batch_size=2, tau=1)
    for kind, setting in (
        (A2CConfig, {"n_steps": 0}),
        (OffPolicyConfig, {"learning_starts": -1}),
        (OffPolicyConfig, {"tau": 1.1}),
        (DQNConfig, {"exploration_fraction": -0.1}),
        (DQNConfig, {"tau": 1.1}),
        (TRPOConfig, {"target_kl": 0}),
        (TRPOConfig, {"n_steps": 1}),
        (ARSConfig, {"n_delta": 0}),
        (ARSConfig, {"delta_std": 0}),
    ):
        with pytest.raises(ValueError, match=next(iter(setting))):
            kind(**setting)
