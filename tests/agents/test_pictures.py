"""Which networks a picture of a search shows as what."""

from __future__ import annotations

from typing import Any

import pytest

from prune_gym.agents.pictures import sort_rows
from prune_gym.envs import PruningEnv
from prune_gym.tasks import Task


def row(env: PruningEnv, number: int, kind: str, yardstick: float, fraction: float) -> dict[str, Any]:
    """A network whose groups keep a fraction of their units."""
    widths = {f"width:{group.name}": int(fraction * group.width) for group in env.graph.groups}
    return {"evaluation": number, "kind": kind, "yardstick": yardstick, "accuracy": yardstick, **widths}


@pytest.mark.parametrize("epochs", [0, 1])
def test_rows_are_sorted_by_what_they_are(tiny_task: Task, epochs: int) -> None:
    env = PruningEnv(tiny_task, sparsity=0.5, step_ratio=0.25, posttraining={"epochs": epochs}, device="cpu")
    rows = [
        row(env, 1, "preview", 0.9, 0.9),
        row(env, 2, "target", 0.95, 0.5),  # at the target, and no step led there
        row(env, 3, "preview", 0.6, 0.5),
        row(env, 4, "step", 0.5, 0.5),
        row(env, 5, "step", 0.7, 0.5),
        row(env, 6, "step", 0.7, 0.4),  # not better
        row(env, 7, "step", 0.99, 1.0),
        row(env, 8, "step", 0.8, 0.5),
    ]
    others, at_target, best = ([each["evaluation"] for each in part] for part in sort_rows(rows, env))
    if epochs:  # what was not trained is on the way
        assert (others, at_target, best) == ([1, 2, 3, 7], [4, 5, 6, 8], [4, 5, 8])
    else:
        assert (others, at_target, best) == ([1, 7], [2, 3, 4, 5, 6, 8], [3, 5, 8])
