"""Lookahead against a re-statement in plain loops, and what a look at the target shows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from prune_gym.agents import BudgetedEnv, Lookahead, LookaheadConfig, RunConfig
from prune_gym.agents.lookahead import softmax
from prune_gym.agents.run import prepare, search
from prune_gym.envs import PruningEnv
from prune_gym.envs.pruning import Preview
from prune_gym.tasks import Task


@pytest.fixture
def env(tiny_task: Task) -> PruningEnv:
    env = PruningEnv(tiny_task, sparsity=0.5, step_ratio=0.125, device="cpu", reward="accuracy")
    env.reset()
    return env


def budgeted(env: PruningEnv, budget: int) -> BudgetedEnv:
    return BudgetedEnv(env, budget, lambda *_: True)


# ------------------------------------------------------------------------------------------------ a look at the target


def test_a_look_at_the_target_is_one_step_that_does_all(env: PruningEnv, tiny_task: Task) -> None:
    at_once = PruningEnv(tiny_task, sparsity=0.5, step_ratio=1.0, device="cpu", reward="accuracy")
    at_once.reset()
    actions = np.random.default_rng(0).uniform(size=(6, 5)).astype(np.float32)
    for preview, expected in zip(env.preview(actions, to_target=True), at_once.preview(actions), strict=True):
        assert preview.terminated
        assert preview.score == expected.score
        assert preview.reward == expected.reward
        assert preview.snapshot.architecture == expected.snapshot.architecture


def test_it_starts_from_the_present_state(env: PruningEnv) -> None:
    rng = np.random.default_rng(1)
    for _ in range(3):
        before = env.architecture.mask
        for preview in env.preview(rng.uniform(size=(4, 5)).astype(np.float32), to_target=True):
            assert preview.score.channel_sparsity >= 0.5
            assert not (preview.snapshot.architecture.mask & ~before).any()
        env.step(rng.uniform(size=5).astype(np.float32))
    action = rng.uniform(size=(1, 5)).astype(np.float32)
    (last,), (step,) = env.preview(action, to_target=True), env.preview(action)  # one step is left, which goes there
    assert last.score == step.score


def test_it_costs_an_evaluation_and_is_not_the_best(env: PruningEnv) -> None:
    spent = env.compute.macs
    env.preview([env.uniform_action] * 3, to_target=True)
    assert env.evaluations == 3
    assert env.compute.macs > spent
    assert env.best is None
    search = budgeted(env, 10)
    search.preview(np.stack([env.uniform_action] * 2), to_target=True)
    assert (search.evaluations_left, search.best) == (10 - 2 - 4, None)


# ------------------------------------------------------------------------------------------------ the search


def test_against_a_restatement(env: PruningEnv, tiny_task: Task) -> None:
    config = LookaheadConfig(noise_std=0.7, samples=4, stages=2, elites=2)
    found = Lookahead(env, config, seed=3).learn(4 * (2 * 4 + 1)).best
    assert found is not None

    other = PruningEnv(tiny_task, sparsity=0.5, step_ratio=0.125, device="cpu", reward="accuracy")
    other.reset()
    rng, logits = np.random.default_rng(3), np.log(other.uniform_action)
    while other.steps_left:
        drawn: list[tuple[float, list[float]]] = []
        for _ in range(2):
            stage = []
            for _ in range(4):
                noisy = [m + 0.7 * n for m, n in zip(logits, rng.standard_normal(5), strict=True)]
                shares = np.exp(noisy) / np.sum(np.exp(noisy))
                (preview,) = other.preview([shares.astype(np.float32)], to_target=True)
                stage.append((float(preview.reward), noisy))
            stage.sort(key=lambda each: each[0], reverse=True)
            logits = (np.array(stage[0][1]) + np.array(stage[1][1])) / 2
            drawn.append(stage[0])
        best = max(drawn, key=lambda each: each[0])[1]
        other.step((np.exp(best) / np.sum(np.exp(best))).astype(np.float32))
    assert found.snapshot.architecture == other.architecture
    assert other.evaluations == env.evaluations == 36


@pytest.mark.parametrize("budget", [4, 12, 13, 30, 100])
def test_the_budget_is_spread_over_the_steps(env: PruningEnv, budget: int) -> None:
    agent = Lookahead(env, LookaheadConfig(samples=3, stages=5), seed=0).learn(budget)
    assert 4 <= agent.num_timesteps <= budget
    assert env.best is not None


def test_a_small_budget_goes_to_the_first_steps(env: PruningEnv, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four steps, and two stages of three samples are paid for."""
    stages: list[int] = []
    preview = PruningEnv.preview

    def noted(self: PruningEnv, actions: np.ndarray, to_target: bool = False) -> list[Preview]:
        stages.append(self.steps_left)
        return preview(self, actions, to_target)

    monkeypatch.setattr(PruningEnv, "preview", noted)
    Lookahead(env, LookaheadConfig(samples=3, stages=5), seed=0).learn(4 + 2 * 3)
    assert stages == [4, 3]


def test_without_samples_it_is_uniform(env: PruningEnv, tiny_task: Task) -> None:
    Lookahead(env, LookaheadConfig(stages=0), seed=0).learn(4)
    uniform = PruningEnv(tiny_task, sparsity=0.5, step_ratio=0.125, device="cpu")
    uniform.reset()
    while uniform.steps_left:
        uniform.step(uniform.uniform_action)
    assert env.architecture == uniform.architecture


def test_softmax() -> None:
    np.testing.assert_allclose(softmax(np.log([1.0, 2.0, 5.0]) + 1000), [0.125, 0.25, 0.625])


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"elites": 11}, "elites: expected at most as many as samples, 10, got 11"), ({"noise_std": 0}, "noise_std")],
)
def test_bad_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LookaheadConfig(**settings)


@pytest.mark.slow
@pytest.mark.parametrize("task", ["digits", "digits-resnet"])
def test_it_finds_good_networks(task: str) -> None:
    """Half of the channels gone, no training, 300 evaluations; the mean of five seeds that nothing was chosen by."""
    accuracies = []
    for seed in range(20, 25):
        env, agent, budget = prepare(RunConfig(task=task, agent="lookahead", sparsity=0.5, evaluations=300, seed=seed))
        search(env, agent, budget)
        assert env.best is not None
        accuracies.append(env.best.score.accuracy)
    assert np.mean(accuracies) >= 0.97
