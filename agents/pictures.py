"""Pictures of a run."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from prune_gym.envs.pruning import Preview, PruningEnv
from prune_gym.simulation.simulator import PROTOCOLS


def plot_channels(env: PruningEnv, best: Preview) -> bytes:
    """Kept channels per group over the pruning steps of the best network (Figure 3 of the paper), as PNG."""
    widths = np.array([state.architecture.widths for state in best.snapshot.trajectory()])
    groups = env.graph.groups
    figure = Figure(figsize=(9, 5), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    colors = mpl.colormaps["viridis"](np.linspace(0, 0.95, len(groups)))
    for group, kept, color in zip(groups, (widths / env.graph.widths).T, colors, strict=True):
        axes.plot(kept, color=color, marker="o", markersize=3, linewidth=1.5, label=f"{group.name} ({group.width})")
    axes.set_xlabel("pruning step")
    axes.set_ylabel("kept channels / original")
    axes.set_ylim(0, 1.03)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    what = f"kept channels per layer group, {best.score.channel_sparsity:.1%} channel sparsity"
    axes.set_title(f"{env.task.name}: {what}\n({PROTOCOLS[env.simulator.reward_split]})", fontsize=11)
    if len(groups) <= 30:
        figure.legend(loc="outside right upper", fontsize=7, frameon=False, title="group (width)", title_fontsize=7)
    axes.spines[["top", "right"]].set_visible(False)
    return png(figure)


def plot_progress(rows: Sequence[Mapping[str, Any]], env: PruningEnv) -> bytes:
    """The accuracy of every network that was scored, by evaluations, as PNG: those at the target and those on the way; the best
    one at the target so far, as a line; uniform pruning and the original network for reference.

    ``rows``: those of :class:`prune_gym.agents.recorder.SearchRecorder`. Networks that later steps were to train count as on the
    way. With post-training, uniform pruning is left out: it would have to be trained as well.
    """
    simulator = env.simulator
    figure = Figure(figsize=(9, 5), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    others, at_target, best = sort_rows(rows, env)
    for found, color, label in ((others, "#b8b8b8", "on the way"), (at_target, "#2a6f97", "at the target")):
        x, y = [row["evaluation"] for row in found], [row["accuracy"] for row in found]
        axes.scatter(x, y, s=9, color=color, label=f"networks {label}", linewidths=0)
    if best:
        x = [*(row["evaluation"] for row in best), rows[-1]["evaluation"]]
        y = [*(row["accuracy"] for row in best), best[-1]["accuracy"]]
        axes.step(x, y, where="post", color="#c0392b", linewidth=1.5, label="best at the target so far")
    axes.axhline(simulator.baseline.accuracy, color="#555555", linewidth=1, linestyle="--", label="original network")
    if simulator.posttraining.epochs == 0:
        state = simulator.initial()
        while not simulator.is_terminal(state):
            state = simulator.step(state, env.uniform_action)
        uniform = simulator.score(state).accuracy
        axes.axhline(uniform, color="#e07a1f", linewidth=1, linestyle=":", label="uniform pruning")
    axes.set(xlabel="evaluations", ylabel="accuracy")
    axes.set_title(f"{env.task.name}: every network that was scored\n({PROTOCOLS[simulator.reward_split]})", fontsize=11)
    figure.legend(loc="outside lower center", ncols=5, fontsize=8, frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    return png(figure)


def sort_rows(rows: Sequence[Mapping[str, Any]], env: PruningEnv) -> tuple[list[Mapping[str, Any]], ...]:
    """The networks on the way, those at the target that a run could end with, and each of these that was better than all before;
    a look at the target is no step that leads there."""
    others: list[Mapping[str, Any]] = []
    at_target: list[Mapping[str, Any]] = []
    best: list[Mapping[str, Any]] = []
    for row in rows:
        widths = np.array([row[f"width:{group.name}"] for group in env.graph.groups])
        is_over = env.simulator.schedule.is_over(int(env.simulator.space.removed(widths)))
        if not is_over or (row["kind"] != "step" and env.simulator.posttraining.epochs > 0):
            others.append(row)
            continue
        at_target.append(row)
        if row["kind"] != "target" and (not best or row["yardstick"] > best[-1]["yardstick"]):
            best.append(row)
    return others, at_target, best


def png(figure: Figure) -> bytes:
    """The file, without the version of what made it."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()
