"""Compare agents at the same MACs and the same number of evaluations, over several tasks, targets and seeds.

Every agent may score as many architectures as one episode of RL-Pruner does, and is judged by the best network at the target
that it scored; what its evaluations took is noted beside it. Results are rows of a CSV (:mod:`prune_gym.benchmark.rows`); rows
that the CSV holds are not computed again, so an interrupted comparison goes on where it stopped.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Annotated

from prune_gym import tasks
from prune_gym.agents.config import RunConfig
from prune_gym.agents.registry import AGENTS
from prune_gym.agents.results import best_of
from prune_gym.agents.run import prepare, search
from prune_gym.arguments import AtLeast, OneOf, Within, check_different, check_settings
from prune_gym.benchmark.processes import in_processes
from prune_gym.benchmark.rows import Rows
from prune_gym.files import check_writable
from prune_gym.scoring.candidates import FIDELITIES, FIDELITY
from prune_gym.training.distillation import PostTraining
from prune_gym.training.train import accuracy

KEY = ("task", "macs_reduction", "fidelity", "agent", "seed", "budget", "posttraining")
REDUCTIONS = ("flops_reduction", "params_reduction", "channel_sparsity")
COLUMNS = (*KEY, "evaluations", "compute", "val_accuracy", "test_accuracy", *REDUCTIONS)


@dataclass(frozen=True)
class ComparisonConfig:
    """What to compare: every agent on every task at every target with every seed."""

    tasks: tuple[Annotated[str, OneOf(tasks.TASKS)], ...] = ("digits", "digits-resnet", "digits-mobilenet")
    """Tasks by name."""
    macs_reductions: tuple[Annotated[float, Within("(0, 1)")], ...] = (0.5, 0.75)
    """Targets: MACs to remove, as fractions of the original network's."""
    fidelity: Annotated[str, OneOf(FIDELITIES)] = FIDELITY
    """What networks are scored with before any training: original, recalibrated or compensated."""
    agents: tuple[Annotated[str, OneOf(AGENTS)], ...] = (
        "rl_pruner", "lookahead", "cma_es", "ppo", "taylor", "obs", "uniform", "random",
    )  # fmt: skip
    """Agents by name."""
    seeds: Annotated[int, AtLeast(1)] = 5
    """How many seeds: 0, 1, ..., for every combination."""
    evaluations: Annotated[int, AtLeast(1)] | None = None
    """Architectures that each agent may score; by default as many as one episode of RL-Pruner."""
    posttraining: PostTraining = field(default_factory=PostTraining)
    """Post-training, the same for all agents."""
    processes: Annotated[int, AtLeast(1)] = 2
    """Runs at a time, one thread each."""
    out: Path = Path("results/compare_agents.csv")
    """The CSV; rows that it holds are kept."""
    table_only: bool = False
    """Run nothing; print the table of the rows that the CSV holds."""

    def __post_init__(self) -> None:
        check_settings(self)
        for name in ("tasks", "macs_reductions", "agents"):
            check_different(name, getattr(self, name))

    def runs(self) -> list[RunConfig]:
        """The settings of all runs. They are computed on the CPU, where the same seed gives the same result."""
        return [
            RunConfig(
                task=task,
                macs_reduction=reduction,
                fidelity=self.fidelity,
                agent=agent,
                seed=seed,
                evaluations=self.evaluations,
                posttraining=self.posttraining,
                device="cpu",
            )
            for task, reduction, agent, seed in product(self.tasks, self.macs_reductions, self.agents, range(self.seeds))
        ]


def compare(config: ComparisonConfig) -> Rows:
    """Compute the rows that the CSV lacks, and write each of them as soon as it is known.

    Raises ValueError if there is a CSV with other columns, or none with ``table_only``, and for a budget that is too small for
    an episode; ChildProcessError if a run is killed. The rows that were finished are kept.
    """
    rows = Rows(config.out.expanduser(), COLUMNS, KEY, filled=config.table_only)
    if config.table_only:
        return rows
    missing = [run for run in config.runs() if tuple(row_key(run).values()) not in rows]
    check_writable(rows.path)
    for name in {run.task: None for run in missing}:
        tasks.load(name, progress=True)  # trains a base network once, before several processes look for it
    for row in in_processes(evaluate, missing, config.processes):
        rows.add(row)
    return rows


def row_key(run: RunConfig) -> dict[str, object]:
    """The columns that tell a run from the others."""
    return {
        "task": run.task,
        "macs_reduction": run.macs_reduction,
        "fidelity": run.fidelity,
        "agent": run.agent,
        "seed": run.seed,
        "budget": run.evaluations or "",
        "posttraining": describe(run.posttraining),
    }


def describe(settings: PostTraining) -> str:
    """The settings that differ from the default ones; empty without post-training."""
    if not settings.epochs:
        return ""
    default = vars(PostTraining())
    return ", ".join(f"{name} {value}" for name, value in vars(settings).items() if value != default[name])


def evaluate(run: RunConfig) -> dict[str, object]:
    """Let one agent search, and measure the network that it found: the row of the CSV."""
    env, algorithm, evaluations = prepare(run)
    search(env, algorithm, evaluations)
    best = best_of(env, run.agent)
    network = env.simulator.network(best.snapshot)
    return row_key(run) | {
        "evaluations": env.evaluations,
        "compute": env.compute.macs,
        "val_accuracy": best.score.accuracy,
        "test_accuracy": accuracy(network, env.task.test),
        **{name: round(getattr(best.score, name), 6) for name in REDUCTIONS},
    }
