"""Pictures of the experiments, as PNG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from prune_gym.agents.pictures import png

COLORS = ("#2a6f97", "#e07a1f", "#4f8a3c", "#9b4f96", "#7a7a7a", "#b8322a", "#14213d")
Row = Mapping[str, str]


@dataclass(frozen=True)
class Curve:
    """Points (x, y); with a note it is dotted, in the colour of the curve of the same label."""

    label: str
    points: Sequence[tuple[float, float]]
    note: str = ""


def picture(name: str, rows: Sequence[Row], title: str) -> bytes:
    """What an experiment found, as PNG."""
    pruned: dict[str, list[Row]] = {}
    for row in rows:
        pruned.setdefault(f"{row['network']}, {row['data']}", []).append(row)
    if name in ("figure1", "figure3"):
        return (draw_importance if name == "figure1" else draw_channels)(pruned, title)
    panels: dict[str, list[Curve]] = {}
    for network, mine in pruned.items():
        panels[f"{network}: ours"] = curves(mine, name, "")
        for theirs in dict.fromkeys(f"{row['paper_network']}, {row['paper_data']}" for row in mine if row["paper_network"]):
            panels[f"{theirs}: the paper"] = curves(mine, name, "paper_")
    return draw_curves({heading: curves for heading, curves in panels.items() if curves}, title)


def curves(rows: Sequence[Row], name: str, prefix: str) -> list[Curve]:
    """Accuracy by sparsity, one curve for each way to prune."""
    if name == "table4":
        kinds = {"pruned": f"{prefix}pruned_top1", "from scratch": f"{prefix}scratch_top1"}
        return [Curve(label, points(rows, column)) for label, column in kinds.items()]
    columns = {"table1": ("reward",), "table2": ("method",), "table3": ("epsilon", "decay")}[name]
    found = []
    for label in dict.fromkeys(" ".join(row[column] for column in columns) for row in rows):
        chosen = [row for row in rows if " ".join(row[column] for column in columns) == label]
        found.append(Curve(label, points(chosen, f"{prefix}top1")))
        if name == "table2" and not prefix:
            found.append(Curve(label, points(chosen, "top1_before_posttraining"), "before post-training"))
    return [curve for curve in found if curve.points]


def points(rows: Sequence[Row], column: str) -> list[tuple[float, float]]:
    return [(float(row["sparsity"]), float(row[column])) for row in rows if row[column]]


def draw_curves(panels: Mapping[str, Sequence[Curve]], title: str) -> bytes:
    """Accuracy in percent by channel sparsity, two panels in a row."""
    figure = Figure(figsize=(11, 0.6 + 4 * ((len(panels) + 1) // 2)), dpi=110, layout="constrained")
    every = figure.subplots(-(-len(panels) // 2), 2, squeeze=False).ravel()
    for unused in every[len(panels) :]:
        unused.remove()
    labels = list(dict.fromkeys(curve.label for curves in panels.values() for curve in curves))
    for axes, (heading, curves) in zip(every[: len(panels)], panels.items(), strict=True):
        for curve in curves:
            name, style = (f"{curve.label}, {curve.note}", ":") if curve.note else (curve.label, "-")
            color = COLORS[labels.index(curve.label) % len(COLORS)]
            axes.plot(*zip(*curve.points, strict=True), color=color, linestyle=style, marker="o", markersize=4, label=name)
        axes.set_title(heading, fontsize=10)
        axes.set_xlabel("channel sparsity")
        axes.set_ylabel("test accuracy, %")
        axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes.legend(fontsize=8, frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title, fontsize=11)
    return png(figure)


def draw_importance(pruned: Mapping[str, Sequence[Row]], title: str) -> bytes:
    """Every layer's share of the importance, one panel for each network, one line for each sparsity."""
    figure = Figure(figsize=(10, 0.5 + 4.5 * len(pruned)), dpi=110, layout="constrained")
    for axes, (network, rows) in zip(figure.subplots(len(pruned), 1, squeeze=False).flat, pruned.items(), strict=True):
        sparsities = list(dict.fromkeys(row["sparsity"] for row in rows))
        for sparsity, color in zip(sparsities, mpl.colormaps["viridis"](np.linspace(0, 0.9, len(sparsities))), strict=True):
            chosen = [row for row in rows if row["sparsity"] == sparsity]
            shares = [float(row["share"]) for row in chosen]
            label = f"{float(chosen[0]['channel_sparsity']):.0%}"
            axes.plot([row["group"] for row in chosen], shares, color=color, marker="o", label=label)
        axes.set_title(network, fontsize=10)
        axes.set_ylabel("mean Taylor score of a kept unit, share of the sum")
        axes.tick_params(axis="x", rotation=60, labelsize=8)
        axes.legend(title="channel sparsity", fontsize=8, frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title, fontsize=11)
    return png(figure)


def draw_channels(pruned: Mapping[str, Sequence[Row]], title: str) -> bytes:
    """Kept channels over the pruning steps, one row for each network, one panel for each reward, one line for each layer."""
    rewards = list(dict.fromkeys(row["reward"] for rows in pruned.values() for row in rows))
    figure = Figure(figsize=(13, 0.4 + 4.4 * len(pruned)), dpi=110, layout="constrained")
    every = figure.subplots(len(pruned), len(rewards), sharey=True, squeeze=False)
    for line, (network, rows) in zip(every, pruned.items(), strict=True):
        groups = list(dict.fromkeys(row["group"] for row in rows))
        for axes, reward in zip(line, rewards, strict=True):
            for group, color in zip(groups, mpl.colormaps["viridis"](np.linspace(0, 0.95, len(groups))), strict=True):
                chosen = [row for row in rows if (row["reward"], row["group"]) == (reward, group)]
                kept = [int(row["kept"]) / int(row["width"]) for row in chosen]
                label = f"{group} ({chosen[0]['width']})" if chosen else None
                axes.plot([int(row["step"]) for row in chosen], kept, color=color, linewidth=1.5, label=label)
            axes.set_title(f"{network}, reward: {reward}", fontsize=10)
            axes.set_xlabel("pruning step")
            axes.set_ylim(0, 1.03)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.spines[["top", "right"]].set_visible(False)
        line[0].set_ylabel("kept channels / original")
        line[-1].legend(
            loc="upper left", bbox_to_anchor=(1, 1), fontsize=7, frameon=False, title="group (width)", title_fontsize=7
        )
    figure.suptitle(title, fontsize=11)
    return png(figure)
