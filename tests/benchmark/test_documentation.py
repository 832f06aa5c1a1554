"""The ten minutes of docs/benchmark.md and of docs/rewards.md, command by command."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("plotly")

ROOT = Path(__file__).parents[2]


def run(command: str, folder: Path) -> str:
    """What a command prints, in a folder that has the scripts."""
    if not (folder / "scripts").exists():
        (folder / "scripts").symlink_to(ROOT / "scripts")
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    found = subprocess.run(command, shell=True, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert found.returncode == 0, f"{command}\n{found.stdout}\n{found.stderr}"
    return found.stdout


@pytest.mark.slow
def test_every_command_of_the_ten_minutes(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "benchmark.md").read_text()
    tutorial, _ = text.split("## The whole benchmark")
    (program,) = re.findall(r"```python\n(.*?)```", tutorial, re.DOTALL)
    install, *commands = [line for block in re.findall(r"```bash\n(.*?)```", tutorial, re.DOTALL) for line in block.splitlines()]
    assert install == 'pip install -e ".[report]"'  # done, or this test would not run
    assert len(commands) == 4
    (tmp_path / "my_agent.py").write_text(program.replace("seeds=5", 'seeds=2, budget="Prune-100"'))
    *_, said = (run(command, tmp_path) for command in commands)
    assert (tmp_path / "my_report" / "report.html").stat().st_size > 10**6
    assert "| greater |" in said
    assert "greater.csv is right" in said


@pytest.mark.slow
def test_every_command_of_the_study_of_your_own_reward(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "rewards.md").read_text()
    _, tutorial = text.split("## Study your own reward in ten minutes")
    commands = [line for block in re.findall(r"```bash\n(.*?)```", tutorial, re.DOTALL) for line in block.splitlines()]
    assert len(commands) == 5
    *_, said = (run(command.replace("--seeds 3", "--seeds 2 --budget Prune-100"), tmp_path) for command in commands)
    assert "rl_pruner finds the best networks under " in said
    assert (tmp_path / "my_study" / "tabular_100.png").stat().st_size > 10_000
