"""Pictures of a run."""

from __future__ import annotations

import io
from itertools import pairwise
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


def plot_progress(rows: list[dict[str, Any]], env: PruningEnv, best: Preview) -> bytes:
    """Reward and accuracy over all steps of the run, by evaluations, and the same on the way to the best network; PNG."""
    figure = Figure(figsize=(9, 6), dpi=120, layout="constrained")
    searched, chosen = figure.subplots(2, 1)
    evaluations = [row["evaluations"] for row in rows]
    searched.scatter(evaluations, [row["accuracy"] for row in rows], s=8, color="#2a6f97", label="accuracy")
    searched.scatter(evaluations, [row["reward"] for row in rows], s=8, color="#e07a1f", marker="x", label="reward")
    searched.set_xlabel("evaluations")
    searched.set_title("every step of the search", fontsize=10)

    trajectory = best.snapshot.trajectory()
    scores = env.simulator.scores(trajectory)
    sparsity = [score.channel_sparsity for score in scores]
    rewards = [env.reward(a, b, env.simulator.baseline) for a, b in pairwise(scores)]
    chosen.plot(sparsity, [score.accuracy for score in scores], color="#2a6f97", marker="o", markersize=4, label="accuracy")
    chosen.plot(sparsity[1:], rewards, color="#e07a1f", marker="x", markersize=4, linestyle="--", label="reward")
    chosen.set_xlabel("channel sparsity")
    chosen.set_title("the way to the best network", fontsize=10)
    for axes in (searched, chosen):
        axes.legend(fontsize=8, frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(f"{env.task.name}: reward and accuracy\n({PROTOCOLS[env.simulator.reward_split]})", fontsize=11)
    return png(figure)


def png(figure: Figure) -> bytes:
    """The file, without the version of what made it."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()
