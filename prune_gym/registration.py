"""The environments' names. Entry points are strings, so that importing the core does not import the environments."""

from __future__ import annotations

import gymnasium

ENVIRONMENTS = {
    "PruneGym/Digits-v0": "digits",
    "PruneGym/Digits-ResNet-v0": "digits-resnet",
    "PruneGym/Digits-MobileNet-v0": "digits-mobilenet",
}


def register() -> None:
    for name, task in ENVIRONMENTS.items():
        if name not in gymnasium.registry:
            gymnasium.register(name, entry_point="prune_gym.envs.pruning:PruningEnv", kwargs={"task": task})
