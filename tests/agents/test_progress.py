"""What a run says before it searches, and how often agents prune to the target."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from prune_gym.agents import LookaheadConfig, RLPrunerConfig, RunConfig
from prune_gym.agents.progress import announcement, expected_episodes, expected_seconds, in_words
from prune_gym.envs import PruningEnv
from prune_gym.tasks import Task
from prune_gym.training.distillation import PostTraining

STEPS = 5


@pytest.mark.parametrize(
    ("settings", "evaluations", "episodes"),
    [
        ({"agent": "uniform"}, 100, 1),
        ({"agent": "random"}, 104, 20),
        ({"agent": "ppo"}, 3, 1),
        ({"agent": "rl_pruner", "rl_pruner": RLPrunerConfig(stages=2, samples=4)}, 2 * STEPS * 9, 2),
        ({"agent": "lookahead", "lookahead": LookaheadConfig(stages=1, samples=4)}, 4 * STEPS * 5 + 1, 4),
        ({"agent": "lookahead"}, 100, 1),
    ],
)
def test_how_often_agents_reach_the_target(settings: dict, evaluations: int, episodes: int) -> None:
    assert expected_episodes(RunConfig(**settings), STEPS, evaluations) == episodes


@pytest.mark.parametrize(
    ("duration", "words"),
    [(0.1, "1 second"), (1.6, "2 seconds"), (60, "60 seconds"), (80, "1 minute"), (3600, "60 minutes"), (9000, "2 hours")],
)
def test_durations_in_words(duration: float, words: str) -> None:
    assert in_words(duration) == words


def make_env(task: Task, config: RunConfig) -> PruningEnv:
    env = config.environment(task)
    env.reset()
    return env


def test_an_announcement(tiny_task: Task) -> None:
    config = RunConfig(agent="random", params_reduction=0.4, step_ratio=0.1, device="cpu", fidelity="compensated")
    trained = replace(config, posttraining=PostTraining(epochs=3, period=2))
    env = make_env(tiny_task, config)
    text = announcement(config, "random", env, 70, Path("somewhere"))
    gone = env.simulator.schedule.target / env.graph.cost(env.graph.full()).params
    first, second = text.split("\n")
    assert first == (
        f"random prunes tiny: {gone:.1%} of the parameters in {env.steps_left} steps. At most 70 networks are scored "
        f"(compensated, {len(tiny_task.val)} images)."
    )
    assert second.startswith("This takes about ")
    assert second.endswith(" on cpu. Run folder: somewhere")
    text = announcement(trained, "random", make_env(tiny_task, trained), 70, Path("somewhere"))
    assert " After every 2 steps the network is trained for 3 epochs. " in text


def test_the_expected_time_grows_with_the_work(tiny_task: Task) -> None:
    config = RunConfig(agent="random", macs_reduction=0.4, step_ratio=0.1, device="cpu")
    trained = replace(config, posttraining=PostTraining(epochs=500))
    env = make_env(tiny_task, config)
    short, long = (expected_seconds(config, env, evaluations) for evaluations in (10, 10_000))
    assert 0 < short < long / 100
    assert expected_seconds(trained, make_env(tiny_task, trained), 10) > 2 * short


def test_the_estimate_leaves_no_trace(tiny_task: Task) -> None:
    """Neither in the counts of the environment nor in the random generator."""
    config = RunConfig(macs_reduction=0.4, step_ratio=0.1, device="cpu", posttraining=PostTraining(epochs=1))
    env = make_env(tiny_task, config)
    before, state = (env.evaluations, env.compute, env.best, env.snapshot()), torch.get_rng_state()
    expected_seconds(config, env, 30)
    assert (env.evaluations, env.compute, env.best, env.snapshot()) == before
    assert torch.equal(torch.get_rng_state(), state)
