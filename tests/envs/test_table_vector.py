"""Many environments at once equal as many single ones, to the bit, in every autoreset mode."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode
from vectors import equal_to_single_ones

from prune_gym.envs.blocks import BlocksEnv
from prune_gym.envs.table_vector import BlocksVectorEnv, TableVectorEnv, TabularVectorEnv
from prune_gym.envs.tabular import TabularEnv
from prune_gym.scoring.evaluation import Score
from prune_gym.simulation.score_functions import elementwise
from prune_gym.simulation.table import Table

COPIES = 7
SETTINGS: dict[str, Any] = {"macs_reduction": 0.5, "reward": "flops"}


@pytest.mark.parametrize(
    ("kinds", "settings"),
    [
        ((BlocksVectorEnv, BlocksEnv), {"cost": "1 - accuracy"}),
        ((TabularVectorEnv, TabularEnv), {"step_ratio": 0.02}),
        ((TabularVectorEnv, TabularEnv), {"cost": lambda before, after, baseline: before.accuracy - after.accuracy}),
        ((TabularVectorEnv, TabularEnv), {"step_ratio": 0.1, "observation": "full"}),
    ],
)
@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_equal_to_single_environments(
    table: Table,
    mode: AutoresetMode,
    kinds: tuple[type[TableVectorEnv], type[BlocksEnv | TabularEnv]],
    settings: dict[str, Any],
) -> None:
    settings = SETTINGS | settings
    many = kinds[0](COPIES, autoreset_mode=mode, table=table, **settings)  # type: ignore[call-arg]
    single = [kinds[1](table=table, **settings) for _ in range(COPIES)]
    assert equal_to_single_ones(many, single, mode, 60) > 10
    found = [env.best for env in single]
    assert many.best is not None
    assert many.best.yardstick == max(each.yardstick for each in found)
    assert many.evaluations == sum(env.evaluations for env in single)


@pytest.mark.parametrize("kind", [BlocksVectorEnv, TabularVectorEnv])
def test_rewards_and_yardsticks_of_ones_own_are_checked(table: Table, kind: type[Any]) -> None:
    """Those that compute with numbers are called for each copy; what is no finite number is refused before anything has moved."""

    def good(before: Score, after: Score, baseline: Score) -> float:
        return 1.0 if after.accuracy > 0.9 else min(after.accuracy, before.accuracy)

    def finds(after: Score, baseline: Score) -> float:
        return max(after.accuracy, 0.5)

    many = kind(3, table=table, macs_reduction=0.6, reward=good, yardstick=finds)
    many.reset()
    many.action_space.seed(1)
    while many.best is None:
        accuracies = many.step(many.action_space.sample())
        assert accuracies[1].dtype == np.float64
        assert (accuracies[1] <= 1).all()
    assert many.best.yardstick == max(many.best.score.accuracy, 0.5)
    for settings, error, message in [
        ({"reward": lambda before, after, baseline: float("nan")}, ValueError, "reward: expected a finite number, got nan"),
        ({"reward": lambda before, after, baseline: "x"}, TypeError, "reward: expected a finite number, got 'x'"),
        ({"cost": lambda before, after, baseline: "x"}, TypeError, "cost: expected a finite number, got 'x'"),
        ({"yardstick": lambda after, baseline: float("inf")}, ValueError, "yardstick: expected a finite number, got inf"),
        ({"reward": elementwise(lambda before, after, baseline: after.accuracy * np.nan)}, ValueError, "reward: expected finite"),
    ]:
        many = kind(3, table=table, macs_reduction=0.6, **settings)
        many.reset()
        actions = np.zeros_like(many.action_space.sample())
        visited = [many._states]

        def steps(many: TableVectorEnv = many, actions: np.ndarray = actions, visited: list[np.ndarray] = visited) -> None:
            while True:
                many.step(actions)
                visited.append(many._states)

        with pytest.raises(error, match=message):
            steps()
        assert many._states is visited[-1]


def test_the_first_of_equal_networks_is_the_best(table: Table) -> None:
    many = BlocksVectorEnv(3, table=table, macs_reduction=0.4, yardstick=lambda after, baseline: 1.0)
    many.reset()
    first = None
    for step in range(60):
        many.step(np.array([0, 1, step % 5]))
        first = first or many.best
    assert first is not None
    assert many.best is first


def test_misuse_of_distributions_is_named(table: Table) -> None:
    many = TabularVectorEnv(2, table=table)
    many.reset()
    good = many.action_space.sample()
    for bad, message in [
        (good[:1], r"actions: expected numbers of shape \(2, 5\)"),
        (good.astype(bool), r"actions: expected numbers of shape \(2, 5\), got bool"),
        (good - 2, r"actions: expected numbers in \[0, 1\]"),
        (good + 2, r"actions: expected numbers in \[0, 1\]"),
        (good * np.nan, r"actions: expected numbers in \[0, 1\]"),
    ]:
        with pytest.raises(ValueError, match=message):
            many.step(bad)
    for settings, message in [
        ({"reward": "vector"}, "reward: expected one that is a number, got 'vector'"),
        ({"render_mode": "ansi"}, "render_mode: copies on a table are not rendered"),
        ({"autoreset_mode": "Foo"}, "autoreset_mode: expected one of NextStep"),
    ]:
        with pytest.raises(ValueError, match=message):
            TabularVectorEnv(2, table=table, **settings)
    for kind, settings, message in [
        (ValueError, {"seed": -1}, "seed: expected an integer >= 0"),
        (TypeError, {"seed": "abc"}, "seed: expected an integer"),
        (ValueError, {"seed": [1]}, "seed: expected one for each of 2 environments, got 1"),
        (TypeError, {"options": 3}, "options: expected a dict or None, got int"),
    ]:
        with pytest.raises(kind, match=message):
            many.reset(**settings)  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match="reset: the first one is of all environments"):
        TabularVectorEnv(2, table=table).reset(options={"reset_mask": np.array([True, False])})


def test_the_action_of_a_copy_that_begins_anew_does_not_matter(table: Table) -> None:
    many = TabularVectorEnv(1, table=table, macs_reduction=0.3)
    many.reset()
    while not many.step(np.ones((1, 5)))[2]:
        pass
    assert (many.step(np.full((1, 5), np.nan))[0] == 1).all()


def test_misuse_is_named_and_changes_nothing(table: Table) -> None:
    many = BlocksVectorEnv(2, AutoresetMode.DISABLED, table=table, **SETTINGS)
    with pytest.raises(RuntimeError, match=r"none has begun; call reset\(\) first"):
        many.step(np.zeros(2, int))
    many.reset()
    for actions in (np.array([0, 5]), np.array([0]), np.array([0.0, 1.0]), np.array([-1, 0])):
        with pytest.raises(ValueError, match=r"actions: expected 2 integers in \[0, 5\)"):
            many.step(actions)
    assert many.evaluations == 0
    for mask in (np.array([True]), np.array([1, 0]), np.zeros(2, bool), [True, False]):
        with pytest.raises(ValueError, match="reset_mask: expected a bool array"):
            many.reset(options={"reset_mask": mask})
    while not many.step(np.zeros(2, int))[2].any():
        pass
    spent = many.evaluations
    with pytest.raises(RuntimeError, match="an episode has ended"):
        many.step(np.zeros(2, int))
    assert many.evaluations == spent
    with pytest.raises(ValueError, match="num_envs: expected an integer >= 1, got 0"):
        BlocksVectorEnv(0, table=table)
