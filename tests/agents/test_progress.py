"""What a run says before it searches: that it is right, and that it leaves no trace."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from prune_gym.agents import EagleEyeConfig, LookaheadConfig, RandomAgent, RLPrunerConfig, RunConfig, progress, run
from prune_gym.agents.amc import AMCConfig
from prune_gym.agents.own import Own
from prune_gym.agents.progress import announcement, expected_seconds, in_words
from prune_gym.agents.run import prepare, search
from prune_gym.agents.search_agent import SearchAgent, steps_to_the_target
from prune_gym.agents.work import Work, work_in_steps
from prune_gym.envs import PruningEnv
from prune_gym.tasks import Task
from prune_gym.training.distillation import PostTraining

SMALL = {"macs_reduction": 0.4, "step_ratio": 0.1, "device": "cpu"}


@pytest.mark.parametrize(
    ("settings", "evaluations"),
    [
        ({"agent": "uniform"}, 50),
        ({"agent": "taylor"}, 50),
        ({"agent": "random"}, 50),
        ({"agent": "cma_es"}, 50),
        ({"agent": "ppo"}, 50),
        ({"agent": "ars"}, 50),
        ({"agent": "rl_pruner", "rl_pruner": RLPrunerConfig(stages=2, samples=3)}, 100),
        ({"agent": "rl_pruner", "rl_pruner": RLPrunerConfig(stages=2, samples=3)}, 28),
        ({"agent": "rl_pruner", "rl_pruner": RLPrunerConfig(stages=1, samples=10)}, 30),
        ({"agent": "lookahead", "lookahead": LookaheadConfig(stages=1, samples=5)}, 90),
        ({"agent": "lookahead"}, 37),
        ({"agent": "lamp"}, 50),
        ({"agent": "greedy"}, 50),
        ({"agent": "gnn_rl"}, 20),
        ({"agent": "eagle_eye", "eagle_eye": EagleEyeConfig(tolerance=0.1)}, 20),
        ({"agent": "amc", "amc": AMCConfig(warmup_episodes=5)}, 20),
    ],
)
def test_the_expected_work_is_what_is_done(tiny_task: Task, settings: dict[str, Any], evaluations: int) -> None:
    config = RunConfig(**SMALL, **settings, evaluations=evaluations)
    env, agent, budget = prepare(config, own=Own(tiny_task))
    env.reset()
    steps = steps_to_the_target(agent, env.steps_left)
    expected = agent.expected_work(evaluations, steps) if isinstance(agent, SearchAgent) else work_in_steps(evaluations, steps)
    recorder = search(env, agent, budget)
    steps = [row for row in recorder.rows if row["kind"] == "step"]
    assert expected.scored == pytest.approx(len(recorder.rows), abs=3)  # what pays for no episode is left over
    assert expected.steps == pytest.approx(len(steps), abs=3)
    assert expected.episodes == len({row["episode"] for row in steps if row["flops_reduction"] >= 0.4})


def test_an_agent_that_prunes_at_once_needs_no_evaluation_for_every_step(tiny_task: Task) -> None:
    env, agent, budget = prepare(RunConfig(**SMALL, agent="eagle_eye", evaluations=1), own=Own(tiny_task))
    env.reset()
    assert env.steps_left > 1
    assert len(search(env, agent, budget).rows) == 1
    for other in ("random", "ppo", "sac"):
        with pytest.raises(ValueError, match="evaluations: expected at least 4, one per pruning step, got 1"):
            prepare(RunConfig(**SMALL, agent=other, evaluations=1), own=Own(tiny_task))


def test_work_in_steps_by_hand() -> None:
    assert work_in_steps(104, 5) == Work(104, 104, 20)
    assert work_in_steps(104, 1) == Work(104, 104, 104)


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
    env = make_env(tiny_task, config)
    agent = RandomAgent(env)
    text = announcement(config, "random", agent, env, 70, Path("somewhere"))
    gone = env.simulator.schedule.target / env.graph.cost(env.graph.full()).params
    first, second = text.split("\n")
    assert first == (
        f"random prunes tiny: {gone:.1%} of the parameters in {env.steps_left} steps. At most 70 networks are scored "
        f"(compensated, {len(tiny_task.val)} images)."
    )
    assert second.startswith("From the start this takes about ")
    assert second.endswith(" on cpu. Run folder: somewhere")
    for settings, sentence in (
        (PostTraining(epochs=3, period=2), " After every 2 steps the network is trained for 3 epochs. "),
        (PostTraining(epochs=1), " After every step the network is trained for 1 epoch. "),
        (PostTraining(epochs=1, period=100), " After the last step the network is trained for 1 epoch. "),
        (
            PostTraining(epochs=1, final_epochs=9),
            " After every step the network is trained for 1 epoch, after the last one for 9. ",
        ),
        (PostTraining(epochs=1, final_epochs=9, period=100), " After the last step the network is trained for 9 epochs. "),
    ):
        trained = replace(config, posttraining=settings)
        assert sentence in announcement(trained, "random", agent, make_env(tiny_task, trained), 70, Path("somewhere"))
    bound = replace(config, compute=1e9)
    assert ", or as many as 1e+09 MACs pay for." in announcement(
        bound, "random", agent, make_env(tiny_task, bound), 70, Path("x")
    )


def test_the_expected_time_is_made_of_its_parts(tiny_task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a clock on which every call takes a second."""

    def one(function: Any, device: torch.device) -> float:
        function()
        return 1.0

    monkeypatch.setattr(progress, "seconds", one)
    config = RunConfig(agent="random", **SMALL)
    env = make_env(tiny_task, config)
    assert expected_seconds(config, env, Work(30, 12, 3)) == 30 / 2 + 12  # two networks in a call, and a ranking a step
    once = replace(config, ranking="initial")
    assert expected_seconds(once, make_env(tiny_task, once), Work(30, 12, 3)) == 30 / 2 + 3
    left = 1 - env.simulator.schedule.target / env.simulator.space.total
    epoch = len(tiny_task.train) / min(80, len(tiny_task.train)) + 1
    for final, epochs in ((None, 2), (7, 7)):  # in each of 3 episodes 4 steps, so 2 trainings
        trained = replace(config, posttraining=PostTraining(epochs=2, final_epochs=final, period=3, batch_size=10))
        expected = 27 + 3 * epoch * (2 * (1 + left) / 2 + epochs * left)
        assert expected_seconds(trained, make_env(tiny_task, trained), Work(30, 12, 3)) == pytest.approx(expected)
    bound = replace(config, compute=1.0)
    assert 0 < expected_seconds(bound, make_env(tiny_task, bound), Work(30, 12, 3)) < 1e-3


@pytest.mark.parametrize("agent", ["rl_pruner", "ppo"])
def test_a_run_that_says_what_it_does_is_the_same_run(own_tiny_task: Task, agent: str, tmp_path: Path) -> None:
    """Neither random generators nor counts nor caches know of the announcement."""
    settings = {**SMALL, "agent": agent, "evaluations": 20, "posttraining": PostTraining(epochs=1, period=2, batch_size=100)}
    folders = [run(RunConfig(**settings, out=tmp_path / str(said)), said, task=own_tiny_task).folder for said in (False, True)]
    for name in ("summary.json", "evaluations.csv", "steps.csv", "pruned.safetensors"):
        first, second = ((folder / name).read_bytes() for folder in folders)
        assert first == second, name
