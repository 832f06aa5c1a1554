"""Does what a policy learned on some networks help with another one? ``python -m prune_gym.benchmark.transfer --help``

GNN-RL's policy does not know which network it prunes. On every table it is asked, without noise and without an evaluation, for
the network at the target: before it has learned anything, after it learned on the other tasks alone, and after it learned on this
one, for as many evaluations. The difference of the last two is what transfer lacks. An interrupted command goes on where it
stopped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Annotated, Any

from prune_gym import tables
from prune_gym.agents.gnn_rl import GNNRL
from prune_gym.agents.search_log import silent_logger
from prune_gym.arguments import AtLeast, Within, check_different, check_settings
from prune_gym.benchmark.command import run_command
from prune_gym.benchmark.games import BASES
from prune_gym.benchmark.harness import FIRST_SEED
from prune_gym.benchmark.processes import in_processes
from prune_gym.benchmark.rows import Rows
from prune_gym.benchmark.table import cell, markdown_table, paired_difference
from prune_gym.envs.tabular import TabularEnv
from prune_gym.files import check_writable, write_atomically

KEY = ("task", "base", "macs_reduction", "budget", "learned_on", "seed")
COLUMNS = (*KEY, "val_accuracy", "test_accuracy", "uniform", "best")
SCHOOLS = ("nothing", "the others", "itself")
ROUNDS = 20  # in each of which it learns on one network; on several by turns, so that it forgets none


@dataclass(frozen=True)
class TransferConfig:
    """Which networks, and for how long a policy learns."""

    bases: tuple[Annotated[int, AtLeast(0, below=len(BASES))], ...] = BASES
    """Base networks of the tasks; those of one number form a world of their own."""
    macs_reduction: Annotated[float, Within("(0, 1)")] = 0.75
    """Target: MACs to remove, as a fraction of the original network's."""
    seeds: Annotated[int, AtLeast(1)] = 3
    """How many seeds: 100, 101, ..."""
    evaluations: Annotated[int, AtLeast(ROUNDS)] = 3000
    """Networks that may be scored while a policy learns, together on all networks that it learns on, in whole rounds."""
    processes: Annotated[int, AtLeast(1)] = 2
    """Policies at a time, one thread each."""
    out: Path = Path("results/transfer.csv")
    """The CSV; rows that it holds are kept. The table lies beside it."""
    table_only: bool = False
    """Run nothing; make the table of the rows in the CSV."""

    def __post_init__(self) -> None:
        check_settings(self)
        check_different("bases", self.bases)


@dataclass(frozen=True)
class Lesson:
    """One policy, and the network that it prunes in the end."""

    task: str
    base: int
    macs_reduction: float
    budget: int
    learned_on: str
    seed: int

    @property
    def key(self) -> dict[str, object]:
        return {name: getattr(self, name) for name in KEY}

    @property
    def schools(self) -> list[str]:
        """The tasks that it learns on."""
        others = [task for task in tables.DIGESTS if task != self.task]
        return {"nothing": [], "the others": others, "itself": [self.task]}[self.learned_on]

    def environment(self, task: str) -> TabularEnv:
        env = TabularEnv(task, base=self.base, macs_reduction=self.macs_reduction, reward="accuracy")
        env.reset()
        return env


def learn(lesson: Lesson) -> dict[str, object]:
    """Let a policy learn, and look up what it makes of the task's network: a row of the CSV."""
    agent = GNNRL(None, seed=lesson.seed)
    agent.set_logger(silent_logger())
    schools = [lesson.environment(task) for task in lesson.schools]
    for number in range(ROUNDS if schools else 0):
        agent.set_env(schools[number % len(schools)])
        agent.learn(lesson.budget // ROUNDS)
    env = lesson.environment(lesson.task)
    found = env.prune_to(agent.policy_widths(env))
    end: Any = found.snapshot  # of a table
    return lesson.key | {
        "val_accuracy": round(found.score.accuracy, 6),
        "test_accuracy": round(env.simulator.test_accuracy(end), 6),
        "uniform": round(uniform_accuracy(env), 6),
        "best": round(env.simulator.game.best(env.yardstick)[1], 6),
    }


def uniform_accuracy(env: TabularEnv) -> float:
    """Of the network at the target whose groups lost the same fraction."""
    env.reset()
    while env.steps_left:
        env.step(env.uniform_action)
    return env.score().accuracy


def transfer(config: TransferConfig) -> Rows:
    """Compute the rows that the CSV lacks, and write each of them as soon as it is known.

    Raises ValueError for a CSV with other columns, and for none with ``table_only``; ChildProcessError if a process is killed.
    """
    rows = Rows(config.out.expanduser(), COLUMNS, KEY, filled=config.table_only)
    if config.table_only:
        return rows
    order = product(range(FIRST_SEED, FIRST_SEED + config.seeds), tables.DIGESTS, config.bases, SCHOOLS)
    wanted = [
        Lesson(task, base, config.macs_reduction, config.evaluations, learned_on, seed) for seed, task, base, learned_on in order
    ]
    check_writable(rows.path)
    for row in in_processes(learn, [one for one in wanted if tuple(one.key.values()) not in rows], config.processes):
        rows.add(row)
    return rows


def table(rows: Sequence[Mapping[str, str]]) -> str:
    """Markdown: for every table the validation accuracy in percent of uniform pruning, of the policy after each school, mean ±
    half of the 95% interval over the seeds, and of the best network; and the gap, what learning on the network itself adds to
    learning on the others, over the same seeds."""
    headings = ["task", "base", "MACs", "evaluations", "uniform", *(f"after {school}" for school in SCHOOLS), "gap", "best"]
    lines = []
    found: dict[tuple[str, str, str, str], dict[str, dict[str, Mapping[str, str]]]] = {}
    for row in rows:
        by_school = found.setdefault((row["task"], row["base"], row["macs_reduction"], row["budget"]), {})
        by_school.setdefault(row["learned_on"], {})[row["seed"]] = row
    most = max(len(seeds) for schools in found.values() for seeds in schools.values())
    for (task, base, reduction, budget), schools in found.items():
        accuracies = {
            school: {seed: 100 * float(row["val_accuracy"]) for seed, row in seeds.items()} for school, seeds in schools.items()
        }
        cells = [cell(list(accuracies.get(school, {}).values()), most) for school in SCHOOLS]
        (known,) = {(row["uniform"], row["best"]) for seeds in schools.values() for row in seeds.values()}
        uniform, best = (f"{100 * float(accuracy):.1f}" for accuracy in known)
        gap = paired_difference(accuracies.get("itself", {}), accuracies.get("the others", {}))
        lines.append([task, base, f"-{float(reduction):.0%}", budget, uniform, *cells, gap, best])
    return markdown_table(headings, lines)


def main(config: TransferConfig) -> None:
    """Compute what is missing, and write the table beside the CSV."""
    text = table(transfer(config).rows)
    print(text)
    write_atomically(config.out.expanduser().with_suffix(".md"), text)


if __name__ == "__main__":
    run_command(main, TransferConfig, __doc__, "rows that were finished are kept; the same command goes on")
