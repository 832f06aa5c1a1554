"""The command that compares agents: what it prints, and its mistakes."""

from __future__ import annotations

from pathlib import Path

import compare_agents
import pytest

from prune_gym.benchmark.command import run_command
from prune_gym.benchmark.comparison import ComparisonConfig

ROOT = Path(__file__).parents[2]


def command(*arguments: object) -> None:
    run_command(compare_agents.main, ComparisonConfig, compare_agents.__doc__, arguments=list(map(str, arguments)))


def test_the_table_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    command("--table-only", "--out", ROOT / "results" / "compare_agents.csv")
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("| task | MACs | fidelity | evaluations | rl_pruner | ppo |")
    assert printed[2].startswith("| digits | -50% | recalibrated | 200 | ")


def test_no_seeds_are_a_mistake_of_the_seeds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):  # reported by tyro
        command("--seeds", 0, "--out", tmp_path / "a.csv")
    assert "seeds: expected an integer >= 1, got 0" in " ".join(capsys.readouterr().err.split())
    assert not list(tmp_path.iterdir())
