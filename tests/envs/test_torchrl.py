"""TorchRL takes every kind of environment, alone and as a vector environment."""

from __future__ import annotations

from typing import Any

import gymnasium
import pytest

torchrl_envs = pytest.importorskip("torchrl.envs")


@pytest.mark.parametrize("name", ["PruneGym/Digits-v0", "PruneGym/Tabular-Digits-v0", "PruneGym/Blocks-Digits-v0"])
@pytest.mark.parametrize("mode", ["SameStep", "Disabled"])
def test_rollouts(name: str, mode: str) -> None:
    settings: dict[str, Any] = {"macs_reduction": 0.2} | ({"step_ratio": 0.1} if "Blocks" not in name else {})
    alone = torchrl_envs.GymEnv(name, **settings).rollout(60)
    assert alone["next", "done"][-1].all()
    many = gymnasium.make_vec(name, num_envs=2, autoreset_mode=mode, **settings)
    steps = 5 if name == "PruneGym/Digits-v0" else 40  # at least an episode
    together = torchrl_envs.GymWrapper(many).rollout(steps, break_when_any_done=False)
    assert together.shape == (2, steps)
    assert together["next", "done"].any(1).all()
