"""Compare agents at the same number of evaluations, over several seeds: results as CSV, a Markdown table from them.

Every agent may score as many architectures as one episode of RL-Pruner does and is judged by the best network at the target
sparsity that it scored, chosen by validation accuracy; the table shows its test accuracy. What the CSV already holds is not run
again, so an interrupted comparison goes on where it stopped.
"""

from __future__ import annotations

import multiprocessing
from collections import defaultdict
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path

import numpy as np
import torch
from command import run_command
from scipy import stats
from tqdm import tqdm

from prune_gym import tasks
from prune_gym.agents.config import RunConfig
from prune_gym.agents.registry import AGENTS
from prune_gym.agents.run import prepare, search
from prune_gym.benchmark.rows import Rows
from prune_gym.training.distillation import PostTraining
from prune_gym.training.train import accuracy

COLUMNS = (
    "task",
    "sparsity",
    "agent",
    "seed",
    "budget",
    "posttraining",
    "evaluations",
    "val_accuracy",
    "test_accuracy",
    "flops_reduction",
    "params_reduction",
)
KEY = ("task", "sparsity", "agent", "seed", "budget", "posttraining")


@dataclass(frozen=True)
class Config:
    """What to compare."""

    tasks: tuple[str, ...] = ("digits", "digits-resnet", "digits-mobilenet")
    """Tasks by name."""
    sparsities: tuple[float, ...] = (0.5, 0.75)
    """Channel sparsities."""
    agents: tuple[str, ...] = ("rl_pruner", "ppo", "taylor", "uniform", "random")
    """Agents by name."""
    seeds: int = 5
    """Seeds 0, 1, ... per combination."""
    evaluations: int | None = None
    """Architectures that each agent may score; by default what one episode of RL-Pruner takes."""
    posttraining: PostTraining = field(default_factory=PostTraining)
    """Post-training, the same for all agents."""
    processes: int = 2
    """Runs at a time, one thread each."""
    out: Path = Path("results/compare_agents.csv")
    """The CSV; rows that it holds are kept."""
    table_only: bool = False
    """Run nothing, print the table of what the CSV holds."""


def main(config: Config) -> None:
    results = Rows(config.out, COLUMNS, KEY)
    if not config.table_only:
        configs = [
            RunConfig(
                task=task,
                sparsity=sparsity,
                agent=agent,
                seed=seed,
                evaluations=config.evaluations,
                posttraining=config.posttraining,
                device="cpu",
            )
            for task, sparsity, agent, seed in product(config.tasks, config.sparsities, config.agents, range(config.seeds))
        ]
        todo = [c for c in configs if tuple(about(c).values()) not in results]
        for name in config.tasks:
            tasks.load(name)  # train the base networks once, before the workers look for them
        with multiprocessing.get_context("spawn").Pool(config.processes, torch.set_num_threads, (1,)) as pool:
            for row in tqdm(pool.imap_unordered(evaluate, todo), total=len(todo), unit="run"):
                results.add(row)
    if not results.rows:
        raise ValueError(f"out: {config.out} holds no results yet; run this without --table-only.")
    print(table(results.rows))


def about(config: RunConfig) -> dict[str, object]:
    """What a row is about."""
    return {
        "task": config.task,
        "sparsity": config.sparsity,
        "agent": config.agent,
        "seed": config.seed,
        "budget": config.evaluations or "",
        "posttraining": describe(config.posttraining),
    }


def describe(settings: PostTraining) -> str:
    """The settings that are not the default ones; empty without post-training."""
    if not settings.epochs:
        return ""
    default = vars(PostTraining())
    return ", ".join(f"{name} {value}" for name, value in vars(settings).items() if value != default[name])


def evaluate(config: RunConfig) -> dict[str, object]:
    """Run one agent and measure the network it found."""
    env, algorithm, evaluations = prepare(config)
    search(env, algorithm, evaluations)
    best = env.best
    if best is None:
        raise RuntimeError(f"{config.agent} found no network within its evaluations.")
    network = env.simulator.network(best.snapshot)
    return about(config) | {
        "evaluations": env.evaluations,
        "val_accuracy": best.score.accuracy,
        "test_accuracy": accuracy(network, env.task.test),
        "flops_reduction": round(best.score.flops_reduction, 6),
        "params_reduction": round(best.score.params_reduction, 6),
    }


def table(rows: list[dict[str, str]]) -> str:
    """Test accuracy in percent, mean and half width of the 95% interval (Student's t over seeds), as Markdown. Where there are
    fewer seeds than elsewhere, their number is beside it."""
    found: defaultdict[tuple[str, str, str, str], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    evaluations: defaultdict[tuple[str, str, str, str], int] = defaultdict(int)
    for row in rows:
        key = (row["task"], row["sparsity"], row["posttraining"], row["budget"])
        found[key][row["agent"]].append(100 * float(row["test_accuracy"]))
        evaluations[key] = max(evaluations[key], int(row["evaluations"]))
    names = [name for name in AGENTS if any(name in cells for cells in found.values())]
    seeds = max(len(values) for cells in found.values() for values in cells.values())
    head = ["task", "channel sparsity", *(["post-training"] if any(row["posttraining"] for row in rows) else []), "evaluations"]
    lines = [f"| {' | '.join([*head, *names])} |", "|" + "---|" * (len(head) + len(names))]
    for (task, sparsity, posttraining, budget), cells in found.items():
        trained = [posttraining or "none"] if "post-training" in head else []
        line = [
            task,
            f"{float(sparsity):.0%}",
            *trained,
            str(evaluations[task, sparsity, posttraining, budget]),
            *(interval(cells[name], seeds) for name in names),
        ]
        lines.append(f"| {' | '.join(line)} |")
    return "\n".join(lines)


def interval(values: list[float], seeds: int) -> str:
    if not values:
        return ""
    fewer = f" (n={len(values)})" if len(values) < seeds else ""
    if len(values) == 1:
        return f"{values[0]:.1f}{fewer}"
    half = stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values))
    return f"{np.mean(values):.1f} ± {half:.1f}{fewer}"


if __name__ == "__main__":
    run_command(main, Config, __doc__, "rows that were finished are kept; the same command goes on")
