"""Many environments at once equal as many single ones, to the bit, in every autoreset mode."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from prune_gym.envs.blocks import BlocksEnv
from prune_gym.envs.table_vector import BlocksVectorEnv, TableVectorEnv, TabularVectorEnv
from prune_gym.envs.tabular import TabularEnv
from prune_gym.simulation.table import Table

COPIES = 7
SETTINGS: dict[str, Any] = {"macs_reduction": 0.5, "reward": "flops"}


def same(one: Any, other: Any) -> None:
    """The same keys, types and numbers."""
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            same(one[key], other[key])
    elif one.dtype == object:
        for a, b in zip(one, other, strict=True):
            assert (a is None) == (b is None)
            if a is not None:
                same(np.asarray(a), np.asarray(b))
    else:
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("kinds", "settings"),
    [
        ((BlocksVectorEnv, BlocksEnv), {}),
        ((TabularVectorEnv, TabularEnv), {"step_ratio": 0.02}),
        ((TabularVectorEnv, TabularEnv), {"step_ratio": 0.1, "observation": "full"}),
    ],
)
@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_equal_to_single_environments(
    table: Table,
    mode: AutoresetMode,
    kinds: tuple[type[TableVectorEnv], type[gymnasium.Env]],
    settings: dict[str, Any],
) -> None:
    settings = SETTINGS | settings
    many = kinds[0](COPIES, autoreset_mode=mode, table=table, **settings)  # type: ignore[call-arg]
    single = SyncVectorEnv([lambda: kinds[1](table=table, **settings)] * COPIES, autoreset_mode=mode)
    assert many.observation_space == single.observation_space
    assert many.action_space == single.action_space
    assert many.metadata["autoreset_mode"] is single.metadata["autoreset_mode"] is mode
    many.action_space.seed(0)
    for seed in (3, None):
        for a, b in zip(many.reset(seed=seed), single.reset(seed=seed), strict=True):
            same(a, b)
        ended = 0
        for step in range(120):
            actions = many.action_space.sample() * (1 if step % 5 else 0)  # all zeros, too
            ours, theirs = many.step(actions), single.step(actions)
            for a, b in zip(ours, theirs, strict=True):
                same(a, b)
            ended += int(ours[2].sum())
            if mode is AutoresetMode.DISABLED and ours[2].any():
                for a, b in zip(
                    many.reset(options={"reset_mask": ours[2]}), single.reset(options={"reset_mask": ours[2].copy()}), strict=True
                ):
                    same(a, b)
        assert ended > 10
    found = [env.unwrapped.best for env in single.envs]
    assert many.best is not None
    assert many.best.yardstick == max(each.yardstick for each in found)
    assert many.evaluations == sum(env.unwrapped.evaluations for env in single.envs)


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
