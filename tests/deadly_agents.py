"""Agents of an installed package that take their process along."""

from __future__ import annotations

from pathlib import Path

import pytest

MODULE = """
import os, signal
from pathlib import Path
from prune_gym.agents import RandomAgent

def killed(config, env):
    os.kill(os.getpid(), signal.SIGKILL)

def killed_once(config, env):
    mark = Path(__file__).with_name("mark")
    if not mark.exists():
        mark.touch()
        killed(config, env)
    return RandomAgent(env, seed=config.seed)
"""


def install_deadly_agents(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Install ``killed`` and ``killed_once`` in a folder, for this process and those that it starts."""
    info = folder / "site" / "deadly-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: deadly\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[prune_gym.agents]\nkilled = deadly:killed\nkilled_once = deadly:killed_once\n")
    (folder / "site" / "deadly.py").write_text(MODULE)
    monkeypatch.syspath_prepend(folder / "site")
    monkeypatch.setenv("PYTHONPATH", str(folder / "site"))
