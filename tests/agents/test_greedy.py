"""Greedy sensitivity against a re-statement, and what it does with a budget that is too small."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest

import prune_gym  # noqa: F401  # registers the environments
from prune_gym.agents.greedy import GreedyAgent
from prune_gym.envs import PruningEnv, TabularEnv
from prune_gym.envs.pruning import Preview
from prune_gym.envs.wrappers import pruning_env
from prune_gym.scoring.evaluation import Score
from prune_gym.tasks import Task

STEPS, GROUPS = 4, 5


@pytest.fixture
def env(tiny_task: Task) -> PruningEnv:
    return PruningEnv(tiny_task, sparsity=0.5, step_ratio=1 / 8, device="cpu")


def restated(env: PruningEnv) -> list[list[int]]:
    """The widths after every step: each group is tried by a step and a way back."""
    env.reset()
    widths = []
    while env.steps_left:
        here, best, worth = env.snapshot(), 0, -np.inf
        for group in range(len(env.graph.groups)):
            action = np.array([float(group == other) for other in range(len(env.graph.groups))])
            *_, info = env.step(action)
            if info["accuracy"] > worth:
                best, worth = group, info["accuracy"]
            env.restore(here)
        env.step(np.eye(len(env.graph.groups))[best])
        widths.append(env.snapshot().widths.tolist())
    return widths


def test_against_a_restatement(env: PruningEnv) -> None:
    expected = restated(env)
    agent = GreedyAgent(env).learn(500)
    assert agent.num_timesteps == STEPS * (GROUPS + 1)  # its one episode
    followed = env.snapshot().trajectory()[1:]
    assert [state.widths.tolist() for state in followed] == expected


def test_on_a_table() -> None:
    env = gymnasium.make("PruneGym/Tabular-Digits-v0")
    inner = pruning_env(env)
    expected = restated(inner)
    agent = GreedyAgent(env).learn(1000)
    assert agent.num_timesteps == len(expected) * (len(inner.graph.groups) + 1)
    assert [state.widths.tolist() for state in inner.snapshot().trajectory()][1:] == expected


@pytest.mark.parametrize("budget", [4, 5, 9, 17, 24])
def test_the_budget_goes_to_the_first_steps(env: PruningEnv, budget: int, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = [0] * STEPS
    taken: list[np.ndarray] = []
    preview, step = PruningEnv.preview, PruningEnv.step

    def previewed(self: PruningEnv, actions: Any, to_target: bool = False) -> list[Preview]:
        assert (np.array(actions).argmax(1) == sorted(np.array(actions).argmax(1))).all()
        asked[len(taken)] = len({*np.array(actions).argmax(1)})
        return preview(self, actions, to_target)

    def stepped(self: PruningEnv, action: np.ndarray) -> Any:
        taken.append(action)
        return step(self, action)

    monkeypatch.setattr(PruningEnv, "preview", previewed)
    monkeypatch.setattr(PruningEnv, "step", stepped)
    agent = GreedyAgent(env, seed=0).learn(budget)
    assert agent.num_timesteps == env.evaluations == min(budget, STEPS * (GROUPS + 1))
    spare = agent.num_timesteps - STEPS
    assert asked == [min(max(spare - GROUPS * number, 0), GROUPS) for number in range(STEPS)]
    for number, action in zip(asked, taken, strict=True):
        assert action.max() == 1 if number else np.allclose(action, env.uniform_action)


def test_what_it_cannot_pay_for_is_left_to_chance() -> None:
    def search(seed: int) -> list[list[int]]:
        agent = GreedyAgent(TabularEnv("digits", macs_reduction=0.6, step_ratio=0.1), seed=seed).learn(20)
        assert agent.best is not None
        return [state.widths.tolist() for state in agent.best.snapshot.trajectory()]

    found = [search(seed) for seed in range(6)]
    assert found == [search(seed) for seed in range(6)]
    assert len({str(each) for each in found}) > 1


def test_of_equal_groups_the_first_goes(tiny_task: Task) -> None:
    def all_the_same(after: Score, baseline: Score) -> float:
        return 1.0

    env = PruningEnv(tiny_task, sparsity=0.5, step_ratio=1 / 8, yardstick=all_the_same, device="cpu")
    GreedyAgent(env).learn(200)
    for state in env.snapshot().trajectory()[1:]:
        assert state.action is not None
        assert state.action.tolist() == [1, 0, 0, 0, 0]
