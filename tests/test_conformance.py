"""Every registered environment, every agent and every named reward through the checks that users get, and that these can fail."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
from stable_baselines3.common.base_class import BaseAlgorithm

from prune_gym.agents.config import RunConfig
from prune_gym.agents.registry import AGENTS
from prune_gym.agents.search_agent import SearchAgent
from prune_gym.envs import TabularEnv
from prune_gym.registration import ENVIRONMENTS, LAYERWISE, LIVE, PURL
from prune_gym.scoring.evaluation import Score
from prune_gym.simulation.rewards import REWARDS, Reward, paper_reward
from prune_gym.testing import AgentConformance, EnvironmentConformance, RewardConformance

# of the games on live networks, the first network stands for the others
SLOW = {name for names in (LAYERWISE, PURL) for name in list(names)[1:]}


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in ENVIRONMENTS])
class TestEnvironments(EnvironmentConformance):
    @pytest.fixture(autouse=True)
    def choose(self, name: str) -> None:
        self.name = name

    def make(self) -> gymnasium.Env:
        settings: dict[str, Any] = {"macs_reduction": 0.2, "step_ratio": 0.1, "device": "cpu"}
        return gymnasium.make(self.name, **settings if self.name in LIVE | LAYERWISE else {})


SEARCHES = ("rl_pruner", "lookahead", "uct", "cma_es", "tpe", "eagle_eye", "greedy", "gnn_rl", "uniform", "random")


@pytest.mark.parametrize("name", SEARCHES)
class TestSearches(AgentConformance):
    @pytest.fixture(autouse=True)
    def choose(self, name: str) -> None:
        self.name = name

    def make(self, env: gymnasium.Env, seed: int) -> BaseAlgorithm:
        return AGENTS[self.name](RunConfig(agent=self.name, seed=seed, evaluations=self.evaluations), env)


@pytest.mark.filterwarnings("ignore:warmup_episodes")
@pytest.mark.parametrize("name", ["amc", pytest.param("cacp", marks=pytest.mark.slow)])
class TestLayerwiseAgents(AgentConformance):
    evaluations = 20

    @pytest.fixture(autouse=True)
    def choose(self, name: str) -> None:
        self.name = name

    make = TestSearches.make


@pytest.mark.parametrize("name", [*REWARDS, "equation 17"])
class TestRewards(RewardConformance):
    @pytest.fixture(autouse=True)
    def choose(self, name: str) -> None:
        self.name = name

    def make(self) -> Reward:
        return paper_reward(1.0, 0.5, 0.2) if self.name == "equation 17" else self.name


# ------------------------------------------------------------------------------------------------ what they find


class Forgetful(TabularEnv):
    """Gives the same array again and again."""

    def _observe(self, state: Any) -> Any:
        observation = super()._observe(state)
        self.__dict__.setdefault("kept", observation)[:] = observation
        return self.__dict__["kept"]


class Lenient(TabularEnv):
    """Takes whatever comes for zeros."""

    def check_action(self, action: Any) -> Any:
        return self.action_space.low.astype(float)


class Restless(TabularEnv):
    """Counts how often it was reset."""

    resets = 0

    def reset(self, **settings: Any) -> Any:
        observation, info = super().reset(**settings)
        type(self).resets += 1
        return observation, info | {"resets": self.resets}


class Silent(TabularEnv):
    """Gives no info."""

    def reset(self, **settings: Any) -> Any:
        return super().reset(**settings)[0]


@pytest.mark.parametrize(
    ("kind", "check"),
    [
        (Forgetful, "test_what_it_gave_stays_as_it_was"),
        (Lenient, "test_a_bad_action_changes_nothing"),
        (Restless, "test_the_same_seed_gives_the_same_episode"),
        (Silent, "test_the_checkers_find_nothing"),
    ],
)
def test_faults_of_environments_are_found(kind: type[TabularEnv], check: str) -> None:
    class Mine(EnvironmentConformance):
        def make(self) -> gymnasium.Env:
            return kind("digits")

    with pytest.raises((AssertionError, pytest.fail.Exception)):
        getattr(Mine(), check)()


class Spendthrift(SearchAgent):
    """Previews past the budget."""

    def search(self, env: Any) -> None:
        self.pruning_env.preview([self.pruning_env.uniform_action] * 500)
        while not env.finished:
            env.step(env.uniform_action)


class Unseeded(SearchAgent):
    """Draws from the world's own dice."""

    def search(self, env: Any) -> None:
        for _ in env.episodes():
            while not env.finished:
                env.step(np.random.default_rng().random(8))


@pytest.mark.parametrize(
    ("kind", "check"),
    [
        (Spendthrift, "test_it_keeps_to_its_budget_and_finds_a_network"),
        (Unseeded, "test_the_same_seed_gives_the_same_search"),
    ],
)
def test_faults_of_agents_are_found(kind: type[SearchAgent], check: str) -> None:
    class Mine(AgentConformance):
        evaluations = 100

        def make(self, env: gymnasium.Env, seed: int) -> BaseAlgorithm:
            return kind(env, seed=seed)

    with pytest.raises(AssertionError):
        getattr(Mine(), check)()


def test_faults_of_rewards_are_found() -> None:
    count = iter(range(10**6))
    faulty: dict[str, Reward] = {
        "test_it_is_a_finite_number": lambda before, after, baseline: (
            1 / (1 - after.accuracy) if after.accuracy < 1 else float("inf")
        ),
        "test_it_depends_on_the_transition_alone": lambda before, after, baseline: after.accuracy + next(count),
        "test_environments_take_it": lambda before, after, baseline: Score,  # type: ignore[dict-item, return-value]
    }
    for check, reward in faulty.items():

        class Mine(RewardConformance):
            def make(self, reward: Reward = reward) -> Reward:
                return reward

        with pytest.raises((AssertionError, TypeError)):
            getattr(Mine(), check)()
