"""The discrete environment on a table: what it says is what the table says, and what it may be asked."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from stable_baselines3.common.env_checker import check_env as sb3_check_env

from prune_gym.envs.blocks import BlocksEnv
from prune_gym.scoring.evaluation import Score
from prune_gym.simulation.table import Table


def levels_of(table: Table, widths: np.ndarray) -> np.ndarray:
    return np.array([allowed.tolist().index(width) for allowed, width in zip(table.allowed, widths, strict=True)])


def test_both_checkers_find_nothing(table: Table) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings(
            "ignore", message=".*not within the `render_modes`|.*spec is None|.*without a spec", category=UserWarning
        )
        check_env(BlocksEnv(table), skip_render_check=True)
        sb3_check_env(BlocksEnv(table))


@pytest.mark.parametrize("target", [{"sparsity": 0.4}, {"macs_reduction": 0.6}, {"params_reduction": 0.3}, {}])
def test_an_episode_is_what_the_table_says(table: Table, target: dict[str, float]) -> None:
    env, rng = BlocksEnv(table, **target, reward="paper", reward_weights=(1.0, 0.5, 0.25)), np.random.default_rng(1)
    name, least = next(iter(target.items()), ("macs_reduction", 0.75))
    key = {"sparsity": "channel_sparsity", "macs_reduction": "flops_reduction", "params_reduction": "params_reduction"}[name]
    ends, full = [], table.widths(np.array(table.shape) - 1)
    for _ in range(20):
        observation, info = env.reset()
        assert (observation == 1).all()
        terminated, steps = False, 0
        while not terminated:
            levels, action = levels_of(table, info["widths"]), int(rng.integers(5))
            assert info["action_mask"].tolist() == (levels > 0).tolist()
            observation, reward, terminated, truncated, info = env.step(action)
            steps += 1
            after = levels_of(table, info["widths"])
            if levels[action]:
                assert (levels - after).tolist() == np.eye(5, dtype=int)[action].tolist()
            assert (levels - after).sum() == 1
            assert info["accuracy"] == table.val_accuracy(after)
            assert (info["macs"], info["params"]) == (table.macs(after), table.params(after))
            assert reward == pytest.approx(info["accuracy"] + 0.5 * info["flops_reduction"] + 0.25 * info["params_reduction"])
            np.testing.assert_array_equal(observation, (info["widths"] / full).astype(np.float32))
            assert terminated == (info[key] >= least - 1e-9)
            assert not truncated
            assert info["evaluations"] == steps
        ends.append((env.snapshot(), info["accuracy"]))
        assert env.test_accuracy(env.snapshot()) == table.test_accuracy(after)
    assert env.best is not None
    assert env.best.yardstick == max(worth for _, worth in ends)
    assert env.best.state == next(state for state, worth in ends if worth == env.best.yardstick)
    assert env.best.yardstick <= env.game.best(lambda after, baseline: after.accuracy)[1]


def test_restored_states_go_on_alike(table: Table) -> None:
    env = BlocksEnv(table, macs_reduction=0.5)
    env.reset()
    env.step(2)
    here = env.snapshot()
    first = [env.step(action)[:2] for action in (0, 1)]
    _, info = env.restore(here)
    assert info["macs"] == env.world.score(here).macs
    for (a, reward), (b, again) in zip(first, [env.step(action)[:2] for action in (0, 1)], strict=True):
        assert np.array_equal(a, b)
        assert reward == again
    assert env.evaluations == 5


def test_own_rewards_and_yardsticks(table: Table) -> None:
    def reward(before: Score, after: Score, baseline: Score) -> float:
        return after.accuracy - before.accuracy

    def yardstick(after: Score, baseline: Score) -> float:
        return -after.params / baseline.params

    env = BlocksEnv(table, macs_reduction=0.5, reward=reward, yardstick=yardstick)
    _, start = env.reset()
    total, terminated = 0.0, False
    while not terminated:
        _, gained, terminated, _, info = env.step(0)
        total += gained
    assert total == pytest.approx(info["accuracy"] - start["accuracy"])
    assert env.best is not None
    assert env.best.yardstick == -info["params"] / start["params"]


def test_misuse_is_named(table: Table) -> None:
    env = BlocksEnv(table, macs_reduction=0.3)
    with pytest.raises(RuntimeError, match=r"step: call reset\(\) first"):
        env.step(0)
    env.reset()
    for action, kind in ((5, ValueError), (-1, ValueError), (0.5, ValueError), ("a", TypeError)):
        with pytest.raises(kind, match="action: expected an integer in"):
            env.step(action)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="state: expected an integer in"):
        env.restore(10**6)
    while not env.step(0)[2]:
        pass
    with pytest.raises(RuntimeError, match="the episode has ended"):
        env.step(0)
    with pytest.raises(ValueError, match="target: expected one of"):
        BlocksEnv(table, macs_reduction=0.3, sparsity=0.2)
    with pytest.raises(ValueError, match="reward: expected one that is a number"):
        BlocksEnv(table, reward="vector")
    with pytest.raises(TypeError, match="table: expected a Table or the name of a task, got int"):
        BlocksEnv(3)  # type: ignore[arg-type]
