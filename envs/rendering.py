"""Pictures of an architecture: one bar per group, what is kept over what was removed."""

from __future__ import annotations

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from prune_gym.graph.channel_graph import ChannelGraph
from prune_gym.scoring.evaluation import Score

KEPT, REMOVED = "#2a6f97", "#d9dfe4"
BAR_WIDTH = 40


def describe(score: Score) -> str:
    """The score of an architecture in one line."""
    return (
        f"accuracy {score.accuracy:.2%}, channels -{score.channel_sparsity:.1%}, "
        f"MACs -{score.flops_reduction:.1%}, params -{score.params_reduction:.1%}"
    )


def draw(graph: ChannelGraph, widths: np.ndarray, title: str) -> np.ndarray:
    """Bars per group, uint8 (480, 800, 3)."""
    groups = graph.groups
    figure = Figure(figsize=(8, 4.8), dpi=100, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    place = np.arange(len(groups))
    axes.bar(place, graph.widths, color=REMOVED, label="removed")
    axes.bar(place, widths, color=KEPT, label="kept")
    labels = [group.name if len(groups) <= 24 else str(i) for i, group in enumerate(groups)]
    axes.set_xticks(place, labels, rotation=90, fontsize=8 if len(groups) <= 40 else 5)
    axes.set_ylabel("channels")
    axes.set_title(title, fontsize=10)
    axes.legend(loc="upper left", fontsize=8, frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def write(graph: ChannelGraph, widths: np.ndarray, title: str) -> str:
    """The same as text, one line per group."""
    groups = graph.groups
    longest = max(len(group.name) for group in groups)
    lines = [title]
    for group, width in zip(groups, widths.tolist(), strict=True):
        full = round(BAR_WIDTH * width / group.width)
        lines.append(f"{group.name:<{longest}} {'#' * full}{'.' * (BAR_WIDTH - full)} {width}/{group.width}")
    return "\n".join(lines)
