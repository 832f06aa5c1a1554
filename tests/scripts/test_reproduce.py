"""The command that repeats an experiment of the paper: what it prints."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import reproduce as script

from prune_gym.benchmark.command import run_command
from prune_gym.benchmark.paper.reproduction import ReproductionConfig
from prune_gym.benchmark.rows import Rows

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", ["table2", "figure1"])
def test_the_command(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    columns = ("method", "sparsity", "top1", "settings") if name == "table2" else ("sparsity", "group", "share")
    rows = Rows(tmp_path / f"{name}.csv", columns, ("sparsity",))
    rows.add(dict.fromkeys(columns, "0.123"))
    monkeypatch.setattr(script, "reproduce", lambda config: (rows, tmp_path / f"{name}.png"))
    arguments = [name, "--protocol", "paper", "--out", str(tmp_path)]
    run_command(script.main, ReproductionConfig, script.__doc__, arguments=arguments)
    printed = capsys.readouterr().out
    number = name[-1]
    assert re.search(rf"^{name[:-1].title()} {number}: .*\. Scale small, paper: reward on TEST", printed)
    assert "5 stages of 5 samples" in printed if name == "table2" else "4 stages of 5 samples" in printed
    assert "rewards are read near chance" in printed
    assert f"written to {rows.path} and {name}.png" in printed
    assert ("method" in printed and printed.count("0.123") == 3) == (name == "table2")
    assert "settings" not in printed.replace(str(tmp_path), "")


def test_the_docs_tell_how_long_table2_took() -> None:
    printed = (ROOT / "results" / "reproduce" / "small" / "table2.txt").read_text()
    (minutes,) = re.findall(r"^([\d.]+) minutes, ", printed, re.MULTILINE)
    assert f"`table2` took {minutes} minutes" in (ROOT / "docs" / "reproduce.md").read_text()
