"""Wrappers of rewards: what a step adds, shaping by potentials that change, and competition with oneself."""

from __future__ import annotations

from itertools import pairwise

import gymnasium
import numpy as np
import pytest
from gymnasium import wrappers
from gymnasium.envs.registration import EnvSpec

from prune_gym.agents.config import RunConfig
from prune_gym.agents.registry import make_agent
from prune_gym.agents.rl_pruner import RLPrunerConfig
from prune_gym.agents.sb3 import PPOConfig
from prune_gym.envs import (
    BlocksEnv,
    ImprovementReward,
    LayerwiseEnv,
    PruningEnv,
    SelfCompetition,
    ShapingReward,
    SoftmaxAction,
    TabularEnv,
)
from prune_gym.envs.rewards import check_discount
from prune_gym.simulation.formula import formula


@pytest.fixture
def env(tiny_task):
    return PruningEnv(tiny_task, sparsity=0.5, step_ratio=0.1, device="cpu")


@pytest.mark.parametrize("gamma", [1.0, 0.9, 0.0])
@pytest.mark.parametrize("reward", ["paper", "flops", "state"])
def test_improvements_telescope(tiny_task, gamma, reward):
    """By another formula for the reward of a state than the environment's, whatever the actions were."""

    def potential(accuracy, flops, baseline_accuracy):
        return {"paper": accuracy, "flops": accuracy + 0.25 * flops, "state": 2 * accuracy - baseline_accuracy}[reward]

    given = (lambda before, after, baseline: 2 * after.accuracy - baseline.accuracy) if reward == "state" else reward
    env = PruningEnv(tiny_task, sparsity=0.5, step_ratio=0.1, reward=given, device="cpu")
    wrapped = ImprovementReward(env, gamma)
    rng = np.random.default_rng(0)
    for _ in range(3):
        _, info = wrapped.reset()
        baseline = info["accuracy"]
        phi = [potential(baseline, 0.0, baseline)]
        rewards, terminated = [], False
        while not terminated:
            _, step_reward, terminated, _, info = wrapped.step(rng.random(5))
            rewards.append(step_reward)
            phi.append(potential(info["accuracy"], info["flops_reduction"], baseline))
        assert rewards == pytest.approx([gamma * b - a for a, b in pairwise(phi)], abs=1e-12)
        assert type(rewards[0]) is float
        discounted = sum(gamma**t * r for t, r in enumerate(rewards))
        assert discounted == pytest.approx(gamma ** len(rewards) * phi[-1] - phi[0], abs=1e-12)
        assert len(set(phi)) > 2


def test_improvements_after_restore(env):
    wrapped = ImprovementReward(env, 1.0)
    wrapped.reset()
    action = np.array([0.0, 0, 1, 0, 0])
    wrapped.step(env.uniform_action)
    here, before = env.snapshot(), env.score().accuracy
    first = wrapped.step(action)[1]
    env.restore(here)
    assert wrapped.step(action)[1] == first == env.score().accuracy - before


def test_improvement_needs_a_discount_and_a_reward_of_its_own(env, tiny_task):
    with pytest.raises(TypeError, match="gamma"):
        ImprovementReward(env)
    with pytest.raises(ValueError, match=r"gamma: expected a number in \[0, 1\], got 1.5"):
        ImprovementReward(env, 1.5)
    with pytest.raises(
        ValueError, match=r"env: TransformReward changes the reward, .* wrap the environment in ImprovementReward first"
    ):
        ImprovementReward(wrappers.TransformReward(env, lambda reward: -reward), 1.0)
    with pytest.raises(TypeError, match="env: expected an environment whose reward is a number, got one with reward='vector'"):
        ImprovementReward(PruningEnv(tiny_task, sparsity=0.5, reward="vector", device="cpu"), 1.0)
    wrapped = wrappers.TransformReward(ImprovementReward(env, 1.0), lambda reward: -reward)
    wrapped.reset()
    _, reward, _, _, info = wrapped.step(env.uniform_action)
    assert reward == env.simulator.baseline.accuracy - info["accuracy"]


# ------------------------------------------------------------------------------------------------ shaping


def tabular(**settings):
    return TabularEnv("digits-mobilenet", macs_reduction=0.6, step_ratio=0.1, **settings)


def episode(env, rng, steps=1000):
    """The rewards of random actions, and whether the episode terminated."""
    env.reset()
    rewards, terminated, truncated = [], False, False
    while not (terminated or truncated) and len(rewards) < steps:
        _, reward, terminated, truncated, _ = env.step(rng.random(env.unwrapped.action_space.shape))
        rewards.append(reward)
    return rewards, terminated


def discounted(rewards, gamma):
    return sum(gamma**t * reward for t, reward in enumerate(rewards))


@pytest.mark.parametrize("gamma", [1.0, 0.9, 0.0])
@pytest.mark.parametrize("shift", [0.0, 2.5])
def test_shaping_adds_minus_the_first_potential_whatever_an_agent_does(gamma, shift):
    shaped = ShapingReward(tabular(reward="final"), lambda score, baseline: 3 * score.params_reduction + 1, gamma, shift)
    plain = tabular(reward="final")
    for seed in range(3):
        with_shaping, terminated = episode(shaped, np.random.default_rng(seed))
        without, _ = episode(plain, np.random.default_rng(seed))
        assert terminated
        difference = discounted(with_shaping, gamma) - discounted(without, gamma)
        assert difference == pytest.approx(-(1 + shift), abs=1e-12)


def test_the_wrapper_is_the_term_of_a_formula():
    wrapped = ShapingReward(tabular(), lambda score, baseline: score.accuracy - 0.1 * score.params_reduction, 0.9, 0.5)
    written = tabular(reward="accuracy + shaping(accuracy - 0.1 * params_reduction, 0.9, 0.5)")
    for seed in range(3):
        one, other = (episode(env, np.random.default_rng(seed))[0] for env in (wrapped, written))
        assert one == pytest.approx(other, abs=1e-12)


def test_truncation_keeps_the_potential():
    def potential(score, baseline):
        return score.params_reduction + 1

    rewards, terminated = episode(
        ShapingReward(wrappers.TimeLimit(tabular(reward="0 * accuracy"), 2), potential, 0.9), np.random.default_rng(0)
    )
    inner = tabular()
    episode(inner, np.random.default_rng(0), steps=2)
    assert not terminated
    assert discounted(rewards, 0.9) == pytest.approx(0.81 * potential(inner.score(), None) - 1)


def test_a_potential_that_changes_is_kept_from_when_its_state_was_entered():
    """Learned potentials grow between two looks at the same state; the sum still telescopes to the first one."""
    looks = iter(range(1000))
    shaped = ShapingReward(tabular(reward="0 * accuracy"), lambda score, baseline: 1.0 + next(looks), 0.9)
    rewards, _ = episode(shaped, np.random.default_rng(0))
    assert len(rewards) > 2
    assert discounted(rewards, 0.9) == pytest.approx(-1.0)
    assert rewards[0] == pytest.approx(0.9 * 2.0 - 1.0)


def test_shaping_after_restore():
    shaped = ShapingReward(tabular(reward="0 * accuracy"), lambda score, baseline: score.params_reduction, 1.0)
    shaped.reset()
    start, uniform = shaped.unwrapped.snapshot(), shaped.unwrapped.uniform_action
    first = shaped.step(uniform)[1]
    shaped.step(uniform)
    shaped.unwrapped.restore(start)
    assert shaped.step(uniform)[1] == first


def test_shaping_refuses(env, tiny_task):
    with pytest.raises(ValueError, match=r"gamma: expected a number in \[0, 1\], got 2"):
        ShapingReward(env, lambda score, baseline: 0.0, 2)
    with pytest.raises(TypeError, match=r"potential: expected a function of \(score, baseline\), got <lambda>\(score\)"):
        ShapingReward(env, lambda score: 0.0, 1.0)
    with pytest.raises(TypeError, match="env: expected an environment whose reward is a number"):
        ShapingReward(PruningEnv(tiny_task, reward="vector", device="cpu"), lambda score, baseline: 0.0, 1.0)
    with pytest.raises(ValueError, match="potential: expected a finite number, got inf"):
        ShapingReward(env, lambda score, baseline: float("inf"), 1.0).reset()


# ------------------------------------------------------------------------------------------------ competition


def test_competition_rewards_records_alone():
    env, rng = SelfCompetition(tabular()), np.random.default_rng(3)
    record, given = -np.inf, []
    for _ in range(12):
        rewards, _ = episode(env, rng)
        worth = env.unwrapped.score().accuracy
        assert rewards[:-1] == [0.0] * (len(rewards) - 1)
        assert rewards[-1] == (1.0 if worth > record else -1.0)
        record = max(record, worth)
        given.append(rewards[-1])
    assert set(given) == {1.0, -1.0}


# ------------------------------------------------------------------------------------------------ discounts


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: tabular(reward="terminal * accuracy + shaping(accuracy, 0.9)"), r"shaping\(accuracy, 0.9\)"),
        (lambda: ImprovementReward(tabular(), 0.9), "ImprovementReward"),
        (lambda: SoftmaxAction(ShapingReward(tabular(), lambda score, baseline: 0.0, 0.9)), "ShapingReward"),
    ],
)
def test_a_learner_must_discount_as_the_shaping_does(make, name):
    env = make()
    check_discount(env, 0.9)
    with pytest.raises(ValueError, match=f"gamma: the learner discounts by 0.99, and {name} by 0.9; give both the same"):
        check_discount(env, 0.99)


@pytest.mark.parametrize(
    ("agent", "theirs", "settings"),
    [
        ("ppo", 0.5, {"ppo": PPOConfig(gamma=0.5)}),
        ("rl_pruner", 0.5, {"rl_pruner": RLPrunerConfig(sample_steps=2, samples=2, discount=0.5)}),
        ("recurrent_ppo", 0.5, {"ppo": PPOConfig(gamma=0.5)}),
        ("ars", 1.0, {}),
    ],
)
@pytest.mark.filterwarnings("ignore:.* learns for the first time")
def test_agents_check_their_discount(agent, theirs, settings):
    config = RunConfig(agent=agent, evaluations=100, **settings)

    def learn(gamma):
        env = tabular(reward=f"terminal * accuracy + shaping(accuracy, {gamma})")
        make_agent(config, env).learn(10)

    learn(theirs)
    with pytest.raises(ValueError, match=rf"gamma: the learner discounts by {theirs:g}, and shaping\(accuracy, 0.75\) by 0.75"):
        learn(0.75)


def test_every_wrapper_counts():
    inner = ShapingReward(tabular(), lambda score, baseline: 0.0, 0.5)
    with pytest.raises(ValueError, match=r"discounts by 0\.99, and ShapingReward by 0\.5"):
        check_discount(ShapingReward(inner, lambda score, baseline: 0.0, 0.99), 0.99)


def test_uct_needs_a_reward_of_one_network():
    for reward in ("improvement", "shaped"):
        with pytest.raises(ValueError, match="reward: UCT values a network at the target by the reward of it alone"):
            make_agent(RunConfig(agent="uct"), tabular(reward=reward))
    make_agent(RunConfig(agent="uct"), tabular(reward="final"))


def test_improvement_is_of_a_reward_of_one_network():
    for reward in ("final", "improvement"):
        with pytest.raises(ValueError, match="potential: expected a formula of one network"):
            ImprovementReward(tabular(reward=reward), 1.0)


def test_a_formula_in_a_spec_survives_json():
    env = gymnasium.make("PruneGym/Tabular-Digits-v0", reward=2 * formula("accuracy"), cost=formula("mine: 1 - accuracy"))
    again = gymnasium.make(EnvSpec.from_json(env.spec.to_json()))
    assert again.unwrapped.reward == env.unwrapped.reward == formula("2 * accuracy")
    assert again.unwrapped.cost == formula("mine: 1 - accuracy")


# ------------------------------------------------------------------------------------------------ costs


def test_costs_and_targets_of_the_layerwise_game():
    env = LayerwiseEnv(tabular(reward="final", cost="1 - accuracy + target"), targets=(0.3, 0.6))
    env.reset(options={"target": 0.4})
    ended, costs = False, []
    while not ended:
        _, reward, ended, _, info = env.step(np.array([0.5]))
        costs.append(info["cost"])
    assert reward == info["accuracy"] > 0
    assert costs[:-1] == [0.0] * (len(costs) - 1)
    assert costs[-1] == pytest.approx(1 - info["accuracy"] + 0.4)


@pytest.mark.parametrize(
    "make",
    [
        lambda **settings: TabularEnv("digits-mobilenet", macs_reduction=0.3, step_ratio=0.1, **settings),
        lambda **settings: BlocksEnv("digits-mobilenet", macs_reduction=0.3, **settings),
    ],
)
def test_the_cost_of_a_step_is_in_its_info(make):
    env, plain = make(cost="terminal + before.accuracy - accuracy"), make()
    _, info = env.reset()
    assert "cost" not in info
    plain.reset()
    before, ended = info["accuracy"], False
    while not ended:
        action = getattr(env.unwrapped, "uniform_action", 1)
        _, reward, ended, _, info = env.step(action)
        _, same, _, _, without = plain.step(action)
        assert reward == same
        assert info["cost"] == pytest.approx(ended + before - info["accuracy"])
        assert type(info["cost"]) is float
        assert "cost" not in without
        before = info["accuracy"]
    with pytest.raises(ValueError, match=r"cost: expected one of accuracy, .*; got 'acuracy'"):
        make(cost="acuracy + 1")
    for bad, message in ((3, r"cost: expected one of paper, .*; got 3"), ("vector", "cost: expected one that is a number")):
        with pytest.raises(ValueError, match=message):
            make(cost=bad)
    assert make(cost="improvement").cost == formula("accuracy - before.accuracy")
    broken = make(cost="1 / 0")
    broken.reset()
    with pytest.raises(ValueError, match="cost: expected a finite number"):
        broken.step(action)


def test_the_converter_of_safety_gymnasium_runs_unmodified():
    conversion = pytest.importorskip("safety_gymnasium.wrappers.gymnasium_conversion")
    env = conversion.Gymnasium2SafetyGymnasium(tabular(cost="1 - accuracy"))
    env.reset()
    _, reward, cost, terminated, truncated, info = env.step(env.unwrapped.uniform_action)
    assert (reward, cost) == (info["accuracy"], 1 - info["accuracy"])
    assert not terminated
    assert not truncated


def test_an_improvement_on_what_is_not_finite_is_refused():
    env = ImprovementReward(TabularEnv("digits", reward="log(flops_reduction)"), 1.0)
    env.reset()
    with pytest.raises(ValueError, match="reward: expected a finite number, got "):
        env.step(env.action_space.sample())
