"""EagleEye's search: its candidates against draws one by one, and the networks that they become."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from typing import Any

import gymnasium
import numpy as np
import pytest

import prune_gym  # noqa: F401  # registers the environments
from prune_gym.agents import eagle_eye
from prune_gym.agents.eagle_eye import EagleEyeAgent, EagleEyeConfig
from prune_gym.envs import PruningEnv, TabularEnv
from prune_gym.envs.wrappers import pruning_env
from prune_gym.tasks import Task
from prune_gym.training.distillation import PostTraining

TARGETS = ("sparsity", "macs_reduction", "params_reduction")
COUNTS = dict(zip(TARGETS, ("filters", "macs", "params"), strict=True))


def restated(
    env: PruningEnv, count: int, seed: int, config: EagleEyeConfig, allowed: Any, target: float, cost: Callable[[list[int]], int]
) -> list[list[int]]:
    """The first different widths that are accepted, drawn one after the other."""
    rng, accepted = np.random.default_rng(seed), []
    full = [int(widths[-1]) for widths in allowed]
    while len(accepted) < count:
        fractions = rng.uniform(config.low, 1, len(full))
        widths = [
            min(int(w) for w in mine if w >= fraction * mine[-1]) for mine, fraction in zip(allowed, fractions, strict=True)
        ]
        beyond = cost(full) - cost(widths) - np.ceil(target * cost(full))
        if 0 <= beyond <= config.tolerance * cost(full) and widths not in accepted:
            accepted.append(widths)
    return accepted


def candidates(env: PruningEnv, count: int, seed: int, config: EagleEyeConfig) -> np.ndarray:
    return np.array(list(islice(EagleEyeAgent(env, config, seed=seed).candidates(), count)))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("space", [{}, {"min_width": 0.5, "exclude": ["inner"]}, {"round_to": 2}, {"levels": 3}], ids=str)
def test_against_draws_one_by_one(tiny_task: Task, target: str, space: dict[str, Any]) -> None:
    limits: Any = {target: 0.3, **space}
    env = PruningEnv(tiny_task, **limits, device="cpu")
    config = EagleEyeConfig(low=0.3, tolerance=0.02)
    graph = tiny_task.graph

    def cost(widths: list[int]) -> int:
        if target == "sparsity":
            return sum(w * group.filters_per_unit for w, group in zip(widths, graph.groups, strict=True))
        kept = [np.arange(group.width) < w for w, group in zip(widths, graph.groups, strict=True)]
        return getattr(graph.cost(graph.architecture(kept)), COUNTS[target])

    expected = restated(env, 5, 4, config, env.simulator.space.allowed, 0.3, cost)
    np.testing.assert_array_equal(candidates(env, 5, 4, config), expected)


@pytest.mark.parametrize("target", TARGETS)
def test_on_tables(target: str) -> None:
    limits: Any = {target: 0.6}
    env = TabularEnv("digits-resnet", **limits)
    table, config = env.simulator.table, EagleEyeConfig(low=0.1)

    def cost(widths: list[int]) -> int:
        levels = np.array([list(mine).index(w) for mine, w in zip(table.allowed, widths, strict=True)])
        if target == "sparsity":
            return int(np.array(widths) @ table.filters_per_unit)
        return int(getattr(table, COUNTS[target])(levels))

    expected = restated(env, 5, 1, config, table.allowed, 0.6, cost)
    np.testing.assert_array_equal(candidates(env, 5, 1, config), expected)


def test_each_candidate_is_scored_once(tiny_task: Task) -> None:
    """Whatever the steps of other agents are."""
    env, config = PruningEnv(tiny_task, macs_reduction=0.5, step_ratio=1 / 8, device="cpu"), EagleEyeConfig(tolerance=0.05)
    drawn = candidates(env, 30, 2, config)
    seen, worth = [], []

    class Watched(EagleEyeAgent):
        def _on_evaluation(self, action: Any, preview: Any, *others: Any) -> bool:
            assert preview.terminated
            assert 0.5 <= preview.score.flops_reduction <= 0.55 + 1e-3
            seen.append(preview.snapshot.widths)
            worth.append(preview.score.accuracy)
            return super()._on_evaluation(action, preview, *others)

    agent = Watched(env, config, seed=2).learn(30)
    assert agent.num_timesteps == env.evaluations == 30
    np.testing.assert_array_equal(seen, drawn)
    assert len({str(widths) for widths in seen}) > 20
    assert agent.best is not None
    assert agent.best.yardstick == max(worth)


def test_with_post_training_every_network_is_trained(tiny_task: Task) -> None:
    training = PostTraining(epochs=1, final_epochs=2, period=3, batch_size=60)
    env = PruningEnv(tiny_task, macs_reduction=0.5, posttraining=training, device="cpu")
    agent = EagleEyeAgent(env, EagleEyeConfig(tolerance=0.1), seed=2).learn(3)  # fewer than the steps of other agents
    assert agent.num_timesteps == 3
    assert agent.best is not None
    assert agent.best.snapshot.weights.final


@pytest.mark.parametrize("step_ratio", [1.0, 0.05])
def test_predict_leads_to_the_best_network(step_ratio: float) -> None:
    env = TabularEnv("digits", macs_reduction=0.75, step_ratio=step_ratio, reward="accuracy")
    agent = EagleEyeAgent(env, seed=0).learn(200)
    assert agent.best is not None
    observation, _ = env.reset()
    ended = False
    while not ended:
        observation, accuracy, ended, _, _ = env.step(agent.predict(observation)[0])
    assert accuracy == pytest.approx(agent.best.score.accuracy, abs=0 if step_ratio == 1 else 0.1)


def test_no_network_is_scored_twice() -> None:
    env = TabularEnv("digits-mobilenet", macs_reduction=0.75)
    seen = candidates(env, 1500, 3, EagleEyeConfig())
    assert len(np.unique(seen, axis=0)) == len(seen) > 500  # all that there are


def test_seeds() -> None:
    def search(seed: int) -> bytes:
        env = gymnasium.make("PruneGym/Tabular-Digits-v0")
        EagleEyeAgent(env, seed=seed).learn(500)
        best = pruning_env(env).best
        assert best is not None
        assert best.snapshot.action is not None
        assert best.score.flops_reduction >= 0.75
        return best.snapshot.action.tobytes()

    first = search(0)
    assert search(0) == first
    assert search(1) != first


def test_a_target_that_no_draw_meets(tiny_task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    env = PruningEnv(tiny_task, sparsity=0.6, device="cpu")
    monkeypatch.setattr(eagle_eye, "MOST_DRAWN", 3 * eagle_eye.DRAWN_AT_ONCE)
    with pytest.raises(ValueError, match=r"low: expected .* the target, 0\.6.* of the filters, .* draws from 0\.9 to 1 did not"):
        EagleEyeAgent(env, EagleEyeConfig(low=0.9), seed=0).learn(100)
    assert env.evaluations == 0


def test_a_target_that_few_draws_meet(monkeypatch: pytest.MonkeyPatch) -> None:
    env = TabularEnv("digits-resnet", macs_reduction=0.9)
    monkeypatch.setattr(eagle_eye, "MOST_DRAWN", 2 * eagle_eye.DRAWN_AT_ONCE)
    agent = EagleEyeAgent(env, EagleEyeConfig(low=0.11), seed=1).learn(1000)
    assert 0 < agent.num_timesteps < 1000
    assert env.best is not None


@pytest.mark.parametrize("settings", [{"low": 1.0}, {"low": -0.1}, {"tolerance": 1.0}], ids=str)
def test_bad_settings(settings: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=rf"{next(iter(settings))}: expected a number in \[0, 1\)"):
        EagleEyeConfig(**settings)
