"""Agents that take one distribution for a whole episode: random search and CMA-ES."""

from __future__ import annotations

import numpy as np
import pytest

from prune_gym.agents import BudgetedEnv, CMAESAgent, CMAESConfig, RandomAgent, RandomConfig, UniformAgent, baselines
from prune_gym.agents.baselines import tilted
from prune_gym.envs import PruningEnv, TabularEnv
from prune_gym.scoring.evaluation import Score
from prune_gym.simulation.score_functions import elementwise
from prune_gym.tasks import Task

STEPS = 4


@pytest.fixture
def env(tiny_task: Task) -> PruningEnv:
    return PruningEnv(tiny_task, sparsity=0.5, step_ratio=1 / 8, device="cpu")


def actions_of(agent: RandomAgent | CMAESAgent, budget: int, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """What the agent does, (episodes, steps, groups)."""
    seen = []
    step = BudgetedEnv.step
    with monkeypatch.context() as patched:
        patched.setattr(BudgetedEnv, "step", lambda self, action: seen.append(np.array(action)) or step(self, action))
        agent.learn(budget)
    return np.array(seen).reshape(-1, STEPS, 5)


def test_random_search_is_log_normal_around_uniform(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[np.ndarray] = []
    whole = baselines.whole_episode
    monkeypatch.setattr(baselines, "whole_episode", lambda env, action: seen.append(action) or whole(env, action))
    env = TabularEnv("digits", macs_reduction=0.6, step_ratio=0.2)
    RandomAgent(env, RandomConfig(scale=0.3), seed=0).learn(900)
    actions = np.array(seen)
    assert len(actions) >= 300
    np.testing.assert_allclose(actions.sum(-1), 1)
    logarithms = np.log(actions / env.uniform_action)
    differences = logarithms - logarithms.mean(1, keepdims=True)  # a factor for all of them does nothing
    assert np.abs(differences.mean(0)).max() < 0.06
    np.testing.assert_allclose(differences.std(0), 0.3 * np.sqrt(1 - 1 / 8), rtol=0.12)


def test_random_search_takes_one_distribution_in_an_episode(env: PruningEnv, monkeypatch: pytest.MonkeyPatch) -> None:
    actions = actions_of(RandomAgent(env, seed=0), 10 * STEPS, monkeypatch)
    assert len(actions) == 10
    assert (actions == actions[:, :1]).all()


def test_every_budget_is_kept_to(env: PruningEnv) -> None:
    for make in (RandomAgent, CMAESAgent):
        for budget in (4, 5, 7, 39):
            agent = make(env, seed=1).learn(budget)
            assert agent.num_timesteps == budget // STEPS * STEPS


def test_cma_es_finds_the_optimum() -> None:
    """A yardstick that knows what it wants, few MACs at the same number of filters gone; on a table, whose best is known."""

    @elementwise
    def few_macs(after: Score, baseline: Score) -> float:
        return -after.macs / baseline.macs

    def regret(make: type) -> float:
        env = TabularEnv("digits", sparsity=0.5, step_ratio=1 / 8, yardstick=few_macs)
        make(env, seed=0).learn(1000)
        assert env.best is not None
        return env.regret(env.best.snapshot)

    assert regret(CMAESAgent) < regret(RandomAgent) < regret(UniformAgent)


def test_cma_es_draws_from_its_own_generator(env: PruningEnv, monkeypatch: pytest.MonkeyPatch) -> None:
    def first(seed: int) -> np.ndarray:
        return actions_of(CMAESAgent(env, seed=seed), 12 * STEPS, monkeypatch)

    before = first(3)
    assert (first(3) == before).all()
    assert (first(4) != before).any()
    monkeypatch.setattr(np.random, "randn", None)  # which it would draw from by itself
    assert (first(3) == before).all()


def test_the_population_is_a_setting(env: PruningEnv) -> None:
    agent = CMAESAgent(env, CMAESConfig(population=6, sigma=0.2))
    strategy = agent.strategy(5)
    assert (strategy.popsize, strategy.sigma) == (6, 0.2)
    with pytest.raises(ValueError, match="population: expected an integer >= 2"):
        CMAESConfig(population=1)


def test_tilted(env: PruningEnv) -> None:
    env.reset()
    search = BudgetedEnv(env, 4, lambda *_: True)
    np.testing.assert_allclose(tilted(search, np.full(5, 3.0)), env.uniform_action)
    shares = tilted(search, np.log([1.0, 1.0, 2.0, 1.0, 1.0]))
    np.testing.assert_allclose(shares[2] / shares[0], 2 * env.uniform_action[2] / env.uniform_action[0])
    assert np.isfinite(tilted(search, np.array([0.0, 1000.0, 0.0, 0.0, 0.0]))).all()
