"""Which method prunes best at the same MACs, after the same training? ``python -m prune_gym.benchmark.matched --help``

Every method prunes in the same small steps, with the same short post-training on the way, and may score the same number of
networks; what that takes differs, and stands beside it. The network that it found is then trained further, in the same way for
all, and tested on all test images. A seed draws the images that networks are scored, calibrated and trained on, the same for all
methods, which are compared by paired differences over the seeds.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from itertools import product
from math import ceil
from pathlib import Path
from statistics import mean
from typing import Annotated, Any

from prune_gym.agents.config import RunConfig
from prune_gym.agents.rl_pruner import RLPrunerConfig
from prune_gym.agents.run import run
from prune_gym.arguments import AtLeast, Within, check_choice, check_different, check_settings
from prune_gym.benchmark.base_tasks import load_task
from prune_gym.benchmark.command import run_command
from prune_gym.benchmark.processes import in_processes
from prune_gym.benchmark.rows import Rows
from prune_gym.benchmark.table import cell, markdown_table, paired_difference
from prune_gym.files import check_writable, write_atomically
from prune_gym.surgery.pruned_file import load_pruned
from prune_gym.tasks import Task
from prune_gym.training.distillation import PostTraining, distill
from prune_gym.training.train import accuracy, deterministic

REFERENCE = "uniform"  # what the others are compared with
KEY = ("task", "macs_reduction", "method", "seed", "settings")
REACHED = ("flops_reduction", "params_reduction", "channel_sparsity")
COLUMNS = (*KEY, "evaluations", "compute", *REACHED, "val_accuracy", "test_accuracy", "final_test_accuracy")


def _rl_pruner(config: MatchedConfig, reduction: float, **settings: Any) -> dict[str, Any]:
    """One stage before every step, of as many samples as the evaluations pay for."""
    steps = ceil(reduction / config.step_ratio - 1e-9)  # 0.14 / 0.02 is a little more than 7
    samples = max(1, min(RLPrunerConfig().samples, config.evaluations // steps - 1))
    return {"agent": "rl_pruner", "rl_pruner": RLPrunerConfig(samples=samples, stages=1, **settings)}


METHODS: dict[str, Callable[[MatchedConfig, float], dict[str, Any]]] = {
    "uniform": lambda config, reduction: {"agent": "uniform"},
    "group_norm": lambda config, reduction: {"agent": "uniform", "importance": "group_norm"},
    "taylor": lambda config, reduction: {"agent": "taylor"},
    "random": lambda config, reduction: {"agent": "random"},
    "ppo": lambda config, reduction: {"agent": "ppo"},
    "rl_pruner, original": lambda config, reduction: {**_rl_pruner(config, reduction), "fidelity": "original"},
    "rl_pruner": _rl_pruner,
    # these two prune with samples in place of the policy, and differ in nothing but that the policy of one learns
    "rl_pruner, by samples": lambda config, reduction: _rl_pruner(config, reduction, prune_with="sample"),
    "rl_pruner, by samples, no learning": lambda config, reduction: _rl_pruner(
        config, reduction, prune_with="sample", step_size=0.0
    ),
    "lookahead": lambda config, reduction: {"agent": "lookahead"},
}


@dataclass(frozen=True)
class MatchedConfig:
    """Methods at the same MACs, with post-training. The defaults fit a ResNet-20 on CIFAR-10 and some hours on two cores."""

    task: str = "ResNet-20"
    """Name of the results, or with no --network a task by name."""
    network: str | None = None
    """A network of prune_gym.models, ..."""
    data: str | None = None
    """... the data set that it classifies, ..."""
    weights: Path | None = None
    """... and its weights."""
    macs_reductions: tuple[Annotated[float, Within("(0, 1)")], ...] = (0.4, 0.65)
    """Targets: MACs to remove, as fractions of the original network's."""
    methods: tuple[str, ...] = tuple(METHODS)
    """Methods by name."""
    seeds: Annotated[int, AtLeast(1)] = 3
    """How many seeds: 0, 1, ..."""
    evaluations: Annotated[int, AtLeast(1)] = 120
    """Networks that each method may score at most."""
    step_ratio: Annotated[float, Within("(0, 1]")] = 0.02
    """MACs that one step removes."""
    train_images: Annotated[int, AtLeast(1)] | None = 2000
    """Training images of the post-training, drawn at random."""
    val_images: Annotated[int, AtLeast(1)] | None = 512
    """Validation images that networks are scored on, drawn at random."""
    posttraining: PostTraining = field(
        default_factory=lambda: PostTraining(epochs=1, period=3, start="cut", learning_rate=0.01, batch_size=64)
    )
    """Post-training on the way."""
    final_images: Annotated[int, AtLeast(1)] | None = 10_000
    """Training images of the final training, drawn at random; None for all."""
    final: PostTraining = field(default_factory=lambda: PostTraining(epochs=1, learning_rate=0.02, batch_size=64))
    """Final training, which starts from the network that was found."""
    processes: Annotated[int, AtLeast(1)] = 2
    """Runs at a time, one thread each."""
    runs: Path = Path("runs/matched")
    """Folder of the run folders. A run that was killed goes on in its folder; one that is finished is not run again."""
    out: Path = Path("results/matched.csv")
    """The CSV; rows that it holds are kept. The table lies beside it."""
    table_only: bool = False
    """Run nothing; make the table of the rows in the CSV."""

    def __post_init__(self) -> None:
        check_settings(self)
        self.final.check_one("final")
        check_different("methods", self.methods)
        check_different("macs_reductions", self.macs_reductions)
        for method in self.methods:
            check_choice("methods", method, METHODS)

    def load_task(self, train_images: int | None, seed: int) -> Task:
        return load_task(self.task, self.network, self.data, self.weights, train_images, self.val_images, seed)


@dataclass(frozen=True)
class MatchedRun:
    """One method at one target with one seed."""

    config: MatchedConfig
    macs_reduction: float
    method: str
    seed: int

    @property
    def key(self) -> dict[str, object]:
        config = self.config
        return dict(zip(KEY, (config.task, self.macs_reduction, self.method, self.seed, self.settings), strict=True))

    @property
    def settings(self) -> str:
        """A fingerprint of all else that the result depends on: the network, how it is pruned and how it is trained."""
        names = ("network", "evaluations", "step_ratio", "train_images", "val_images", "posttraining", "final_images", "final")
        chosen = [asdict(self.config)[name] for name in names]
        for file in (self.config.weights, self.config.data and Path(self.config.data.partition(":")[2])):
            chosen.append(digest(file.expanduser()) if file and file.is_file() else str(file or ""))
        method = METHODS[self.method](self.config, self.macs_reduction)
        return hashlib.blake2b(f"{chosen} {method}".encode(), digest_size=4).hexdigest()

    @property
    def run_config(self) -> RunConfig:
        """The settings of its search. It is computed on the CPU, where the same seed gives the same result."""
        config = self.config
        name = "-".join(str(part).replace(", ", " ").replace(" ", "-") for part in self.key.values())
        return RunConfig(
            macs_reduction=self.macs_reduction,
            step_ratio=config.step_ratio,
            evaluations=config.evaluations,
            posttraining=config.posttraining,
            seed=self.seed,
            device="cpu",
            out=config.runs / name,
            resume=True,
            **METHODS[self.method](config, self.macs_reduction),
        )


@cache
def digest(file: Path) -> str:
    """A fingerprint of a file."""
    return hashlib.blake2b(file.read_bytes(), digest_size=8).hexdigest()


def matched(config: MatchedConfig) -> Rows:
    """Compute the rows that the CSV lacks, all methods with one seed before those with the next, and write each of them as soon
    as it is known.

    Raises ValueError for a CSV with other columns, for none with ``table_only``, and for a budget that is too small for an
    episode; ChildProcessError if a run is killed.
    """
    rows = Rows(config.out.expanduser(), COLUMNS, KEY, filled=config.table_only)
    if config.table_only:
        return rows
    wanted = [
        MatchedRun(config, reduction, method, seed)
        for seed, reduction, method in product(range(config.seeds), config.macs_reductions, config.methods)
    ]
    missing = [run for run in wanted if tuple(run.key.values()) not in rows]
    check_writable(rows.path)
    if missing:
        config.load_task(None, 0)  # trains a base network once, before several processes look for it
    for row in in_processes(evaluate, missing, config.processes):
        rows.add(row)
    return rows


@deterministic()
def evaluate(one: MatchedRun) -> dict[str, object]:
    """Let a method search, train what it found, and test it: a row of the CSV."""
    config = one.config
    result = run(one.run_config, task=config.load_task(config.train_images, one.seed))
    task = config.load_task(config.final_images, one.seed)
    network = load_pruned(result.folder / "pruned.safetensors")
    teacher, going_on = copy.deepcopy(task.model), result.folder / "final_training.safetensors"
    distill(network, teacher, task.train, task.val, config.final, one.seed, task.augmentation, checkpoint=going_on)
    after = result.summary["after"]
    return one.key | {
        "evaluations": result.summary["evaluations"],
        "compute": result.summary["compute"]["macs"],
        **{name: round(after[name], 6) for name in REACHED},
        "val_accuracy": after["val_accuracy"],
        "test_accuracy": after["test_accuracy"],
        "final_test_accuracy": accuracy(network, task.test),
    }


def table(rows: Sequence[Mapping[str, str]]) -> str:
    """Markdown: for every target and method the test accuracy in percent before and after the final training, its paired
    difference from uniform pruning, and what the search took. Behind ± is half of the 95% interval over the seeds."""
    head = [
        "task",
        "MACs",
        "method",
        "after the search",
        "after final training",
        f"minus {REFERENCE}",
        "evaluations",
        "10¹² MACs",
    ]
    lines = []
    found: dict[tuple[str, str], dict[str, dict[str, Mapping[str, str]]]] = {}
    for row in rows:
        by_method = found.setdefault((row["task"], row["macs_reduction"]), {})
        by_method.setdefault(row["method"], {})[row["seed"]] = row
    for (task, reduction), methods in found.items():
        most = max(map(len, methods.values()))
        before, after = (
            {method: {seed: 100 * float(row[column]) for seed, row in seeds.items()} for method, seeds in methods.items()}
            for column in ("test_accuracy", "final_test_accuracy")
        )
        for method in sorted(methods, key=list(METHODS).index):
            accuracies = [cell(list(measured[method].values()), most) for measured in (before, after)]
            difference = paired_difference(after[method], after.get(REFERENCE, {})) if method != REFERENCE else ""
            spent = [mean([float(row[name]) for row in methods[method].values()]) for name in ("evaluations", "compute")]
            cells = [task, f"-{float(reduction):.0%}", method, *accuracies, difference]
            lines.append([*cells, f"{spent[0]:.0f}", f"{spent[1] / 1e12:.1f}"])
    return markdown_table(head, lines)


def main(config: MatchedConfig) -> None:
    """Compute what is missing, and write the table beside the CSV."""
    rows = matched(config).rows
    text = table(rows)
    print(text)
    write_atomically(config.out.expanduser().with_suffix(".md"), text)


if __name__ == "__main__":
    run_command(main, MatchedConfig, __doc__, "rows that were finished are kept; the same command goes on")
