"""Results as Markdown tables: means over seeds with confidence intervals, and their paired differences."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from scipy import stats

from prune_gym.agents.registry import AGENTS

CONFIDENCE = 0.95


def comparison_table(rows: Sequence[Mapping[str, str]]) -> str:
    """A line for every task, target, fidelity, post-training and budget, and a column for every agent.

    A cell holds the test accuracy in percent: the mean over the seeds and the half width of its 95% interval; and what the
    evaluations took, in units of 1e12 MACs. If an agent has fewer seeds than another one in the table, their number stands beside
    it. ``rows`` are those of :func:`prune_gym.benchmark.comparison.compare`.
    """
    lines: dict[tuple[str, ...], list[Mapping[str, str]]] = {}
    for row in rows:
        key = tuple(row[name] for name in ("task", "macs_reduction", "fidelity", "posttraining", "budget"))
        lines.setdefault(key, []).append(row)
    known = dict.fromkeys([*AGENTS, *(row["agent"] for row in rows)])  # and those that were registered where they ran
    agents = [name for name in known if any(row["agent"] == name for row in rows)]
    cells = {key: {name: _accuracies(found, name) for name in agents} for key, found in lines.items()}
    most_seeds = max((len(accuracies) for line in cells.values() for accuracies in line.values()), default=0)
    trained = any(row["posttraining"] for row in rows)
    headings = ["task", "MACs", "fidelity", *(["post-training"] if trained else []), "evaluations", *agents]
    table = []
    for key, found in lines.items():
        task, reduction, fidelity, posttraining, _ = key
        evaluations = max(int(row["evaluations"]) for row in found)
        training = [posttraining or "none"] if trained else []
        about = [task, f"-{float(reduction):.0%}", fidelity, *training, str(evaluations)]
        table.append([*about, *(_with_compute(cells[key][name], found, name, most_seeds) for name in agents)])
    return markdown_table(headings, table)


def _accuracies(rows: Sequence[Mapping[str, str]], agent: str) -> list[float]:
    return [100 * float(row["test_accuracy"]) for row in rows if row["agent"] == agent]


def _with_compute(accuracies: Sequence[float], rows: Sequence[Mapping[str, str]], agent: str, most_seeds: int) -> str:
    macs = [float(row["compute"]) for row in rows if row["agent"] == agent]
    return f"{cell(accuracies, most_seeds)}, {np.mean(macs) / 1e12:.2f}" if macs else ""


def markdown_table(headings: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A table in Markdown, which ends with a line break."""
    head, *body = (f"| {' | '.join(line)} |\n" for line in (headings, *lines))
    return "".join([head, "|" + "---|" * len(headings) + "\n", *body])


def cell(values: Sequence[float], most_seeds: int) -> str:
    """Mean ± half width; the number of values if it is smaller than ``most_seeds``; empty for none."""
    if not values:
        return ""
    interval = f" ± {half_width(values):.1f}" if len(values) > 1 else ""
    fewer = f" (n={len(values)})" if len(values) < most_seeds else ""
    return f"{np.mean(values):.1f}{interval}{fewer}"


def paired_difference(values: Mapping[str, float], reference: Mapping[str, float]) -> str:
    """Mean ± half width of the differences of the seeds that both have, with its sign; empty for none."""
    differences = [value - reference[seed] for seed, value in values.items() if seed in reference]
    if not differences:
        return ""
    interval = f" ± {half_width(differences):.1f}" if len(differences) > 1 else ""
    return f"{np.mean(differences):+.1f}{interval}"


def half_width(values: Sequence[float]) -> float:
    """Half the width of the 95% confidence interval of the mean of n > 1 values: t s / √n, with the standard deviation s of
    the sample and the 97.5% quantile t of Student's distribution with n - 1 degrees of freedom."""
    n = len(values)
    quantile = stats.t.ppf((1 + CONFIDENCE) / 2, n - 1)
    return float(quantile * np.std(values, ddof=1) / np.sqrt(n))
