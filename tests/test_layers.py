"""Imports point in one direction: scripts, agents, envs, prune_gym."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FORBIDDEN = {
    "prune_gym": ("prune_gym.envs", "prune_gym.agents", "gymnasium", "stable_baselines3"),
    "envs": ("prune_gym.agents", "stable_baselines3"),
}


def imported(source: str) -> set[str]:
    """The modules that a program imports."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {str(node.module)}
    return found


@pytest.mark.parametrize("folder", FORBIDDEN)
def test_imports_point_in_one_direction(folder: str) -> None:
    files = [path for path in (ROOT / folder).rglob("*.py") if path.name != "registration.py"]  # it only names the environments
    assert files
    for path in files:
        names = imported(path.read_text())
        assert not [name for name in names for other in FORBIDDEN[folder] if f"{name}.".startswith(f"{other}.")], path
