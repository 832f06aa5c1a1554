"""The table of a comparison: what it averages, and how sure it is."""

from __future__ import annotations

import pytest
from scipy import stats

from prune_gym.benchmark.comparison import describe
from prune_gym.benchmark.table import cell, comparison_table, half_width
from prune_gym.training.distillation import PostTraining


def row(
    agent: str, seed: int, test_accuracy: float, budget: object = "", evaluations: int = 100, **more: object
) -> dict[str, str]:
    found = {
        "task": "digits",
        "macs_reduction": 0.5,
        "fidelity": "recalibrated",
        "agent": agent,
        "seed": seed,
        "budget": budget,
        "posttraining": "",
    }
    found |= {"evaluations": evaluations, "compute": 2.5e11, "val_accuracy": 0.5, "test_accuracy": test_accuracy}
    return {key: str(value) for key, value in (found | more).items()}


@pytest.mark.parametrize("values", [[50.0, 60.0, 70.0], [10.0, 10.5], [1.0, 2.0, 4.0, 8.0, 16.0], [3.0] * 4])
def test_the_interval_is_that_of_scipy(values: list[float]) -> None:
    mean, error = sum(values) / len(values), stats.sem(values)
    low, high = stats.t.interval(0.95, len(values) - 1, mean, error) if error else (mean, mean)
    assert half_width(values) == pytest.approx((high - low) / 2)
    assert half_width(values) == pytest.approx(high - mean)


def test_the_interval_holds_the_mean_of_a_normal_distribution_95_times_of_100() -> None:
    samples = stats.norm.rvs(loc=7, scale=3, size=(4000, 5), random_state=0)
    inside = [abs(sample.mean() - 7) <= half_width(list(sample)) for sample in samples]
    assert sum(inside) / len(inside) == pytest.approx(0.95, abs=0.01)


def test_cells() -> None:
    assert cell([], 3) == ""
    assert cell([12.34], 1) == "12.3"
    assert cell([12.34], 2) == "12.3 (n=1)"
    assert cell([10.0, 10.0], 2) == "10.0 ± 0.0"
    assert cell([10.0, 10.0], 3) == "10.0 ± 0.0 (n=2)"
    assert cell([50.0, 60.0, 70.0], 3) == "60.0 ± 24.8"  # 4.3027 * 10 / sqrt(3)


def test_the_agents_stand_in_the_order_of_the_registry() -> None:
    rows = [row("uniform", 0, 0.1), *(row("ppo", seed, accuracy) for seed, accuracy in enumerate((0.5, 0.6, 0.7)))]
    assert comparison_table(rows).splitlines() == [
        "| task | MACs | fidelity | evaluations | ppo | uniform |",
        "|---|---|---|---|---|---|",
        "| digits | -50% | recalibrated | 100 | 60.0 ± 24.8, 0.25 | 10.0 (n=1), 0.25 |",
    ]


def test_an_agent_that_was_not_run_there_has_an_empty_cell() -> None:
    rows = [
        row("ppo", 0, 0.7),
        row("uniform", 0, 0.2, macs_reduction=0.75),
        row("ppo", 0, 0.3, task="other", macs_reduction=0.75),
    ]
    assert comparison_table(rows).splitlines()[2:] == [
        "| digits | -50% | recalibrated | 100 | 70.0, 0.25 |  |",
        "| digits | -75% | recalibrated | 100 |  | 20.0, 0.25 |",
        "| other | -75% | recalibrated | 100 | 30.0, 0.25 |  |",
    ]


def test_other_budgets_are_other_lines() -> None:
    rows = [row("ppo", seed, 0.7, evaluations=100 - seed) for seed in range(2)]
    rows += [row("ppo", seed, 0.1, 20, 20) for seed in range(2)]
    first, second = comparison_table(rows).splitlines()[2:]
    assert first == "| digits | -50% | recalibrated | 100 | 70.0 ± 0.0, 0.25 |"
    assert second == "| digits | -50% | recalibrated | 20 | 10.0 ± 0.0, 0.25 |"


def test_post_training_is_told() -> None:
    settings = PostTraining(epochs=5, learning_rate=0.01)
    rows = [row("ppo", 0, 0.7), row("ppo", 0, 0.9, posttraining=describe(settings))]
    head, rule, first, second = comparison_table(rows).splitlines()
    assert head == "| task | MACs | fidelity | post-training | evaluations | ppo |"
    assert rule == "|---|---|---|---|---|---|"
    assert first == "| digits | -50% | recalibrated | none | 100 | 70.0, 0.25 |"
    assert second == "| digits | -50% | recalibrated | epochs 5, learning_rate 0.01 | 100 | 90.0, 0.25 |"
