"""What the README shows is what the committed results say, and its examples run."""

from __future__ import annotations

import csv
import json
import re
import runpy
from pathlib import Path

import compare_agents
import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)

PREAMBLE = """
import gymnasium, torch, prune_gym
from prune_gym import tasks
task = tasks.load("digits")
images, labels = task.calibration.images, task.calibration.labels
my_data = [(split.images, split.labels) for split in (task.train, task.val, task.test)]
"""


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_examples_run(number, tmp_path, monkeypatch):
    code = BLOCKS[number].replace("model = ...", "model = task.model")
    if "trace(model" in code:
        code = "model = task.model\n" + code
    (tmp_path / "example.py").write_text(PREAMBLE + code.replace("learn(1000, progress_bar=True)", "learn(60)"))
    monkeypatch.chdir(tmp_path)
    runpy.run_path("example.py")
    if "save_pruned" in code:
        assert (tmp_path / "small.safetensors").stat().st_size > 1000


def test_your_own_model_takes_at_most_15_lines():
    block = next(block for block in BLOCKS if "my_data" in block)
    assert len([line for line in block.splitlines() if line.strip()]) <= 16  # two of them load the result again


def test_comparison_table_is_made_from_the_committed_results(capsys):
    compare_agents.main(compare_agents.Config(out=ROOT / "results" / "compare_agents.csv", table_only=True))
    assert capsys.readouterr().out.strip() in README
    with (ROOT / "results" / "compare_agents.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["agent"] for row in rows} >= {"rl_pruner", "uniform", "random"}
    assert {int(row["seed"]) for row in rows} >= {0, 1, 2, 3, 4}


def test_output_is_that_of_the_committed_run():
    folder = ROOT / "results" / "digits_rl_pruner"
    assert (folder / "output.txt").read_text().rstrip() in README
    summary = json.loads((folder / "summary.json").read_text())
    assert f"{summary['after']['test_accuracy']:.2%}" in README
    assert f"{summary['after']['macs']:,}" in README


def test_speed_numbers_are_those_of_the_committed_benchmark():
    speed = json.loads((ROOT / "results" / "speed_cpu.json").read_text())
    for name, row in speed["scoring"].items():
        section = README[README.index("## Speed") :]
        line = next(line for line in section.splitlines() if line.startswith(f"| {name} |"))
        assert f"| {row['evaluations_per_second']:.1f} | {row['ratio_to_bare_passes']:.2f} |" in line
        if name in speed["step"]:
            assert f"{speed['step'][name]['share_of_passes']:.0%}" in line


def test_the_small_table_2_is_that_of_the_committed_results():
    with (ROOT / "results" / "reproduce" / "small" / "table2.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["top1"]]
    assert len(rows) == 6
    for row in rows:
        line = next(
            x for x in README.splitlines() if x.startswith(f"| {row['method']} | {100 * float(row['channel_sparsity']):.1f}% |")
        )
        assert f"| {float(row['top1_before_posttraining']):.2f} | {float(row['top1']):.2f} |" in line
