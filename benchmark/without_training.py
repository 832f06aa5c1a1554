"""What pruned networks can do without any training: ``python -m prune_gym.benchmark.without_training --help``

Every layer loses the same fraction of its channels, in one step or in several, by each criterion. Accuracies are those of all
test images, at every fidelity and compensated sequentially.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from tqdm import tqdm

from prune_gym.agents.config import RunConfig
from prune_gym.arguments import Within, check_choice, check_different, check_settings
from prune_gym.benchmark.base_tasks import settings_digest
from prune_gym.benchmark.command import run_command
from prune_gym.benchmark.rows import Rows
from prune_gym.benchmark.table import markdown_table
from prune_gym.envs.pruning import PruningEnv
from prune_gym.files import write_atomically
from prune_gym.graph.channel_graph import Architecture
from prune_gym.scoring.candidates import FIDELITIES, Candidates
from prune_gym.scoring.evaluation import Evaluator
from prune_gym.scoring.importance import CRITERIA
from prune_gym.surgery.slicing import named_tensors, scatter_tensors
from prune_gym.tasks import Task
from prune_gym.training.train import deterministic

KEY = ("task", "sparsity", "step_ratio", "criterion")
WAYS = (*FIDELITIES, "sequential")
COLUMNS = (*KEY, "settings", "macs_reduction", "params_reduction", "not pruned", *WAYS)


@dataclass(frozen=True)
class WithoutTrainingConfig:
    """Test accuracy after uniform pruning, without any training."""

    task: str = "digits"
    """Task by name."""
    network: str | None = None
    """Instead of a task: a network of prune_gym.models, ..."""
    data: str | None = None
    """... the data set that it classifies, ..."""
    weights: Path | None = None
    """... and its weights."""
    sparsities: tuple[Annotated[float, Within("(0, 1)")], ...] = (0.25, 0.5)
    """Fractions of the channels that go."""
    step_ratio: Annotated[float, Within("(0, 1]")] = 0.025
    """Where they do not go at once: the fraction that goes in one step, after which importance is computed anew."""
    criteria: tuple[str, ...] = ("l1", "taylor", "obs")
    """Which channels of a layer go."""
    out: Path = Path("results/without_training.csv")
    """CSV of all tasks; what it holds is not computed again. The table lies beside it."""

    def __post_init__(self) -> None:
        check_settings(self)
        check_different("sparsities", self.sparsities)
        check_different("criteria", self.criteria)
        for name in self.criteria:
            check_choice("criteria", name, CRITERIA)


@deterministic()
def measure(config: WithoutTrainingConfig) -> Rows:
    """Compute what the CSV lacks, and write each row as soon as it is known."""
    rows = Rows(config.out.expanduser(), COLUMNS, KEY)
    task = RunConfig(task=config.task, network=config.network, data=config.data, weights=config.weights).load_task(progress=True)
    settings = settings_digest(task)
    rows.check_settings(task.name, settings)
    candidates = {
        fidelity: Candidates(task.graph, named_tensors(task.model, task.graph), fidelity, task.train) for fidelity in FIDELITIES
    }
    kinds = [(s, step, criterion) for s in config.sparsities for step in (s, config.step_ratio) for criterion in config.criteria]
    for sparsity, step_ratio, criterion in tqdm(kinds, unit="network"):
        if (task.name, sparsity, step_ratio, criterion) in rows:
            continue
        architecture = pruned_uniformly(task, sparsity, step_ratio, criterion)
        costs, whole = task.graph.cost(architecture), task.graph.cost(task.graph.full())
        row: dict[str, Any] = dict(zip(KEY, (task.name, sparsity, step_ratio, criterion), strict=True))
        row |= {
            "settings": settings,
            "macs_reduction": round(1 - costs.macs / whole.macs, 4),
            "params_reduction": round(1 - costs.params / whole.params, 4),
            "not pruned": Evaluator(candidates["original"], task.test).accuracy(task.graph.full()),
        }
        row |= {fidelity: Evaluator(each, task.test).accuracy(architecture) for fidelity, each in candidates.items()}
        rows.add(row | {"sequential": _sequential(task, candidates["compensated"], architecture)})
    return rows


def pruned_uniformly(task: Task, sparsity: float, step_ratio: float, criterion: str) -> Architecture:
    """The architecture that is left; importance is that of the compensated networks on the way."""
    env = PruningEnv(task, sparsity, step_ratio, importance=criterion, fidelity="compensated")
    env.reset()
    while env.steps_left:
        env.step(env.uniform_action)
    return env.architecture


def _sequential(task: Task, candidates: Candidates, architecture: Architecture) -> float:
    small = candidates.starting_point(architecture)
    whole = scatter_tensors(candidates.whole, small, task.graph.units, architecture)
    return Evaluator(Candidates(task.graph, whole), task.test).accuracy(architecture)


def table(rows: Sequence[Mapping[str, str]]) -> str:
    """One line for every network, accuracies in percent, as Markdown."""
    head = ["task", "channels gone", "in steps of", "criterion", "MACs", "parameters", "not pruned", *WAYS]
    lines = []
    for row in rows:
        steps = "at once" if row["step_ratio"] == row["sparsity"] else f"{float(row['step_ratio']):.1%}"
        gone = [f"-{float(row[name]):.1%}" for name in ("macs_reduction", "params_reduction")]
        accuracies = [f"{100 * float(row[name]):.1f}" for name in ("not pruned", *WAYS)]
        lines.append([row["task"], f"{float(row['sparsity']):.0%}", steps, row["criterion"], *gone, *accuracies])
    return markdown_table(head, lines)


def main(config: WithoutTrainingConfig) -> None:
    """Measure, and write the table beside the CSV."""
    text = table(measure(config).rows)
    print(text)
    write_atomically(config.out.expanduser().with_suffix(".md"), text)


if __name__ == "__main__":
    run_command(main, WithoutTrainingConfig, __doc__, "rows that were finished are kept; the same command goes on")
