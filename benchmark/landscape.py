"""What there is to find on the tables that come with the package: ``python -m prune_gym.benchmark.landscape``

For every table and target: in how many architectures an episode may end, how good they are, the best of them, and what uniform
pruning finds. Accuracies are in percent, on the validation images, and of two networks on the test images as well.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Annotated

import numpy as np

from prune_gym import tables
from prune_gym.arguments import Within, check_different, check_settings
from prune_gym.benchmark.command import run_command
from prune_gym.benchmark.table import markdown_table
from prune_gym.envs.tabular import TabularEnv
from prune_gym.files import csv_text, write_atomically
from prune_gym.simulation.tabular import TabularSimulator
from prune_gym.simulation.yardsticks import make_yardstick

COLUMNS = ("task", "base", "MACs", "ends", "median", "best 1%", "best", "its test", "best test", "uniform", "its test")


@dataclass(frozen=True)
class LandscapeConfig:
    """Which targets, and where the table goes."""

    macs_reductions: tuple[Annotated[float, Within("(0, 1)")], ...] = (0.5, 0.6, 0.7, 0.75, 0.8, 0.85)
    """Targets: MACs to remove, as fractions of the original network's."""
    out: Path = Path("results/landscape.csv")
    """The CSV; the Markdown table lies beside it."""

    def __post_init__(self) -> None:
        check_settings(self)
        check_different("macs_reductions", self.macs_reductions)


def line(task: str, base: int, reduction: float) -> tuple[object, ...]:
    """One line of the table."""
    env = TabularEnv(task, base=base, macs_reduction=reduction)
    simulator: TabularSimulator = env.simulator
    game, world = simulator.game, simulator.world
    ends = game.ends()
    val, test = 100 * world.scores_of(ends).accuracy, 100 * world.test_accuracy[ends]
    best, worth = game.best(make_yardstick("accuracy"))
    state = simulator.initial()
    while not simulator.is_terminal(state):
        state = simulator.step(state, env.uniform_action)
    uniform = 100 * simulator.score(state).accuracy, 100 * simulator.test_accuracy(state)
    found = np.median(val), np.quantile(val, 0.99), 100 * worth, 100 * world.test_accuracy[best], test.max(), *uniform
    return task, base, f"-{reduction:.0%}", len(ends), *(f"{number:.1f}" for number in found)


def landscape(config: LandscapeConfig) -> list[tuple[object, ...]]:
    """All lines, of all tables."""
    networks = [(task, base) for task, digests in tables.DIGESTS.items() for base in range(len(digests))]
    return [line(*network, reduction) for network, reduction in product(networks, config.macs_reductions)]


def markdown(lines: list[tuple[object, ...]]) -> str:
    return markdown_table(COLUMNS, ([f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in line] for line in lines))


def main(config: LandscapeConfig) -> None:
    lines = landscape(config)
    path = config.out.expanduser()
    names = [f"{name} {i}" if COLUMNS.count(name) > 1 else name for i, name in enumerate(COLUMNS)]
    write_atomically(path, csv_text(names, [dict(zip(names, row, strict=True)) for row in lines]))
    write_atomically(path.with_suffix(".md"), markdown(lines))
    print(markdown(lines))


if __name__ == "__main__":
    run_command(main, LandscapeConfig, __doc__)
