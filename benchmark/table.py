"""The results of a comparison as a Markdown table: mean test accuracy of every agent, with a confidence interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from scipy import stats

from prune_gym.agents.registry import AGENTS

CONFIDENCE = 0.95


def comparison_table(rows: Sequence[Mapping[str, str]]) -> str:
    """A line for every task, sparsity, post-training and budget, and a column for every agent.

    A cell holds the test accuracy in percent: the mean over the seeds and the half width of its 95% interval. If an agent has
    fewer seeds than another one in the table, their number stands beside it. ``rows`` are those of
    :func:`prune_gym.benchmark.comparison.compare`.
    """
    lines: dict[tuple[str, str, str, str], list[Mapping[str, str]]] = {}
    for row in rows:
        lines.setdefault((row["task"], row["sparsity"], row["posttraining"], row["budget"]), []).append(row)
    agents = [name for name in AGENTS if any(row["agent"] == name for row in rows)]
    cells = {key: {name: _accuracies(found, name) for name in agents} for key, found in lines.items()}
    most_seeds = max((len(accuracies) for line in cells.values() for accuracies in line.values()), default=0)
    trained = any(row["posttraining"] for row in rows)
    headings = ["task", "channel sparsity", *(["post-training"] if trained else []), "evaluations", *agents]
    table = [_line(headings), "|" + "---|" * len(headings)]
    for key, found in lines.items():
        task, sparsity, posttraining, _ = key
        evaluations = max(int(row["evaluations"]) for row in found)
        about = [task, f"{float(sparsity):.0%}", *([posttraining or "none"] if trained else []), str(evaluations)]
        table.append(_line([*about, *(cell(cells[key][name], most_seeds) for name in agents)]))
    return "\n".join(table)


def _accuracies(rows: Sequence[Mapping[str, str]], agent: str) -> list[float]:
    return [100 * float(row["test_accuracy"]) for row in rows if row["agent"] == agent]


def _line(entries: Sequence[str]) -> str:
    return f"| {' | '.join(entries)} |"


def cell(values: Sequence[float], most_seeds: int) -> str:
    """Mean ± half width; the number of values if it is smaller than ``most_seeds``; empty for none."""
    if not values:
        return ""
    interval = f" ± {half_width(values):.1f}" if len(values) > 1 else ""
    fewer = f" (n={len(values)})" if len(values) < most_seeds else ""
    return f"{np.mean(values):.1f}{interval}{fewer}"


def half_width(values: Sequence[float]) -> float:
    """Half the width of the 95% confidence interval of the mean of n > 1 values: t s / √n, with the standard deviation s of
    the sample and the 97.5% quantile t of Student's distribution with n - 1 degrees of freedom."""
    n = len(values)
    quantile = stats.t.ppf((1 + CONFIDENCE) / 2, n - 1)
    return float(quantile * np.std(values, ddof=1) / np.sqrt(n))
