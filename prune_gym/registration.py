"""The environments' ids.

Entry points are strings, so registering the environments does not import them, nor PyTorch. Gymnasium 1.x has no plugins: in a
process that has not imported ``prune_gym`` yet, such as a worker of Ray, the id ``"prune_gym:PruneGym/Digits-v0"`` makes
``gymnasium.make`` import the package first.
"""

from __future__ import annotations

import gymnasium

ENVIRONMENTS = {
    "PruneGym/Digits-v0": "digits",
    "PruneGym/Digits-ResNet-v0": "digits-resnet",
    "PruneGym/Digits-MobileNet-v0": "digits-mobilenet",
}


def register() -> None:
    """Add the environments to Gymnasium's registry; those that are in it already stay."""
    for name, task in ENVIRONMENTS.items():
        if name not in gymnasium.registry:
            gymnasium.register(name, entry_point="prune_gym.envs.pruning:PruningEnv", kwargs={"task": task})
