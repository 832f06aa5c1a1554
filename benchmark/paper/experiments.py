"""The experiments of the paper, one function each: they fill a CSV, our numbers beside the paper's."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import get_args

import numpy as np

from prune_gym import compact
from prune_gym.agents.rl_pruner import EpsilonDecay, RLPrunerConfig
from prune_gym.benchmark.paper.lab import Base, Lab, at_marks, published
from prune_gym.benchmark.rows import Rows
from prune_gym.graph.channel_graph import Architecture
from prune_gym.simulation.simulator import PruningState, Simulator
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
PUBLISHED = tuple(f"paper_{name}" for name in (*NAMES, "base_top1", "top1", "flops_reduction_pct", "params_reduction_pct"))
MADE_WITH = ("seed", "protocol", "settings")


def table1(lab: Lab) -> Rows:
    """Table 1: RL-Pruner at four sparsities, with three reward strategies."""
    rows = table(lab, "table1", "reward")
    for base in bases(lab, rows, *TABLE1):
        for reward in REWARDS:
            fill(lab, rows, base, lab.scale.sparsities, {"reward": reward}, reward=reward)
    return rows


def table2(lab: Lab) -> Rows:
    """Table 2: RL-Pruner, uniform and one-shot global Taylor pruning, beside the methods that the paper compares."""
    rows = table(lab, "table2", "method")
    for base in bases(lab, rows, VGG19, RESNET56):
        for method in METHODS:
            ways = [(s,) for s in lab.scale.sparsities] if method == "taylor" else [lab.scale.sparsities]
            for sparsities in ways:
                fill(lab, rows, base, sparsities, {"method": method}, agent=method)
        for theirs in published("table2", network=base.paper_network):
            about = base.names | {"method": theirs["method"], "sparsity": float(theirs["sparsity"])}
            if tuple(about.values()) not in rows:
                rows.add(about | beside([theirs]))
    return rows


def table3(lab: Lab) -> Rows:
    """Table 3: RL-Pruner's exploration, epsilon at first and how it falls."""
    rows = table(lab, "table3", "epsilon", "decay")
    for base in bases(lab, rows, VGG19):
        for epsilon, decay in EXPLORATION:
            config = replace(lab.scale.rl_pruner, epsilon=epsilon, epsilon_decay=decay)
            fill(lab, rows, base, lab.scale.sparsities, {"epsilon": epsilon, "decay": decay}, rl_pruner=config)
    return rows


def table4(lab: Lab) -> Rows:
    """Table 4: the pruned network against its architecture trained from scratch."""
    numbers = ("pruned_top1", "scratch_top1", "gain")
    key = (*NAMES, "sparsity")
    theirs = tuple(f"paper_{name}" for name in (*NAMES, *numbers))
    rows = Rows(lab.out / "table4.csv", (*key, "channel_sparsity", "base_top1", *numbers, *theirs, *MADE_WITH), key)
    for base in bases(lab, rows, VGG19):

        def add(simulator: Simulator, state: PruningState, sparsity: float, base: Base = base) -> None:
            pruned = lab.test(simulator.network(state), base.whole)
            scratch = from_scratch(lab, base, state.architecture)
            found = {"sparsity": sparsity, "channel_sparsity": round(state.architecture.channel_sparsity, 4)}
            found |= {"base_top1": base.top1, "pruned_top1": pruned, "scratch_top1": scratch, "gain": round(pruned - scratch, 2)}
            rows.add(found | beside(published("table4", sparsity=sparsity)) | lab.common(base))

        prune_past(lab, rows, base, lab.scale.sparsities, (), add)
    return rows


def figure1(lab: Lab) -> Rows:
    """Figure 1: how important the layers are, at several sparsities of one run."""
    key = (*NAMES, "sparsity")
    rows = Rows(
        lab.out / "figure1.csv", (*key, "channel_sparsity", "group", "width", "kept", "importance", "share", *MADE_WITH), key
    )
    for base in bases(lab, rows, VGG19):

        def add(simulator: Simulator, state: PruningState, sparsity: float, base: Base = base) -> None:
            graph, architecture = simulator.graph, state.architecture
            units = simulator.unit_scores(state.network, "taylor")
            means = np.array([np.nanmean(scores) for scores in np.split(units, graph.starts[1:-1])])
            about = {"sparsity": sparsity, "channel_sparsity": round(architecture.channel_sparsity, 4)} | lab.common(base)
            shares = means / means.sum()
            found = zip(graph.groups, architecture.widths, means, shares, strict=True)
            rows.add(
                *(
                    about | {"group": g.name, "width": g.width, "kept": kept, "importance": f"{m:.4g}", "share": f"{share:.4f}"}
                    for g, kept, m, share in found
                )
            )

        prune_past(lab, rows, base, lab.scale.sparsities, (), add)
    return rows


def figure3(lab: Lab) -> Rows:
    """Figure 3: kept channels of the layers over the pruning steps, with three reward strategies."""
    key = (*NAMES, "reward", "step")
    rows = Rows(lab.out / "figure3.csv", (*key, "channel_sparsity", "group", "width", "kept", *MADE_WITH), key)
    for base in bases(lab, rows, VGG19):
        last = lab.scale.steps(lab.scale.sparsities[-1], base.task.graph)
        for reward in REWARDS:

            def add(simulator: Simulator, state: PruningState, base: Base = base, reward: str = reward) -> None:
                about = {"reward": reward, "step": state.steps} | lab.common(base)
                if (*base.names.values(), reward, state.steps) in rows:
                    return
                about["channel_sparsity"] = round(state.architecture.channel_sparsity, 4)
                kept = zip(simulator.graph.groups, state.architecture.widths, strict=True)
                rows.add(*(about | {"group": group.name, "width": group.width, "kept": width} for group, width in kept))

            if (*base.names.values(), reward, last) not in rows:
                lab.prune(base, lab.scale.sparsities[-1], add, reward=reward)
    return rows


EXPERIMENTS: dict[str, Callable[[Lab], Rows]] = {
    function.__name__: function for function in (table1, table2, table3, table4, figure1, figure3)
}


# ---------------------------------------------------------------------------------------------- what they share


def table(lab: Lab, name: str, *labels: str) -> Rows:
    key = (*NAMES, *labels, "sparsity")
    return Rows(lab.out / f"{name}.csv", (*key, *MEASURED, *PUBLISHED, *MADE_WITH), key)


def bases(lab: Lab, rows: Rows, *of_the_paper: tuple[str, str]) -> Iterator[Base]:
    """The networks of an experiment. Raises ValueError if there are results of one that were made with other settings."""
    for base in lab.bases(*of_the_paper):
        mine = [row for row in rows.rows if all(row[name] == value for name, value in base.names.items())]
        if {row["settings"] for row in mine} - {"", lab.settings(base)}:
            raise ValueError(
                f"out: {rows.path} holds results for {base.network} that were made with other settings (scale, seed, protocol, "
                "weights or images); choose another folder, or delete the file."
            )
        yield base


def fill(
    lab: Lab,
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
        rows.add(about | lab.measure(base, simulator, state) | beside(theirs) | lab.common(base))

    prune_past(lab, rows, base, sparsities, tuple(labels.values()), add, agent, reward, rl_pruner)


def prune_past(
    lab: Lab,
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
        lab.prune(base, max(sparsities), at_marks(lab.scale, missing, add), agent, reward, rl_pruner)


def beside(theirs: Sequence[dict[str, str]]) -> dict[str, object]:
    """The columns of the paper's row, if there is one."""
    names = [name.removeprefix("paper_") for name in PUBLISHED] + ["pruned_top1", "scratch_top1", "gain"]
    return {f"paper_{name}": value for row in theirs[:1] for name, value in row.items() if name in names}


def from_scratch(lab: Lab, base: Base, architecture: Architecture) -> float:
    """Percent of the test images that a network of this architecture classifies after training with new weights."""
    network = compact(base.fresh(lab.seed), base.task.graph, architecture, form="program").to(lab.device)
    whole = base.whole
    train(network, whole.train.to(lab.device), replace(lab.scale.scratch, seed=lab.seed), augmentation=whole.augmentation)
    return lab.test(network, whole)
