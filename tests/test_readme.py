"""What the README shows is what the committed results say, and its examples run."""

from __future__ import annotations

import csv
import json
import re
import runpy
from pathlib import Path

import pytest

from prune_gym.benchmark.comparison import ComparisonConfig, compare
from prune_gym.benchmark.table import comparison_table
from prune_gym.scoring.candidates import FIDELITY

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


def test_the_comparison_is_made_from_the_committed_results():
    rows = compare(ComparisonConfig(out=ROOT / "results" / "compare_agents.csv", table_only=True)).rows
    assert comparison_table(rows) in README


def test_the_comparison_is_complete():
    with (ROOT / "results" / "compare_agents.csv").open() as file:
        rows = list(csv.DictReader(file))
    cells = {(row["task"], row["macs_reduction"]) for row in rows}
    assert cells
    for cell in cells:
        for agent in ComparisonConfig().agents:
            mine = [row for row in rows if (row["task"], row["macs_reduction"], row["agent"]) == (*cell, agent)]
            assert sorted(int(row["seed"]) for row in mine) == [0, 1, 2]
            assert all(0 <= float(row["flops_reduction"]) - float(row["macs_reduction"]) < 0.01 for row in mine)


def test_the_public_weights_give_what_the_docs_say():
    docs = (ROOT / "docs" / "data.md").read_text()
    for line in (ROOT / "results" / "public_weights.txt").read_text().splitlines():
        assert line.split()[1] in docs


@pytest.mark.parametrize("run", ["digits_rl_pruner", "digits_posttraining"])
def test_output_is_that_of_the_committed_run(run):
    folder = ROOT / "results" / run
    assert (folder / "output.txt").read_text().rstrip() in README
    summary = json.loads((folder / "summary.json").read_text())
    assert f"{summary['after']['test_accuracy']:.2%}" in README
    assert f"{summary['after']['macs']:,}" in README


def test_speed_numbers_are_those_of_the_committed_benchmark():
    speed = json.loads((ROOT / "results" / "speed_cpu.json").read_text())
    section = README[README.index("## Speed") :]
    for name, fidelity, row in ((n, f, row) for n, rows in speed["scoring"].items() for f, row in rows.items()):
        line = next(line for line in section.splitlines() if line.startswith(f"| {name} | {fidelity} |"))
        assert f"| {row['evaluations_per_second']:.1f} | {row['ratio_to_bare_passes']:.2f} |" in line
        if name in speed["step"] and fidelity == FIDELITY:
            step = speed["step"][name]
            assert f"| {step['milliseconds']:.1f} | {step['share_of_passes']:.0%} |" in line
    traced = speed["trace_seconds"]
    slowest = max((name for name in traced if name.startswith("torchvision/")), key=traced.get)
    assert f"{1e3 * traced['vgg19']:.0f} ms for VGG-19" in section
    assert f"{1e3 * traced[slowest]:.0f} ms ({slowest.removeprefix('torchvision/')})" in section


def test_the_small_table_2_is_that_of_the_committed_results():
    with (ROOT / "results" / "reproduce" / "small" / "table2.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["top1"]]
    assert len(rows) == 6
    for row in rows:
        line = next(
            x for x in README.splitlines() if x.startswith(f"| {row['method']} | {100 * float(row['channel_sparsity']):.1f}% |")
        )
        numbers = [row[name] for name in ("top1_before_posttraining", "top1", "flops_reduction_pct", "params_reduction_pct")]
        assert f"| {' | '.join(f'{float(number):.2f}' for number in numbers)} |" in line


def test_accuracies_without_training_are_those_of_the_committed_results():
    docs = (ROOT / "docs" / "fidelity.md").read_text()
    with (ROOT / "results" / "without_training.csv").open() as file:
        rows = list(csv.DictReader(file))
    shown = [
        line for line in docs[docs.index("## Without any training") : docs.index("## The study")].splitlines() if "%" in line
    ]
    for line in (line for line in shown if line.startswith("| ")):
        task, sparsity, macs, criterion, *accuracies = (cell.strip() for cell in line.strip("|").split("|"))
        (row,) = (
            row
            for row in rows
            if row["task"] == task.partition(",")[0]
            and row["criterion"] == criterion
            and row["sparsity"] == row["step_ratio"] == str(float(sparsity.rstrip("%")) / 100)
        )
        ways = ("original", "recalibrated", "compensated", "sequential")
        assert accuracies == [f"{100 * float(row[way]):.1f}" for way in ways]
        assert macs == f"-{100 * float(row['macs_reduction']):.0f}%"


def test_the_study_is_that_of_the_committed_results():
    docs = (ROOT / "docs" / "fidelity.md").read_text()
    table = (ROOT / "results" / "fidelity.md").read_text()
    lines = [line.strip("|").split("|") for line in table.splitlines() if "| all | float32 |" in line]
    assert len(lines) == 12
    for task, fidelity, _, _, cut, compensated, *_ in lines:
        cells = f"|{fidelity}|{cut}|{compensated}|"
        assert any(line.startswith(f"|{task}|") and cells in line for line in docs.splitlines())
