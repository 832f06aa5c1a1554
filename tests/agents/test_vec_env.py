"""Gymnasium's vector environments for Stable-Baselines3: the same as its own of as many single ones."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor

from prune_gym.agents.vec_env import SB3VecEnv
from prune_gym.envs import PruningEnv, SoftmaxAction, SoftmaxVectorAction, TabularEnv
from prune_gym.envs.pruning_vector import PruningVectorEnv
from prune_gym.tasks import Task
from prune_gym.testing import assert_same


@pytest.mark.parametrize("kind", ["live", "tabular"])
def test_equals_sb3s_own(tiny_task: Task, kind: str) -> None:
    settings: dict[str, Any] = {"macs_reduction": 0.5, "step_ratio": 0.2}
    if kind == "live":
        many = PruningVectorEnv(3, "SameStep", task=tiny_task, **settings)
        single: list[Any] = [PruningEnv(tiny_task, **settings) for _ in range(3)]
    else:
        many = gymnasium.make_vec("PruneGym/Tabular-Digits-v0", num_envs=3, autoreset_mode="SameStep", **settings)  # type: ignore[assignment]
        single = [TabularEnv("digits", **settings) for _ in range(3)]
    ours = SB3VecEnv(SoftmaxVectorAction(many))
    theirs = DummyVecEnv([lambda env=env: SoftmaxAction(env) for env in single])
    assert ours.observation_space == theirs.observation_space
    assert ours.action_space == theirs.action_space
    assert ours.seed(3) == theirs.seed(3)
    np.testing.assert_array_equal(ours.reset(), theirs.reset())
    rng, ended = np.random.default_rng(0), 0
    for _ in range(16):
        actions = rng.uniform(-1, 1, (3, *ours.action_space.shape)).astype(np.float32)  # type: ignore[misc]
        (*a, infos), (*b, others) = ours.step(actions), theirs.step(actions)
        for one, other in zip(a, b, strict=True):
            assert_same(one, other)
        for info, other in zip(infos, others, strict=True):
            assert_same(info, other)
        for info, other in zip(ours.reset_infos, theirs.reset_infos, strict=True):
            assert_same(info, other)
        ended += int(a[2].sum())
    assert ended >= 3
    assert ours.get_attr("render_mode") == theirs.get_attr("render_mode") == [None] * 3
    assert ours.env_is_wrapped(gymnasium.Wrapper) == [False] * 3
    if kind == "live":
        assert ours.get_attr("evaluations", [0, 2]) == theirs.get_attr("evaluations", [0, 2])
        assert ours.env_method("score", indices=1) == theirs.env_method("score", indices=1)
    ours.close()


class Nested(gymnasium.Wrapper):
    """Gives infos of all kinds, and what it was reset with."""

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        observation, info = self.env.reset(seed=seed, options=options)
        return observation, info | {"seed": -1 if seed is None else seed}

    def step(self, action: Any) -> Any:
        observation, reward, terminated, truncated, info = self.env.step(action)
        return observation, reward, terminated, truncated, info | {"more": {"a": 1.5, "b": {"c": np.arange(2)}}, "name": "x"}


def test_infos_and_seeds_of_all_kinds() -> None:
    single = [Nested(gymnasium.make("PruneGym/Blocks-Digits-v0", macs_reduction=0.1)) for _ in range(2)]
    copies = gymnasium.vector.SyncVectorEnv([lambda env=env: env for env in single], autoreset_mode="SameStep")  # type: ignore[misc]
    env = SB3VecEnv(copies)
    env.seed(7)
    env.reset()
    assert [info["seed"] for info in env.reset_infos] == [7, 8]
    for _ in range(9):
        _, _, done, infos = env.step(np.array([0, 1]))
        for info in infos:
            assert info["more"]["a"] == 1.5
            assert info["more"]["b"]["c"].tolist() == [0, 1]
            assert info["name"] == "x"
        if done.any():
            break
    assert done.any()
    recorded = gymnasium.wrappers.vector.RecordEpisodeStatistics(
        gymnasium.make_vec("PruneGym/Blocks-Digits-v0", num_envs=2, autoreset_mode="SameStep", macs_reduction=0.1)
    )
    env = SB3VecEnv(recorded)
    env.reset()
    ended = [info for _ in range(9) for info in env.step(np.array([0, 0]))[3] if "terminal_observation" in info]
    assert ended
    env.set_options({"a": 1})
    with pytest.raises(NotImplementedError, match="set_options: the copies are reset together"):
        env.reset()


def test_agents_learn_on_it() -> None:
    env = gymnasium.make_vec("PruneGym/Tabular-Digits-v0", num_envs=16, autoreset_mode="SameStep", reward="accuracy")
    PPO("MlpPolicy", VecMonitor(SB3VecEnv(SoftmaxVectorAction(env))), n_steps=16, batch_size=64, seed=0).learn(512)
    assert env.unwrapped.evaluations == 512  # type: ignore[attr-defined]
    blocks = gymnasium.make_vec("PruneGym/Blocks-Digits-v0", num_envs=4, autoreset_mode="SameStep")
    DQN("MlpPolicy", SB3VecEnv(blocks), learning_starts=20, seed=0).learn(100)


def test_misuse_is_named() -> None:
    with pytest.raises(ValueError, match=r"autoreset_mode='SameStep'.*got 'NextStep'"):
        SB3VecEnv(gymnasium.make_vec("PruneGym/Tabular-Digits-v0", num_envs=2))
    with pytest.raises(TypeError, match="env: expected a vector environment of Gymnasium, got OrderEnforcing"):
        SB3VecEnv(gymnasium.make("PruneGym/Tabular-Digits-v0"))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="env: expected a vector environment of sparsity distributions, got BlocksVectorEnv"):
        SoftmaxVectorAction(gymnasium.make_vec("PruneGym/Blocks-Digits-v0", num_envs=2))
    env = SB3VecEnv(gymnasium.make_vec("PruneGym/Blocks-Digits-v0", num_envs=2, autoreset_mode="SameStep"))
    with pytest.raises(NotImplementedError, match="set_attr: the copies share what they have"):
        env.set_attr("x", 1)
    with pytest.raises(NotImplementedError, match="env_method: the copies are rows of arrays"):
        env.env_method("score")
    with pytest.raises(AttributeError, match="evaluations: the copies are counted together"):
        env.get_attr("evaluations")
