"""The comparison of agents: what is run, what is kept, and what the table averages."""

from __future__ import annotations

import re
from pathlib import Path

import compare_agents
import pytest
from scipy import stats

from prune_gym.benchmark.rows import Rows
from prune_gym.training.distillation import PostTraining


def row(agent: str, seed: int, test_accuracy: float, budget: object = "", evaluations: int = 100) -> dict[str, str]:
    found = {"task": "digits", "sparsity": 0.5, "agent": agent, "seed": seed, "budget": budget, "posttraining": ""}
    found |= {"evaluations": evaluations, "val_accuracy": 0.5, "test_accuracy": test_accuracy}
    return {key: str(value) for key, value in found.items()}


def test_mean_and_interval() -> None:
    rows = [row("ppo", seed, accuracy) for seed, accuracy in enumerate((0.5, 0.6, 0.7))] + [row("uniform", 0, 0.1)]
    *_, line = compare_agents.table(rows).splitlines()
    half = stats.t.interval(0.95, 2, 60, stats.sem([50, 60, 70]))[1] - 60
    assert line == f"| digits | 50% | 100 | 60.0 ± {half:.1f} | 10.0 (n=1) |"


def test_other_budgets_are_other_lines() -> None:
    rows = [row("ppo", seed, 0.7) for seed in range(2)] + [row("ppo", seed, 0.1, 20, 20) for seed in range(2)]
    first, second = compare_agents.table(rows).splitlines()[2:]
    assert first == "| digits | 50% | 100 | 70.0 ± 0.0 |"
    assert second == "| digits | 50% | 20 | 10.0 ± 0.0 |"


def test_post_training_is_told() -> None:
    settings = PostTraining(epochs=5, learning_rate=0.01)
    rows = [row("ppo", 0, 0.7), row("ppo", 0, 0.9) | {"posttraining": compare_agents.describe(settings)}]
    head, _, first, second = compare_agents.table(rows).splitlines()
    assert head == "| task | channel sparsity | post-training | evaluations | ppo |"
    assert first == "| digits | 50% | none | 100 | 70.0 |"
    assert second == "| digits | 50% | epochs 5, learning_rate 0.01 | 100 | 90.0 |"


def test_no_results_are_no_table(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"out: .*none.csv holds no results yet; run this without --table-only"):
        compare_agents.main(compare_agents.Config(out=tmp_path / "none.csv", table_only=True))


def test_rows_that_are_there_are_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "found.csv"
    config = compare_agents.Config(
        tasks=("digits",), sparsities=(0.2,), agents=("uniform",), seeds=1, evaluations=5, processes=1, out=out
    )
    compare_agents.main(config)
    (found,) = Rows(out, compare_agents.COLUMNS, compare_agents.KEY).rows
    assert (found["agent"], found["seed"], found["budget"], found["evaluations"]) == ("uniform", "0", "5", "5")
    out.write_text(re.sub(r"0\.\d+$", "0.123456", out.read_text(), flags=re.MULTILINE))
    compare_agents.main(config)
    (kept,) = Rows(out, compare_agents.COLUMNS, compare_agents.KEY).rows
    assert kept["params_reduction"] == "0.123456"
    accuracy = f"{100 * float(found['test_accuracy']):.1f}"
    assert f"| digits | 20% | 5 | {accuracy} |" in capsys.readouterr().out
