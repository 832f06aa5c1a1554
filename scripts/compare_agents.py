"""Compare agents at the same number of evaluations, over several seeds: results as CSV, a Markdown table from them.

Every agent may score as many architectures as one episode of RL-Pruner does and is judged by the best network at the target
sparsity that it scored, chosen by validation accuracy; the table shows its test accuracy, without any fine-tuning. What the
CSV already holds is not run again, so an interrupted comparison goes on where it stopped.
"""

from __future__ import annotations

import multiprocessing
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import torch
from command import run_command
from rows import Rows
from scipy import stats
from tqdm import tqdm

from prune_gym import tasks
from prune_gym.agents.config import RunConfig
from prune_gym.agents.run import search
from prune_gym.training import accuracy

COLUMNS = (
    "task",
    "sparsity",
    "agent",
    "seed",
    "budget",
    "evaluations",
    "val_accuracy",
    "test_accuracy",
    "flops_reduction",
    "params_reduction",
)
KEY = ("task", "sparsity", "agent", "seed", "budget")


@dataclass(frozen=True)
class Config:
    """What to compare."""

    tasks: tuple[str, ...] = ("digits", "digits-resnet", "digits-mobilenet")
    """Tasks by name."""
    sparsities: tuple[float, ...] = (0.5, 0.75)
    """Channel sparsities."""
    agents: tuple[str, ...] = ("rl_pruner", "uniform", "random")
    """Agents by name."""
    seeds: int = 5
    """Seeds 0, 1, ... per combination."""
    evaluations: int | None = None
    """Architectures that each agent may score; by default what one episode of RL-Pruner takes."""
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
            RunConfig(task=task, sparsity=sparsity, agent=agent, seed=seed, evaluations=config.evaluations, device="cpu")
            for task, sparsity, agent, seed in product(config.tasks, config.sparsities, config.agents, range(config.seeds))
        ]
        todo = [c for c in configs if (c.task, c.sparsity, c.agent, c.seed, c.evaluations or "") not in results]
        for name in config.tasks:
            tasks.load(name)  # train the base networks once, before the workers look for them
        with multiprocessing.get_context("spawn").Pool(config.processes, initializer=one_thread) as pool:
            for row in tqdm(pool.imap_unordered(evaluate, todo), total=len(todo), unit="run"):
                results.add(row)
    print(table(results.rows))


def one_thread() -> None:
    torch.set_num_threads(1)


def evaluate(config: RunConfig) -> dict[str, object]:
    """Run one agent and measure the network it found."""
    env, *_ = search(config)
    best = env.best
    if best is None:
        raise RuntimeError(f"{config.agent} found no network within its evaluations.")
    network = env.simulator.network(best.snapshot)
    return {
        "task": config.task,
        "sparsity": config.sparsity,
        "agent": config.agent,
        "seed": config.seed,
        "budget": config.evaluations or "",
        "evaluations": env.evaluations,
        "val_accuracy": best.score.accuracy,
        "test_accuracy": accuracy(network, env.task.test),
        "flops_reduction": round(best.score.flops_reduction, 6),
        "params_reduction": round(best.score.params_reduction, 6),
    }


def table(rows: list[dict[str, str]]) -> str:
    """Test accuracy in percent, mean and half width of the 95% interval (Student's t over seeds), as Markdown."""
    names = list(dict.fromkeys(row["agent"] for row in sorted(rows, key=lambda row: AGENT_ORDER.index(row["agent"]))))
    lines = [f"| task | channel sparsity | evaluations | {' | '.join(names)} |", f"|---|---|---|{'---|' * len(names)}"]
    for task, sparsity in dict.fromkeys((row["task"], row["sparsity"]) for row in rows):
        chosen = [row for row in rows if (row["task"], row["sparsity"]) == (task, sparsity)]
        cells = [interval([100 * float(row["test_accuracy"]) for row in chosen if row["agent"] == name]) for name in names]
        evaluations = max(int(row["evaluations"]) for row in chosen)
        lines.append(f"| {task} | {float(sparsity):.0%} | {evaluations} | {' | '.join(cells)} |")
    return "\n".join(lines)


AGENT_ORDER = ("rl_pruner", "ppo", "a2c", "sac", "td3", "ddpg", "taylor", "random", "uniform")


def interval(values: list[float]) -> str:
    if not values:
        return ""
    if len(values) == 1:
        return f"{values[0]:.1f}"
    half = stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values))
    return f"{np.mean(values):.1f} ± {half:.1f}"


if __name__ == "__main__":
    run_command(main, Config, __doc__, "rows that were finished are kept; the same command goes on")
