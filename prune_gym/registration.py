"""The environments' ids.

Entry points are strings, so registering the environments does not import them, nor PyTorch. Gymnasium 1.x has no plugins: in a
process that has not imported ``prune_gym`` yet, such as a worker of Ray, the id ``"prune_gym:PruneGym/Digits-v0"`` makes
``gymnasium.make`` import the package first.
"""

from __future__ import annotations

import gymnasium

TASKS = {"Digits": "digits", "Digits-ResNet": "digits-resnet", "Digits-MobileNet": "digits-mobilenet"}
LIVE = {f"PruneGym/{name}-v0": task for name, task in TASKS.items()}  # their networks are run
TABULAR = {f"PruneGym/Tabular-{name}-v0": task for name, task in TASKS.items()}  # the same spaces, on a table
BLOCKS = {f"PruneGym/Blocks-{name}-v0": task for name, task in TASKS.items()}  # one block of one group at a time, on a table
LAYERWISE = {f"PruneGym/Layerwise-{name}-v0": task for name, task in TASKS.items()}  # one group after the other
TABULAR_LAYERWISE = {f"PruneGym/Tabular-Layerwise-{name}-v0": task for name, task in TASKS.items()}
PURL = {f"PruneGym/PuRL-{name}-v0": task for name, task in TASKS.items()}  # single weights, one layer after the other
ENVIRONMENTS = LIVE | TABULAR | BLOCKS | LAYERWISE | TABULAR_LAYERWISE | PURL


def register() -> None:
    """Add the environments to Gymnasium's registry; those that are in it already stay."""
    for name, task in LIVE.items():
        _register(name, "pruning:PruningEnv", "pruning_vector:PruningVectorEnv", task=task)
    for name, task in TABULAR.items():
        _register(name, "tabular:TabularEnv", "table_vector:TabularVectorEnv", table=task)
    for name, task in BLOCKS.items():
        _register(name, "blocks:BlocksEnv", "table_vector:BlocksVectorEnv", table=task)
    for name, task in LAYERWISE.items():
        _register(name, "layerwise:live", None, task=task)
    for name, task in PURL.items():
        _register(name, "purl:PuRLEnv", None, task=task)
    for name, task in TABULAR_LAYERWISE.items():
        _register(name, "layerwise:tabular", None, table=task)


def _register(name: str, entry_point: str, vector_entry_point: str | None, **settings: str) -> None:
    if name not in gymnasium.registry:
        gymnasium.register(
            name,
            entry_point=f"prune_gym.envs.{entry_point}",
            vector_entry_point=vector_entry_point and f"prune_gym.envs.{vector_entry_point}",
            kwargs=settings,
        )
