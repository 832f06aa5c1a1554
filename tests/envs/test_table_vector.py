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
from prune_gym.simulation.table import Table

COPIES = 7
SETTINGS: dict[str, Any] = {"macs_reduction": 0.5, "reward": "flops"}


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
    kinds: tuple[type[TableVectorEnv], type[BlocksEnv | TabularEnv]],
    settings: dict[str, Any],
) -> None:
    settings = SETTINGS | settings
    many = kinds[0](COPIES, autoreset_mode=mode, table=table, **settings)  # type: ignore[call-arg]
    single = [kinds[1](table=table, **settings) for _ in range(COPIES)]
    assert equal_to_single_ones(many, single, mode, 120) > 10
    found = [env.best for env in single]
    assert many.best is not None
    assert many.best.yardstick == max(each.yardstick for each in found)
    assert many.evaluations == sum(env.evaluations for env in single)


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
