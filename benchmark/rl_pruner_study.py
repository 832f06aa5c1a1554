"""Why is RL-Pruner weak on small budgets? ``python -m prune_gym.benchmark.rl_pruner_study --help``

Three measurements, one CSV each:

- *noise*: how far the samples of the first stage are from the policy, in networks of few and of many layers;
- *objective*: how well the accuracy one step ahead, which RL-Pruner learns from, ranks actions by the accuracy at the target;
- *search*: what is found by RL-Pruner, by the same with and without learning, and by searches with another objective.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from statistics import mean
from typing import Annotated, Any

import numpy as np
import torch
from scipy import stats

from prune_gym import models, tasks
from prune_gym.agents.config import RunConfig
from prune_gym.agents.rl_pruner import RLPruner, RLPrunerConfig, initial_policy, layers_by_group, noisy_action
from prune_gym.agents.run import prepare, search
from prune_gym.arguments import AtLeast, OneOf, Within, check_different, check_settings
from prune_gym.benchmark.command import run_command
from prune_gym.benchmark.processes import in_processes
from prune_gym.benchmark.rows import Rows
from prune_gym.benchmark.table import cell, markdown_table
from prune_gym.envs.pruning import PruningEnv
from prune_gym.files import check_writable, write_atomically
from prune_gym.graph.trace import trace
from prune_gym.training.train import accuracy, one_thread

PAPER_NETWORKS = ("vgg19", "resnet56")  # besides those of the tasks
NOISE = ("network", "layers", "zeroed", "distance")
OBJECTIVE = ("task", "macs_reduction", "seed", "samples", "spearman", "distinct", "spread")
SEARCH = ("task", "macs_reduction", "variant", "seed", "budget", "evaluations", "test_accuracy", "val_accuracy", "narrowest")
VARIANTS: dict[str, dict[str, Any]] = {
    "uniform": {"agent": "uniform"},
    "random": {"agent": "random"},
    "rl_pruner": {"agent": "rl_pruner"},
    # these two prune with samples in place of the policy, and differ in nothing but that the policy of one learns
    "rl_pruner, by samples": {"agent": "rl_pruner", "rl_pruner": RLPrunerConfig(prune_with="sample")},
    "rl_pruner, by samples, no learning": {
        "agent": "rl_pruner",
        "rl_pruner": RLPrunerConfig(prune_with="sample", step_size=0.0),
    },
    "rl_pruner, noise 0.05": {"agent": "rl_pruner", "rl_pruner": RLPrunerConfig(noise_std=0.05)},
    "lookahead": {"agent": "lookahead"},
}


@dataclass(frozen=True)
class StudyConfig:
    """What is measured."""

    tasks: tuple[Annotated[str, OneOf(tasks.TASKS)], ...] = tuple(tasks.TASKS)
    """Tasks by name."""
    macs_reductions: tuple[Annotated[float, Within("(0, 1)")], ...] = (0.5, 0.75)
    """Targets: MACs to remove."""
    first_seed: Annotated[int, AtLeast(0)] = 100
    """The first of the seeds, which no setting was chosen by."""
    seeds: Annotated[int, AtLeast(2)] = 5
    """How many seeds."""
    evaluations: Annotated[int, AtLeast(1)] = 300
    """Networks that a search may score."""
    samples: Annotated[int, AtLeast(3)] = 100
    """Actions that are ranked by both objectives."""
    processes: Annotated[int, AtLeast(1)] = 2
    """Runs at a time, one thread each."""
    out: Path = Path("results/rl_pruner_study")
    """Folder of the CSVs; rows that they hold are kept. The tables lie beside them."""

    def __post_init__(self) -> None:
        check_settings(self)
        check_different("tasks", self.tasks)
        check_different("macs_reductions", self.macs_reductions)

    @property
    def settings(self) -> list[tuple[str, float, int]]:
        """Tasks, targets and seeds."""
        seeds = range(self.first_seed, self.first_seed + self.seeds)
        return list(product(self.tasks, self.macs_reductions, seeds))


# ---------------------------------------------------------------------------------------------------------- noise


def noise(name: str, samples: int = 1000) -> dict[str, object]:
    """How many entries of a sample are at the floor, and the L1 distance from policy to sample, at most 2; means over samples of
    the first stage (equations 11 and 12)."""
    config, rng = RLPrunerConfig(), np.random.default_rng(0)
    graph = trace(models.create(name), torch.zeros(1, 3, 32, 32)) if name in PAPER_NETWORKS else tasks.load(name).graph
    groups, channels = layers_by_group(graph)
    policy = initial_policy(channels, groups)
    drawn = config.noise_std * rng.standard_normal((samples, len(policy)))
    actions = np.array([noisy_action(policy, each, groups, config.min_probability) for each in drawn])
    return {
        "network": name,
        "layers": len(policy),
        "zeroed": round(float((policy + drawn <= config.min_probability).mean()), 4),
        "distance": round(float(np.abs(actions - policy).sum(1).mean()), 4),
    }


# ------------------------------------------------------------------------------------------------------ objective


def objective(task: str, macs_reduction: float, seed: int, samples: int) -> dict[str, object]:
    """Actions as RL-Pruner samples them at first, each scored one step ahead and at the target.

    Gives Spearman's correlation of the two accuracies, 0 if all of either are equal; how many different accuracies there are one
    step ahead; and their standard deviation.
    """
    env = PruningEnv(task, macs_reduction=macs_reduction, device="cpu", reward="accuracy")
    agent = RLPruner(env, seed=seed)
    env.reset()
    actions = np.array([agent.group_action(agent.sample_action()) for _ in range(samples)], np.float32)
    ahead, there = ([preview.score.accuracy for preview in env.preview(actions, to_target)] for to_target in (False, True))
    ranks_nothing = len(set(ahead)) == 1 or len(set(there)) == 1
    return {
        "task": task,
        "macs_reduction": macs_reduction,
        "seed": seed,
        "samples": samples,
        "spearman": 0.0 if ranks_nothing else round(float(stats.spearmanr(ahead, there).statistic), 4),
        "distinct": len(set(ahead)),
        "spread": round(float(np.std(ahead)), 5),
    }


# --------------------------------------------------------------------------------------------------------- search


def found(run: tuple[str, RunConfig]) -> dict[str, object]:
    """The network that a variant finds, and the smallest share of its units that a group of it keeps."""
    variant, config = run
    env, agent, evaluations = prepare(config)
    search(env, agent, evaluations)
    best = env.best
    assert best is not None  # every variant ends at least one episode
    return {
        "task": config.task,
        "macs_reduction": config.macs_reduction,
        "variant": variant,
        "seed": config.seed,
        "budget": config.evaluations,
        "evaluations": env.evaluations,
        "test_accuracy": accuracy(env.simulator.network(best.snapshot), env.task.test),
        "val_accuracy": best.score.accuracy,
        "narrowest": round(float((best.snapshot.architecture.widths / env.graph.widths).min()), 4),
    }


def search_runs(config: StudyConfig) -> list[tuple[str, RunConfig]]:
    """Every variant on every task at every target with every seed."""
    return [
        (
            variant,
            RunConfig(
                task=task, macs_reduction=reduction, seed=seed, evaluations=config.evaluations, device="cpu", **VARIANTS[variant]
            ),
        )
        for (task, reduction, seed), variant in product(config.settings, VARIANTS)
    ]


# ---------------------------------------------------------------------------------------------------------- study


def study(config: StudyConfig) -> tuple[Rows, Rows, Rows]:
    """Measure what the CSVs lack, and write each row as soon as it is known."""
    folder = config.out.expanduser()
    noises = Rows(folder / "noise.csv", NOISE, ("network",))
    objectives = Rows(folder / "objective.csv", OBJECTIVE, OBJECTIVE[:4])
    searches = Rows(folder / "search.csv", SEARCH, SEARCH[:5])
    check_writable(searches.path)
    for task in config.tasks:
        tasks.load(task, progress=True)
    for name in (*config.tasks, *PAPER_NETWORKS):
        if (name,) not in noises:
            noises.add(noise(name))
    for setting in config.settings:
        if (*setting, config.samples) not in objectives:
            with one_thread():  # so that close calls do not depend on the number of cores
                objectives.add(objective(*setting, config.samples))
    missing = [
        (variant, run)
        for variant, run in search_runs(config)
        if (run.task, run.macs_reduction, variant, run.seed, run.evaluations) not in searches
    ]
    for row in in_processes(found, missing, config.processes):
        searches.add(row)
    return noises, objectives, searches


def tables(noises: Rows, objectives: Rows, searches: Rows) -> str:
    """Markdown; behind ± is half of the 95% interval over the seeds."""
    lines = [
        [row["network"], row["layers"], f"{float(row['zeroed']):.0%}", f"{float(row['distance']):.2f}"]
        for row in sorted(noises.rows, key=lambda row: int(row["layers"]))
    ]
    parts = [markdown_table(["network", "layers", "entries at the floor", "L1 distance"], lines)]
    lines = []
    for (task, reduction), rows in _by(objectives.rows, "task", "macs_reduction").items():
        spearman = [float(row["spearman"]) for row in rows]
        distinct, spread = (mean(float(row[name]) for row in rows) for name in ("distinct", "spread"))
        lines.append([task, f"-{float(reduction):.0%}", f"{mean(spearman):.2f}", f"{distinct:.0f}", f"{100 * spread:.1f} points"])
    headings = ["task", "MACs", "Spearman", "different accuracies one step ahead", "their standard deviation"]
    parts.append(markdown_table(headings, lines))
    for name, title in (
        ("test_accuracy", "Test accuracy in percent:"),
        ("narrowest", "The group that keeps least, % of its units:"),
    ):
        lines = []
        for (task, reduction), rows in _by(searches.rows, "task", "macs_reduction").items():
            cells = [cell([100 * float(row[name]) for row in rows if row["variant"] == variant], 0) for variant in VARIANTS]
            lines.append([task, f"-{float(reduction):.0%}", *cells])
        parts += [f"{title}\n", markdown_table(["task", "MACs", *VARIANTS], lines)]
    return "\n".join(parts)


def _by(rows: Sequence[Mapping[str, str]], *names: str) -> dict[tuple[str, ...], list[Mapping[str, str]]]:
    """The rows with the same values of some columns, in the order of the CSV."""
    parts: dict[tuple[str, ...], list[Mapping[str, str]]] = {}
    for row in rows:
        parts.setdefault(tuple(row[name] for name in names), []).append(row)
    return parts


def main(config: StudyConfig) -> None:
    """Measure, and write the tables beside the CSVs."""
    text = tables(*study(config))
    print(text)
    write_atomically(config.out.expanduser() / "tables.md", text)


if __name__ == "__main__":
    run_command(main, StudyConfig, __doc__, "rows that were finished are kept; the same command goes on")
