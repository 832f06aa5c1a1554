"""What the README shows is what the committed results say, and its examples and some of the docs' run."""

from __future__ import annotations

import csv
import json
import re
import runpy
from dataclasses import replace
from pathlib import Path

import pytest
import train_agent

from prune_gym.agents.run_folder import read_config
from prune_gym.agents.tuned import all_tuned
from prune_gym.benchmark.comparison import ComparisonConfig, compare
from prune_gym.benchmark.report.report import markdown
from prune_gym.benchmark.report.standings import fields_of
from prune_gym.benchmark.results import read_results
from prune_gym.benchmark.rewards.__main__ import optima_table
from prune_gym.benchmark.rewards.study import SUITE, agents_of, lessons
from prune_gym.benchmark.rewards.study import markdown as markdown_of_lessons
from prune_gym.benchmark.rows import Rows
from prune_gym.benchmark.table import comparison_table
from prune_gym.benchmark.transfer import TransferConfig, transfer
from prune_gym.benchmark.transfer import table as transfer_table
from prune_gym.registration import LIVE
from prune_gym.scoring.candidates import FIDELITIES, FIDELITY
from prune_gym.simulation.rewards import REWARDS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PAGES = [README, *((ROOT / "docs" / f"{name}.md").read_text() for name in ("agents", "tables", "rewards", "export"))]
BLOCKS = [block for page in PAGES for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL)]


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_examples_run_as_they_are(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "example.py").write_text(BLOCKS[number])
    monkeypatch.chdir(tmp_path)
    runpy.run_path("example.py", run_name="__main__")
    if "save_pruned" in BLOCKS[number]:
        assert (tmp_path / "small.safetensors").stat().st_size > 1000
    if "run(" in BLOCKS[number]:
        assert len(list((tmp_path / "runs").glob("*/summary.json"))) == 1


def test_your_own_model_takes_at_most_15_lines():
    block = next(block for block in BLOCKS if "my_data" in block)
    assert len([line for line in block.splitlines() if line.strip()]) <= 15


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


def test_output_is_that_of_the_committed_run():
    folder = ROOT / "results" / "main_job"
    assert (folder / "output.txt").read_text().rstrip() in README
    summary = json.loads((folder / "summary.json").read_text())
    assert f"{summary['after']['test_accuracy']:.2%}" in README
    assert f"{summary['after']['macs']:,}" in README
    assert summary["after"]["flops_reduction"] >= 0.75
    assert summary["after"]["test_accuracy"] >= summary["before"]["test_accuracy"] - 0.01
    config = read_config(folder)
    assert config == replace(train_agent.MAIN_JOB, out=None)


def test_speed_numbers_are_those_of_the_committed_benchmark():
    speed = json.loads((ROOT / "results" / "speed_cpu.json").read_text())
    section = (ROOT / "docs" / "speed.md").read_text()
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


def test_ratios_on_a_slower_machine_are_those_of_its_results():
    speed = json.loads((ROOT / "results" / "speed_cpu_slower.json").read_text())
    section = (ROOT / "docs" / "speed.md").read_text().split("## On a slower machine")[1]
    for name, rows in speed["scoring"].items():
        ratios = [f"{rows[fidelity]['ratio_to_bare_passes']:.2f}" if fidelity in rows else "" for fidelity in FIDELITIES]
        assert f"| {' | '.join([name, *ratios])} |" in section
    for name in LIVE:
        assert f"{speed['environments'][name]['times_those_of_one']:.2f}" in section


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


def test_transfer_is_that_of_the_committed_results():
    table = transfer_table(transfer(TransferConfig(table_only=True, out=ROOT / "results" / "transfer.csv")).rows)
    assert table == (ROOT / "results" / "transfer.md").read_text()
    assert table in (ROOT / "docs" / "agents.md").read_text()
    assert [line.count(" (n=") for line in table.splitlines()] == [0] * 8  # all seeds of all of them


def test_the_tuned_settings_are_those_of_the_committed_trials() -> None:
    pytest.importorskip("optuna")
    from prune_gym.benchmark.tuning import COLUMNS, KEY, TuningConfig, best_settings, table

    results = ROOT / "results"
    assert best_settings(TuningConfig(), Rows(results / "tuning.csv", COLUMNS, KEY)) == all_tuned()
    assert (results / "tuning.md").read_text() == table(all_tuned())
    assert table(all_tuned()) in (ROOT / "docs" / "agents.md").read_text()


def test_the_study_is_that_of_the_committed_results():
    docs = (ROOT / "docs" / "fidelity.md").read_text()
    table = (ROOT / "results" / "fidelity.md").read_text()
    lines = [line.strip("|").split("|") for line in table.splitlines() if "| all | float32 |" in line]
    assert len(lines) == 12
    for task, fidelity, _, _, cut, compensated, *_ in lines:
        cells = f"|{fidelity}|{cut}|{compensated}|"
        assert any(line.startswith(f"|{task}|") and cells in line for line in docs.splitlines())


def test_the_benchmark_is_that_of_the_committed_results():
    folder = ROOT / "results" / "benchmark"
    table = markdown(fields_of(read_results(folder)))
    assert table == (folder / "report.md").read_text()
    assert table.rstrip("\n") in README
    before, after = (re.findall(rf"\| {name} \| ([\d.]+) \(", table)[0] for name in ("ppo", "ppo, tuned"))
    tuned = all_tuned()["ppo"]
    there = f"from {100 * tuned['default_regret']:.1f} to {100 * tuned['regret']:.1f} where it was tuned"
    assert f"PPO's regret fell {there}, and falls from {before} to {after}." in README


def test_the_best_plays_are_those_of_the_committed_results() -> None:
    results, docs = ROOT / "results" / "rewards", (ROOT / "docs" / "rewards.md").read_text()
    with (results / "optimum.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert (results / "optimum.md").read_text() == optima_table(rows)
    assert optima_table(rows) in docs
    assert [row["reward"] for row in rows[: len(REWARDS)]] == list(REWARDS)
    assert all(row["formula"] == str(REWARDS[row["reward"]]) for row in rows)


def test_every_reward_is_in_the_docs() -> None:
    docs = (ROOT / "docs" / "rewards.md").read_text()
    for name, reward in REWARDS.items():
        assert f"`{name}`" in docs
        assert f"| `{reward}` |" in docs or name == "paper"


def test_the_study_of_rewards_is_the_committed_one() -> None:
    text = (ROOT / "results" / "rewards" / "tabular_1000.md").read_text()
    assert text.rstrip("\n") in (ROOT / "docs" / "rewards.md").read_text()
    assert all(f"| `{name}` |" in text for name in SUITE)
    head, _, *lines = [line for line in text.splitlines() if line.startswith("|")]
    columns = [cell.strip() for cell in head.split("|")]

    def policy(reward: str, agent: str) -> str:
        (line,) = (line for line in lines if f"`{reward}`" in line)
        return re.findall(r"\(([\d.]+)", line.split("|")[columns.index(agent)])[0]

    dqn, ppo = ((policy("final", agent), policy("accuracy", agent)) for agent in ("dqn", "ppo"))
    of_dqn = f"DQN's final policy ends {dqn[0]} points behind the best network in place of {dqn[1]}"
    assert f"{of_dqn}, and PPO's {ppo[0]} in place of {ppo[1]};" in README
    assert len(SUITE) == 17


@pytest.mark.slow
def test_the_study_of_rewards_is_made_of_the_committed_results() -> None:
    folder = ROOT / "results" / "rewards"
    (field,) = fields_of(read_results(folder))
    assert markdown_of_lessons(lessons(field, agents_of(field)), agents_of(field)) == (folder / "tabular_1000.md").read_text()
