"""The tables and figures of the paper, one function each. A function fills a CSV with our numbers beside the paper's."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import get_args

import numpy as np

from prune_gym.agents.rl_pruner import EpsilonDecay, RLPrunerConfig
from prune_gym.benchmark.paper.experiment import Base, Experiment, at_marks
from prune_gym.benchmark.paper.published import paper_columns, paper_headings, published
from prune_gym.benchmark.rows import Rows
from prune_gym.graph.channel_graph import Architecture
from prune_gym.simulation.simulator import PruningState, Simulator
from prune_gym.surgery.compact import compact
from prune_gym.training.train import train

REWARDS = ("accuracy", "flops", "params")
METHODS = ("rl_pruner", "uniform", "taylor")
DECAYS = get_args(EpsilonDecay)
EXPLORATION = ((0.0, DECAYS[0]), *((epsilon, decay) for epsilon in (0.2, 0.4) for decay in DECAYS))
VGG19, RESNET56 = ("vgg19", "cifar100"), ("resnet56", "cifar10")
TABLE1 = tuple((name, "cifar100") for name in ("vgg19", "densenet121", "googlenet", "mobilenet_v3_large", "resnet56"))

NAMES = ("network", "data")
MEASURED = (
    "channel_sparsity",
    "base_top1",
    "top1_before_posttraining",
    "top1",
    "flops_reduction_pct",
    "params_reduction_pct",
    "macs",
    "params",
)
PUBLISHED = (*NAMES, "base_top1", "top1", "flops_reduction_pct", "params_reduction_pct")
MADE_WITH = ("seed", "protocol", "settings")


def table1(experiment: Experiment) -> Rows:
    """Table 1: RL-Pruner at four sparsities, with three reward strategies."""
    rows = table(experiment, "table1", "reward")
    for base in bases(experiment, rows, *TABLE1):
        for reward in REWARDS:
            fill(experiment, rows, base, experiment.scale.sparsities, {"reward": reward}, reward=reward)
    return rows


def table2(experiment: Experiment) -> Rows:
    """Table 2: RL-Pruner, uniform and one-shot global Taylor pruning, beside the methods that the paper compares."""
    rows = table(experiment, "table2", "method")
    for base in bases(experiment, rows, VGG19, RESNET56):
        for method in METHODS:
            sparsities = experiment.scale.sparsities
            for past in [(sparsity,) for sparsity in sparsities] if method == "taylor" else [sparsities]:
                fill(experiment, rows, base, past, {"method": method}, agent=method)
        for theirs in published("table2", network=base.paper_network):
            about = base.names | {"method": theirs["method"], "sparsity": float(theirs["sparsity"])}
            if tuple(about.values()) not in rows:
                rows.add(about | paper_columns([theirs], PUBLISHED))
    return rows


def table3(experiment: Experiment) -> Rows:
    """Table 3: RL-Pruner's exploration, epsilon at first and how it falls."""
    rows = table(experiment, "table3", "epsilon", "decay")
    for base in bases(experiment, rows, VGG19):
        for epsilon, decay in EXPLORATION:
            config = replace(experiment.scale.rl_pruner, epsilon=epsilon, epsilon_decay=decay)
            fill(experiment, rows, base, experiment.scale.sparsities, {"epsilon": epsilon, "decay": decay}, rl_pruner=config)
    return rows


def table4(experiment: Experiment) -> Rows:
    """Table 4: the pruned network against its architecture trained from scratch."""
    numbers = ("pruned_top1", "scratch_top1", "gain")
    key = (*NAMES, "sparsity")
    theirs = (*NAMES, *numbers)
    columns = (*key, "channel_sparsity", "base_top1", *numbers, *paper_headings(theirs), *MADE_WITH)
    rows = Rows(experiment.out / "table4.csv", columns, key)
    for base in bases(experiment, rows, VGG19):

        def add(simulator: Simulator, state: PruningState, sparsity: float, base: Base = base) -> None:
            pruned = experiment.test(simulator.network(state), base.full_task)
            scratch = from_scratch(experiment, base, state.architecture)
            found = {"sparsity": sparsity, "channel_sparsity": round(state.architecture.channel_sparsity, 4)}
            found |= {"base_top1": base.top1, "pruned_top1": pruned, "scratch_top1": scratch, "gain": round(pruned - scratch, 2)}
            rows.add(found | paper_columns(published("table4", sparsity=sparsity), theirs) | experiment.common(base))

        prune_past(experiment, rows, base, experiment.scale.sparsities, (), add)
    return rows


def figure1(experiment: Experiment) -> Rows:
    """Figure 1: how important the layers are, at several sparsities of one run."""
    key = (*NAMES, "sparsity")
    columns = (*key, "channel_sparsity", "group", "width", "kept", "importance", "share", *MADE_WITH)
    rows = Rows(experiment.out / "figure1.csv", columns, key)
    for base in bases(experiment, rows, VGG19):

        def add(simulator: Simulator, state: PruningState, sparsity: float, base: Base = base) -> None:
            graph, architecture = simulator.graph, state.architecture
            units = simulator.unit_scores(state.network, "taylor")
            means = np.array([np.nanmean(scores) for scores in np.split(units, graph.starts[1:-1])])
            about = {"sparsity": sparsity, "channel_sparsity": round(architecture.channel_sparsity, 4)} | experiment.common(base)
            shares = means / means.sum()
            found = [
                {"group": group.name, "width": group.width, "kept": kept, "importance": f"{mean:.4g}", "share": f"{share:.4f}"}
                for group, kept, mean, share in zip(graph.groups, architecture.widths, means, shares, strict=True)
            ]
            rows.add(*(about | row for row in found))

        prune_past(experiment, rows, base, experiment.scale.sparsities, (), add)
    return rows


def figure3(experiment: Experiment) -> Rows:
    """Figure 3: kept channels of the layers over the pruning steps, with three reward strategies."""
    key = (*NAMES, "reward", "step")
    rows = Rows(experiment.out / "figure3.csv", (*key, "channel_sparsity", "group", "width", "kept", *MADE_WITH), key)
    for base in bases(experiment, rows, VGG19):
        last = experiment.scale.steps(experiment.scale.sparsities[-1], base.task.graph)
        for reward in REWARDS:

            def add(simulator: Simulator, state: PruningState, base: Base = base, reward: str = reward) -> None:
                about = {"reward": reward, "step": state.steps} | experiment.common(base)
                if (*base.names.values(), reward, state.steps) in rows:
                    return
                about["channel_sparsity"] = round(state.architecture.channel_sparsity, 4)
                kept = zip(simulator.graph.groups, state.architecture.widths, strict=True)
                rows.add(*(about | {"group": group.name, "width": group.width, "kept": width} for group, width in kept))

            if (*base.names.values(), reward, last) not in rows:
                experiment.prune(base, experiment.scale.sparsities[-1], add, reward=reward)
    return rows


EXPERIMENTS: dict[str, Callable[[Experiment], Rows]] = {
    function.__name__: function for function in (table1, table2, table3, table4, figure1, figure3)
}


# ---------------------------------------------------------------------------------------------- what they share


def table(experiment: Experiment, name: str, *labels: str) -> Rows:
    """The CSV of an experiment that has a row for every network, every value of the ``labels``, and every sparsity."""
    key = (*NAMES, *labels, "sparsity")
    return Rows(experiment.out / f"{name}.csv", (*key, *MEASURED, *paper_headings(PUBLISHED), *MADE_WITH), key)


def bases(experiment: Experiment, rows: Rows, *of_the_paper: tuple[str, str]) -> Iterator[Base]:
    """The networks of an experiment. Raises ValueError if there are results of one that were made with other settings."""
    for base in experiment.bases(*of_the_paper):
        mine = [row for row in rows.rows if all(row[name] == value for name, value in base.names.items())]
        if {row["settings"] for row in mine} - {"", experiment.settings(base)}:
            raise ValueError(
                f"out: {rows.path} holds results for {base.network} that were made with other settings (scale, seed, protocol, "
                "weights or images); choose another folder, or delete the file."
            )
        yield base


def fill(
    experiment: Experiment,
    rows: Rows,
    base: Base,
    sparsities: Sequence[float],
    labels: dict[str, object],
    agent: str = "rl_pruner",
    reward: str = "accuracy",
    rl_pruner: RLPrunerConfig | None = None,
) -> None:
    """Prune once past the sparsities, and add what a network is worth at each of them, beside the paper's number."""

    def add(simulator: Simulator, state: PruningState, sparsity: float) -> None:
        about = labels | {"sparsity": sparsity}
        theirs = published(rows.path.stem, network=base.paper_network, **about)
        rows.add(about | experiment.measure(base, simulator, state) | paper_columns(theirs, PUBLISHED) | experiment.common(base))

    prune_past(experiment, rows, base, sparsities, tuple(labels.values()), add, agent, reward, rl_pruner)


def prune_past(
    experiment: Experiment,
    rows: Rows,
    base: Base,
    sparsities: Sequence[float],
    labels: tuple[object, ...],
    add: Callable[[Simulator, PruningState, float], None],
    agent: str = "rl_pruner",
    reward: str = "accuracy",
    rl_pruner: RLPrunerConfig | None = None,
) -> None:
    """Prune once to the largest of the sparsities, unless ``rows`` have them all, and ``add`` those that they lack."""
    missing = [sparsity for sparsity in sparsities if (*base.names.values(), *labels, sparsity) not in rows]
    if missing:
        experiment.prune(base, max(sparsities), at_marks(experiment.scale, missing, add), agent, reward, rl_pruner)


def from_scratch(experiment: Experiment, base: Base, architecture: Architecture) -> float:
    """Percent of the test images that a network of this architecture classifies after training with new weights."""
    network = compact(base.fresh(experiment.seed), base.task.graph, architecture, form="program")
    network = network.to(experiment.device)
    full = base.full_task
    recipe = replace(experiment.scale.scratch, seed=experiment.seed)
    train(network, full.train.to(experiment.device), recipe, augmentation=full.augmentation)
    return experiment.test(network, full)
