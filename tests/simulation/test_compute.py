"""What scoring, ranking and training cost, counted by hand."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from prune_gym.envs import PruningEnv
from prune_gym.scoring.calibration import COMPENSATION_IMAGES, RECALIBRATION_IMAGES
from prune_gym.scoring.compensation import SolvingCost
from prune_gym.simulation.compute import Compute, passes
from prune_gym.tasks import Task

TRAIN, VAL, CALIBRATION = 120, 120, 100  # images of the tiny task


def test_sums_and_passes() -> None:
    assert passes(10, 7) == Compute(10, 0, 70)
    assert passes(10, 7, backward=True) == Compute(10, 10, 210)
    assert Compute(1, 2, 3) + Compute(10, 20, 30) == Compute(11, 22, 33)


def episode(env: PruningEnv) -> list[tuple[int, int]]:
    """The MACs of the networks before and after every step of an episode of uniform actions."""
    env.reset()
    macs = [env.score().macs]
    while env.steps_left:
        env.step(env.uniform_action)
        macs.append(env.score().macs)
    return list(pairwise(macs))


@pytest.mark.parametrize(("importance", "factor"), [("taylor", 3), ("l1", 0), ("random", 0)])
@pytest.mark.parametrize(("fidelity", "calibrated"), [("original", 0), ("recalibrated", min(TRAIN, RECALIBRATION_IMAGES))])
def test_steps(own_tiny_task: Task, importance: str, factor: int, fidelity: str, calibrated: int) -> None:
    env = PruningEnv(own_tiny_task, importance=importance, fidelity=fidelity, step_ratio=0.1)
    steps = episode(env)
    expected = sum((VAL + calibrated) * after + factor * CALIBRATION * before for before, after in steps)
    ranked = CALIBRATION * len(steps) if factor else 0
    assert env.compute == Compute((VAL + calibrated) * len(steps) + ranked, ranked, expected)


def test_linear_systems(own_tiny_task: Task) -> None:
    env = PruningEnv(own_tiny_task, importance="obs", fidelity="compensated", step_ratio=0.25, sparsity=0.3)
    env.reset()
    cost, expected = SolvingCost(env.graph), 0
    while env.steps_left:
        expected += cost.removal_errors(env.architecture)
        env.step(env.uniform_action)
        expected += (VAL + min(TRAIN, RECALIBRATION_IMAGES)) * env.score().macs + cost.compensating(
            env.architecture, env.graph.full()
        )
    assert env.compute.macs == expected
    assert env.compute.images_backward == 0


@pytest.mark.parametrize(("start", "final"), [("cut", None), ("compensated", None), ("cut", 3)])
def test_post_training(own_tiny_task: Task, start: str, final: int | None) -> None:
    training = {"epochs": 2, "period": 2, "learning_rate": 0.01, "batch_size": 64, "start": start, "final_epochs": final}
    env = PruningEnv(own_tiny_task, fidelity="original", importance="l1", step_ratio=0.2, sparsity=0.4, posttraining=training)
    env.reset()
    full = before_base = env.score().macs
    expected = 0
    while env.steps_left:
        env.step(env.uniform_action)
        macs = env.score().macs
        expected += VAL * macs
        state = env.snapshot()
        if env.simulator.trains(state):
            teacher = state.weights.teacher
            assert teacher is not None
            teacher_macs = env.graph.cost(teacher.architecture).macs
            epochs = 2 if env.steps_left else final or 2
            expected += epochs * (TRAIN * (3 * macs + teacher_macs) + VAL * macs)
            if start == "compensated":
                expected += min(TRAIN, COMPENSATION_IMAGES) * (before_base + macs)
            before_base = macs
    assert full > before_base
    assert env.compute.macs == expected


def test_a_ranking_is_paid_for_once_in_an_episode_and_every_score_each_time(own_tiny_task: Task) -> None:
    env = PruningEnv(own_tiny_task, fidelity="original", step_ratio=0.1)
    env.reset()
    actions = np.eye(5)[[0, 1, 1]]
    previews = env.preview(actions)
    ranking = 3 * CALIBRATION * env.score().macs
    scores = VAL * sum(preview.score.macs for preview in previews)
    assert env.compute.macs == ranking + scores
    env.preview(actions)
    assert env.compute.macs == ranking + 2 * scores
    info = env.step(actions[0])[-1]
    assert info["compute"] == env.compute.macs == ranking + 2 * scores + VAL * info["macs"]
    before = env.compute.macs
    assert env.reset()[1]["compute"] == 0
    env.preview(actions)
    assert env.compute.macs == before + ranking + scores


def test_the_initial_ranking_is_paid_for_once_in_an_episode(own_tiny_task: Task) -> None:
    env = PruningEnv(own_tiny_task, fidelity="original", step_ratio=0.1, ranking="initial")
    _, start = env.reset()
    infos = [env.step(env.uniform_action)[-1] for _ in range(3)]
    assert env.compute.macs == 3 * CALIBRATION * start["macs"] + VAL * sum(info["macs"] for info in infos)


def test_it_does_not_depend_on_what_is_cached(own_tiny_task: Task) -> None:
    def infos(env: PruningEnv) -> list[dict[str, Any]]:
        env.reset()
        found = []
        while env.steps_left:
            found.append(env.step(env.uniform_action)[-1])
        return found

    env = PruningEnv(own_tiny_task, step_ratio=0.2)
    first, second = infos(env), infos(env)
    assert [info["compute"] for info in first] == [info["compute"] for info in second]
    assert env.compute.macs == 2 * first[-1]["compute"]
