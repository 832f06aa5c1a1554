"""Which score tells what a pruned network will be worth after training? ``python -m prune_gym.benchmark.fidelity --help``

Architectures of the same MACs are drawn at random. Each is scored without training, at every fidelity, on few and on many images,
in float32 and in bfloat16; then it is trained, from the cut network and from the compensated one, in the same way as all others.
How well a score ranks the architectures by their test accuracy after training is Spearman's and Kendall's rank correlation, with
bootstrap intervals over the architectures.
"""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from matplotlib.figure import Figure
from scipy import stats
from tqdm import tqdm

from prune_gym.agents.pictures import png
from prune_gym.arguments import AtLeast, Within, check_settings
from prune_gym.benchmark.base_tasks import load_task, settings_digest
from prune_gym.benchmark.command import run_command
from prune_gym.benchmark.rows import Rows
from prune_gym.benchmark.table import markdown_table
from prune_gym.files import write_atomically
from prune_gym.graph.channel_graph import Architecture, ChannelGraph
from prune_gym.scoring.candidates import FIDELITIES, Candidates
from prune_gym.scoring.evaluation import Evaluator
from prune_gym.scoring.importance import importance
from prune_gym.surgery.compact import compact
from prune_gym.surgery.slicing import named_tensors, scatter_tensors
from prune_gym.tasks import Task
from prune_gym.training.distillation import STARTS, PostTraining, distill
from prune_gym.training.train import accuracy, deterministic

IMAGES = (64, 256, None)  # validation images of a score; None for all
PRECISIONS = ("float32", "bfloat16")  # bfloat16 for all images only
SCORES = [
    *((fidelity, images, "float32") for fidelity in FIDELITIES for images in IMAGES),
    *((fidelity, None, "bfloat16") for fidelity in FIDELITIES),
]
KEY = ("task", "architecture")
SPREAD = 0.7  # standard deviation of the logarithms of the groups' shares
RESAMPLES = 2000
COLORS = {"cut": "#e07a1f", "compensated": "#2a6f97"}


def column(fidelity: str, images: int | None, precision: str) -> str:
    """The column of a score on so many images, None for all."""
    return f"{fidelity} {images or 'all'} {precision}"


COLUMNS = (
    *KEY,
    "settings",
    "macs_reduction",
    "channel_sparsity",
    *(column(*score) for score in SCORES),
    *(f"seconds {fidelity}" for fidelity in FIDELITIES),
    *(f"trained from {start}" for start in STARTS),
)


@dataclass(frozen=True)
class FidelityConfig:
    """How well scores without training rank architectures by their accuracy after training."""

    task: str = "digits-resnet"
    """Task by name, or the name of the results with --network."""
    network: str | None = None
    """Instead of a task: a network of prune_gym.models, ..."""
    data: str | None = None
    """... the data set that it classifies, ..."""
    weights: Path | None = None
    """... and its weights."""
    architectures: Annotated[int, AtLeast(3)] = 40
    """Architectures, drawn at random."""
    macs_reduction: Annotated[float, Within("(0, 1)")] = 0.6
    """MACs that each of them lacks, as a fraction of the original network's."""
    train_images: Annotated[int, AtLeast(1)] | None = None
    """Training images, drawn at random; by default all."""
    val_images: Annotated[int, AtLeast(1)] | None = None
    """Validation images, drawn at random; by default all."""
    posttraining: PostTraining = field(default_factory=lambda: PostTraining(epochs=2, learning_rate=0.01, batch_size=64))
    """How each architecture is trained; where it starts is part of the study."""
    out: Path = Path("results/fidelity.csv")
    """CSV of all architectures of all tasks; those that it holds are not computed again. The table and the picture lie beside
    it."""
    table_only: bool = False
    """Compute no architecture; make the table and the picture of the rows in the CSV."""

    def __post_init__(self) -> None:
        check_settings(self)
        self.posttraining.check_one("posttraining")


@deterministic()
def study(config: FidelityConfig) -> Rows:
    """Score and train the architectures that the CSV lacks, and write each one as soon as it is known."""
    rows = Rows(config.out.expanduser(), COLUMNS, KEY, filled=config.table_only)
    if config.table_only:
        return rows
    task = load_task(config.task, config.network, config.data, config.weights, config.train_images, config.val_images)
    settings = settings_digest(task, config.macs_reduction, config.posttraining)
    rows.check_settings(config.task, settings)
    graph, tensors = task.graph, named_tensors(task.model, task.graph)
    candidates = {fidelity: Candidates(graph, tensors, fidelity, task.train) for fidelity in FIDELITIES}
    evaluators = {
        (fidelity, precision): Evaluator(candidates[fidelity], task.val, precision=precision)
        for fidelity in FIDELITIES
        for precision in PRECISIONS
    }
    drawn = draw_architectures(task, config.architectures, config.macs_reduction)
    for number, architecture in enumerate(tqdm(drawn, unit="architecture")):
        if (config.task, number) in rows:
            continue
        score = graph.cost(architecture)
        row: dict[str, Any] = {
            "task": config.task,
            "architecture": number,
            "settings": settings,
            "macs_reduction": round(1 - score.macs / graph.cost(graph.full()).macs, 6),
            "channel_sparsity": round(architecture.channel_sparsity, 6),
        }
        rows.add(row | _scores(evaluators, architecture) | _after_training(task, candidates, architecture, config.posttraining))
    return rows


def draw_architectures(task: Task, n: int, macs_reduction: float) -> list[Architecture]:
    """``n`` architectures with log-normal shares of the groups, each scaled to come nearest to the reduction. The filters
    with the smallest L1 norm go."""
    graph, rng = task.graph, np.random.default_rng(0)
    calibration = task.calibration
    ranks = [
        np.argsort(np.argsort(scores)) for scores in importance("l1")(task.model, graph, calibration.images, calibration.labels)
    ]
    found = []
    for _ in range(n):
        widths = _widths(graph, np.exp(SPREAD * rng.standard_normal(len(graph.groups))), macs_reduction)
        found.append(graph.architecture([rank >= len(rank) - width for rank, width in zip(ranks, widths, strict=True)]))
    return found


def _widths(graph: ChannelGraph, shares: np.ndarray, macs_reduction: float) -> np.ndarray:
    """The widths of which each group lost a part in proportion to its share, as near to the reduction as they come."""
    scales = np.linspace(0, 1, 4001)[:, None] / shares.min()
    widths = np.maximum(1, np.rint(graph.widths * (1 - np.minimum(1, shares * scales)))).astype(np.int64)
    macs = graph.costs(widths).macs
    return widths[np.argmin(np.abs(1 - macs / macs[0] - macs_reduction))]


def _scores(evaluators: Mapping[tuple[str, str], Evaluator], architecture: Architecture) -> dict[str, Any]:
    """Every score of an architecture, and the seconds that a score on all images takes in float32."""
    found: dict[str, Any] = {}
    for (fidelity, precision), evaluator in evaluators.items():
        start = time.perf_counter()
        correct = evaluator.correct(architecture)
        if precision == "float32":
            found[f"seconds {fidelity}"] = round(time.perf_counter() - start, 4)
        for images in IMAGES if precision == "float32" else (None,):
            found[column(fidelity, images, precision)] = round(float(correct[:images].float().mean()), 6)
    return found


def _after_training(
    task: Task, candidates: Mapping[str, Candidates], architecture: Architecture, settings: PostTraining
) -> dict[str, Any]:
    """Test accuracy after training, from each start."""
    graph, tensors = task.graph, candidates["original"].whole
    starts = {
        "cut": candidates["original"].tensors(architecture),
        "compensated": candidates["compensated"].starting_point(architecture),
    }
    found = {}
    for start in STARTS:
        weights = scatter_tensors(tensors, starts[start], graph.units, architecture)
        student = compact(task.model, graph, architecture, form="program", weights=weights)
        distill(student, copy.deepcopy(task.model), task.train, task.val, settings, 0, task.augmentation)
        found[f"trained from {start}"] = round(accuracy(student, task.test), 6)
    return found


# ------------------------------------------------------------------------------------------------------- what they say


@dataclass(frozen=True)
class Correlation:
    """Rank correlations of a score with the accuracy after training from ``start``, over n architectures of a task, each with
    the ends of its 95% interval."""

    task: str
    fidelity: str
    images: str
    precision: str
    start: str
    n: int
    spearman: tuple[float, float, float]
    kendall: tuple[float, float, float]


def correlations(rows: Sequence[Mapping[str, str]]) -> Iterator[Correlation]:
    """All correlations of all tasks."""
    for task in dict.fromkeys(row["task"] for row in rows):
        mine = [row for row in rows if row["task"] == task]
        for start in STARTS:
            worth = np.array([float(row[f"trained from {start}"]) for row in mine])
            for fidelity, images, precision in SCORES:
                score = np.array([float(row[column(fidelity, images, precision)]) for row in mine])
                yield Correlation(
                    task, fidelity, str(images or "all"), precision, start, len(mine),
                    with_interval(score, worth, "spearman"), with_interval(score, worth, "kendall"),
                )  # fmt: skip


def with_interval(x: np.ndarray, y: np.ndarray, kind: str) -> tuple[float, float, float]:
    """A rank correlation, ``"spearman"`` or ``"kendall"`` (tau-b), and the ends of its 95% percentile bootstrap interval. Samples
    in which a number never changes say nothing and are left out; NaN if x or y never changes."""
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return (float("nan"),) * 3
    drawn = np.random.default_rng(0).integers(len(x), size=(RESAMPLES, len(x)))
    rows = np.vstack([np.arange(len(x)), drawn])
    rows = rows[(np.ptp(x[rows], axis=1) > 0) & (np.ptp(y[rows], axis=1) > 0)]
    value, *resampled = (spearman if kind == "spearman" else kendall)(x[rows], y[rows])
    low, high = np.quantile(resampled, [0.025, 0.975])
    return float(value), float(low), float(high)


def spearman(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Spearman's correlation of every row of x (samples, n) with that of y: Pearson's, of the ranks."""
    a, b = (stats.rankdata(values, axis=1) for values in (x, y))
    a, b = a - a.mean(1, keepdims=True), b - b.mean(1, keepdims=True)
    return (a * b).sum(1) / np.sqrt((a * a).sum(1) * (b * b).sum(1))


def kendall(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Kendall's tau-b of every row of x (samples, n) with that of y: pairs in the same order less those in the other, over the
    geometric mean of the numbers of pairs that are no ties."""
    first, second = np.triu_indices(x.shape[1], 1)
    a, b = (np.sign(values[:, first] - values[:, second]) for values in (x, y))
    return (a * b).sum(1) / np.sqrt((a * a).sum(1) * (b * b).sum(1))


def table(rows: Sequence[Mapping[str, str]], found: Iterable[Correlation]) -> str:
    """The correlations that were found in the rows with their intervals, a line for every task and score, and what a score costs,
    as Markdown."""
    headings = [
        *("task", "fidelity", "validation images", "number format"),
        *("Spearman, trained from the cut network", "from the compensated one", "Kendall, cut", "compensated", "seconds"),
    ]
    lines = []
    by_score: dict[tuple[str, ...], list[Correlation]] = {}
    for each in found:
        by_score.setdefault((each.task, each.fidelity, each.images, each.precision), []).append(each)
    for key, (cut, compensated) in by_score.items():
        task, fidelity, images, precision = key
        seconds = [float(row[f"seconds {fidelity}"]) for row in rows if row["task"] == task]
        cost = f"{statistics.median(seconds):.3f}" if (images, precision) == ("all", "float32") else ""
        cells = [_cell(each) for each in (cut.spearman, compensated.spearman, cut.kendall, compensated.kendall)]
        lines.append([task, fidelity, images, precision, *cells, cost])
    return markdown_table(headings, lines)


def _cell(numbers: tuple[float, float, float]) -> str:
    value, low, high = numbers
    return f"{value:.2f} ({low:.2f} to {high:.2f})"


def picture(rows: Sequence[Mapping[str, str]], found: Collection[Correlation]) -> bytes:
    """Above, what the scores are beside the accuracy after training from the compensated network; below, how well they rank, as
    the correlations say that were found in the rows."""
    names = list(dict.fromkeys(row["task"] for row in rows))
    figure = Figure(figsize=(3.6 * len(names), 6.4), layout="constrained")
    axes = figure.subplots(2, len(names), squeeze=False)
    shades = dict(zip(FIDELITIES, ("#b8b8b8", "#e07a1f", "#2a6f97"), strict=True))
    for name, above, below in zip(names, *axes, strict=True):
        mine = [row for row in rows if row["task"] == name]
        worth = [100 * float(row["trained from compensated"]) for row in mine]
        for fidelity, color in shades.items():
            scores = [100 * float(row[column(fidelity, None, "float32")]) for row in mine]
            above.plot(scores, worth, "o", color=color, markersize=4, label=f"scored {fidelity}")
        above.set(title=name, xlabel="validation accuracy, not trained (%)", ylabel="test accuracy after training (%)")
        shown = [each for each in found if (each.task, each.images, each.precision) == (name, "all", "float32")]
        for start, shift in zip(STARTS, (-0.12, 0.12), strict=True):
            chosen = [each for each in shown if each.start == start]
            at = np.arange(len(chosen)) + shift
            values, low, high = np.array([each.spearman for each in chosen]).T
            label = f"trained from the {start} network"
            below.errorbar(at, values, [values - low, high - values], fmt="o", color=COLORS[start], capsize=3, label=label)
        below.axhline(0, color="#cccccc", linewidth=1)
        below.set(ylim=(-1.05, 1.05), ylabel="Spearman's rank correlation")
        below.set_xticks(range(len(FIDELITIES)), FIDELITIES)
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside upper center", ncols=3, frameon=False)
    figure.legend(*axes[1][0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    return png(figure)


def main(config: FidelityConfig) -> None:
    """Run the study and write the table and the picture beside the CSV."""
    rows = study(config).rows
    out = config.out.expanduser()
    found = list(correlations(rows))  # once, as their intervals take seconds
    text = table(rows, found)
    print(text)
    write_atomically(out.with_suffix(".md"), text)
    write_atomically(out.with_suffix(".png"), picture(rows, found))


if __name__ == "__main__":
    run_command(main, FidelityConfig, __doc__, "rows that were finished are kept; the same command goes on")
