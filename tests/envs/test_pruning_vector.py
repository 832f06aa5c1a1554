"""Live environments that step together: equal to single ones, each network scored once, and one network in memory."""

from __future__ import annotations

import copy
import pickle
from itertools import product
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode
from vectors import equal_to_single_ones

from prune_gym.envs import PruningEnv
from prune_gym.envs.pruning_vector import PruningVectorEnv
from prune_gym.scoring.evaluation import Evaluator
from prune_gym.simulation.scorer import Scorer
from prune_gym.simulation.weight_store import WeightStore
from prune_gym.tasks import Task

SETTINGS: dict[str, Any] = {"macs_reduction": 0.5, "step_ratio": 0.1, "reward": "flops", "device": "cpu"}


COST = {"cost": "1 - accuracy"}
FULL = {"observation": "full", "fidelity": "compensated", "importance": "obs"}
LEVELS = {"levels": 4, "ranking": "initial"}
EVERYDAY = [(COST, AutoresetMode.NEXT_STEP), (FULL, AutoresetMode.SAME_STEP), (LEVELS, AutoresetMode.DISABLED)]
OTHERS = [case for case in product((COST, FULL, LEVELS), AutoresetMode) if case not in EVERYDAY]


@pytest.mark.parametrize(
    ("settings", "mode"), [*EVERYDAY, *(pytest.param(*case, marks=pytest.mark.slow) for case in OTHERS)], ids=str
)
def test_equal_to_single_environments(tiny_task: Task, mode: AutoresetMode, settings: dict[str, Any]) -> None:
    many = PruningVectorEnv(3, mode, task=tiny_task, **SETTINGS, **settings)
    single = [PruningEnv(tiny_task, **SETTINGS, **settings) for _ in range(3)]
    assert equal_to_single_ones(many, single, mode, 12) >= 6
    assert many.evaluations == sum(env.evaluations for env in single)
    assert many.best is not None
    assert many.best.yardstick == max(env.best.yardstick for env in single if env.best is not None)


def test_equal_with_post_training(tiny_task: Task) -> None:
    settings = {**SETTINGS, "posttraining": {"epochs": 1, "batch_size": 60}, "step_ratio": 0.25}
    many = PruningVectorEnv(3, task=tiny_task, **settings)
    assert equal_to_single_ones(many, [PruningEnv(tiny_task, **settings) for _ in range(3)], AutoresetMode.NEXT_STEP, 4) >= 3


@pytest.mark.slow
@pytest.mark.parametrize("name", ["Digits", "Digits-ResNet", "Digits-MobileNet"])
def test_64_equal_64(name: str) -> None:
    many = gymnasium.make_vec(f"PruneGym/{name}-v0", num_envs=64, macs_reduction=0.3, step_ratio=0.1)
    single = [gymnasium.make(f"PruneGym/{name}-v0", macs_reduction=0.3, step_ratio=0.1) for _ in range(64)]
    assert isinstance(many, PruningVectorEnv)
    assert equal_to_single_ones(many, single, AutoresetMode.NEXT_STEP, 4) >= 64


def test_networks_are_scored_once(tiny_task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    scored = []
    accuracies = Evaluator.accuracies
    monkeypatch.setattr(Evaluator, "accuracies", lambda self, given: scored.append(len(given)) or accuracies(self, given))
    many = PruningVectorEnv(5, task=tiny_task, **SETTINGS)
    many.reset()
    scored.clear()
    groups = len(many.simulator.graph.groups)
    one, other = np.ones(groups, np.float32), np.eye(groups, dtype=np.float32)[0]
    many.step(np.stack([one, other, one, other, one]))
    assert scored == [2]
    many.step(np.stack([one, one, one, one, one]))
    assert scored == [2, 2]


def test_copies_share_the_network(tiny_task: Task) -> None:
    many = PruningVectorEnv(4, task=tiny_task, **SETTINGS)
    assert {id(env.simulator.store) for env in many.envs} == {id(many.simulator.store)}
    assert [env.evaluations for env in many.envs] == [0] * 4


def test_misuse_is_named_and_changes_nothing(tiny_task: Task) -> None:
    many = PruningVectorEnv(2, AutoresetMode.DISABLED, task=tiny_task, **SETTINGS)
    actions = many.action_space.sample()
    with pytest.raises(RuntimeError, match=r"step: call reset\(\) first"):
        many.step(actions)
    many.reset()
    bad = actions.copy()
    bad[1, 0] = np.nan
    for wrong, message in [(bad, "action: expected finite numbers"), (actions[:1], "actions: expected one for each of 2")]:
        with pytest.raises(ValueError, match=message):
            many.step(wrong)
    assert many.evaluations == 0
    while not many.step(actions)[2].any():
        pass
    spent = many.evaluations
    with pytest.raises(RuntimeError, match="an episode has ended"):
        many.step(actions)
    assert many.evaluations == spent
    with pytest.raises(ValueError, match="num_envs: expected an integer >= 1, got 0"):
        PruningVectorEnv(0, task=tiny_task)
    with pytest.raises(ValueError, match="reward: expected one that is a number, got 'vector'"):
        PruningVectorEnv(2, task=tiny_task, reward="vector")


def test_what_was_prepared_is_used_for_the_same_action_alone(tiny_task: Task) -> None:
    env, other = PruningEnv(tiny_task, **SETTINGS), PruningEnv(tiny_task, **SETTINGS)
    one, two = np.eye(len(env.graph.groups))[:2]
    for each in (env, other):
        each.reset()
    env.prepare(one)
    assert (env.step(two)[0] == other.step(two)[0]).all()
    ahead = env.prepare(one)
    env.step(one)
    assert env.snapshot() is ahead
    env.prepare(one)
    for other in (copy.deepcopy(env), pickle.loads(pickle.dumps(env))):
        other.step(one)
        assert other.snapshot().architecture.graph is other.graph
    env.prepare(two)
    env.reset()
    env.step(two)
    assert env.snapshot().steps == 1
    here = env.snapshot()
    env.prepare(two)
    env.restore(here.trajectory()[0])
    env.step(two)
    assert env.snapshot().steps == 1
    env.reset()
    env.prepare(two)
    assert env.prune_to(env.simulator.space.lowest).terminated
    with pytest.raises(RuntimeError, match="step: "):
        env.step(two)


def test_rankings_are_computed_together(tiny_task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    ranked = []
    rank = Scorer.rank
    monkeypatch.setattr(Scorer, "rank", lambda self, networks: ranked.append(len(networks)) or rank(self, networks))
    many = PruningVectorEnv(3, task=tiny_task, **SETTINGS)
    many.reset()
    many.step(many.action_space.sample())
    ranked.clear()
    many.step(many.action_space.sample())
    assert ranked[0] == 3


def test_with_post_training_no_network_is_trained_twice(tiny_task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    """The weights that the copies need stay in memory, those of the best network of each included."""
    trained: list[str] = []
    train = WeightStore._train

    def noted(self: WeightStore, weights: Any) -> float:
        trained.append(weights.version)
        return train(self, weights)

    monkeypatch.setattr(WeightStore, "_train", noted)
    settings = {**SETTINGS, "posttraining": {"epochs": 1, "batch_size": 60}, "step_ratio": 0.17}
    many = PruningVectorEnv(6, task=tiny_task, **settings)
    many.reset()
    many.action_space.seed(0)
    for _ in range(7):
        many.step(many.action_space.sample())
    assert len(trained) > 20
    assert len(trained) == len(set(trained))
    for env in many.envs:
        assert env.best is not None
        assert env.best.snapshot.weights.version in many.simulator.store._stored


def test_the_first_of_equal_networks_is_the_best(tiny_task: Task) -> None:
    many = PruningVectorEnv(2, task=tiny_task, **SETTINGS, yardstick=lambda after, baseline: 1.0)
    many.reset()
    groups = len(many.simulator.graph.groups)
    slow, fast = np.zeros((2, groups), np.float32)
    fast[0] = 1  # which is at the target sooner or as soon
    first = None
    for _ in range(14):
        many.step(np.stack([slow, fast]))
        first = first or many.best
    assert first is not None
    assert many.best is first
