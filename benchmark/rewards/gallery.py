"""What the best play under a reward does that its author did not mean, as a picture: its way, and its last network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from prune_gym.benchmark.rewards.optimum import Optimum
from prune_gym.simulation.block_world import BlockGame


def best_way(game: BlockGame, found: Optimum) -> np.ndarray:
    """The states of a best play, from the original network on, int64 (moves + 1,); of equally good moves it takes the first."""
    way = [game.world.start]
    while not game.over[way[-1]]:
        way.append(int(game.world.following[way[-1], int(np.argmax(found.best_actions[way[-1]]))]))
    return np.array(way)


def gallery(game: BlockGame, optima: Mapping[str, Optimum]) -> Canvas:
    """For every reward, by name, the accuracy on the way of a best play, a point for each move, and what is left of groups."""
    world = game.world
    ways = {name: best_way(game, found) for name, found in optima.items()}
    canvas = Canvas(figsize=(11, 1.5 + 0.4 * len(optima)), layout="constrained")
    left, right = canvas.subplots(1, 2, width_ratios=(3, 2))
    for name, way in ways.items():
        scores = world.scores_of(way)
        removed, accuracy = 100 * np.asarray(scores.flops_reduction), 100 * np.asarray(scores.accuracy)
        left.plot(removed, accuracy, ".-", label=f"{name}: {len(way) - 1} moves to {accuracy[-1]:.1f}%", linewidth=1)
    title = f"The best play under each reward, {world.table.task}, -{game.reduction:.0%} of the MACs"
    left.set(title=title, xlabel="MACs removed, %", ylabel="validation accuracy, %")
    left.legend(fontsize="small")
    left.grid(alpha=0.3)
    show_kept(right, 100 * world.observations[[way[-1] for way in ways.values()]], list(ways), "small")
    right.set(title="channels that are left, %")
    return canvas


def show_kept(axes: Axes, kept: np.ndarray, names: Sequence[str], fontsize: str) -> None:
    """What is left of every group in percent, float64 (networks, groups), as colours and numbers; NaN where nothing is known."""
    axes.imshow(kept, cmap="Blues", vmin=0, vmax=100, aspect="auto")
    for (row, column), share in np.ndenumerate(kept):
        if np.isfinite(share):
            colour = "white" if share > 60 else "black"
            axes.text(column, row, f"{share:.0f}", ha="center", va="center", fontsize=fontsize, color=colour)
    axes.set(xlabel="group")
    axes.set_xticks(range(kept.shape[1]), [str(group + 1) for group in range(kept.shape[1])])
    axes.set_yticks(range(len(names)), names, fontsize="small")
