"""What vector environments promise: to equal as many single ones."""

from __future__ import annotations

import gymnasium
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv

from prune_gym.testing import assert_same


def equal_to_single_ones(many: VectorEnv, single: list[gymnasium.Env], mode: AutoresetMode, steps: int) -> int:
    """Step both, with all zeros as actions now and then; gives how many episodes ended."""
    copies = SyncVectorEnv([lambda env=env: env for env in single], autoreset_mode=mode)  # type: ignore[misc]
    assert many.observation_space == copies.observation_space
    assert many.action_space == copies.action_space
    assert many.metadata["autoreset_mode"] is copies.metadata["autoreset_mode"] is mode
    many.action_space.seed(0)
    ended = 0
    for seed in (3, None):
        for a, b in zip(many.reset(seed=seed), copies.reset(seed=seed), strict=True):
            assert_same(a, b)
        for step in range(steps):
            actions = many.action_space.sample() * (1 if step % 5 else 0)
            ours, theirs = many.step(actions), copies.step(actions)
            for a, b in zip(ours, theirs, strict=True):
                assert_same(a, b)
            ended += int(ours[2].sum())
            if mode is AutoresetMode.DISABLED and ours[2].any():
                mask = ours[2]
                for a, b in zip(
                    many.reset(options={"reset_mask": mask}), copies.reset(options={"reset_mask": mask.copy()}), strict=True
                ):
                    assert_same(a, b)
    return ended
