"""What there is to find on the tables: the committed page is what the tables say, and one line counted anew."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from prune_gym import tables
from prune_gym.benchmark.landscape import LandscapeConfig, landscape, line, main, markdown
from prune_gym.simulation.block_world import BlockGame, world_of

ROOT = Path(__file__).parents[2]


def test_a_line_by_hand() -> None:
    table = tables.load("digits", 1)
    game = BlockGame(world_of(table), "macs_reduction", 0.8)
    levels = np.stack(np.unravel_index(game.ends(), table.shape), -1)
    val, test = 100 * table.val_accuracy(levels), 100 * table.test_accuracy(levels)
    ranked = sorted(val.tolist())
    task, base, reduction, count, median, high, best, its_test, best_test, *uniform = line("digits", 1, 0.8)
    assert (task, base, reduction, count) == ("digits", 1, "-80%", len(levels))
    assert abs(float(str(median)) - ranked[len(ranked) // 2]) < 0.3
    assert abs(float(str(high)) - ranked[int(0.99 * len(ranked))]) < 0.3
    assert (best, best_test) == (f"{val.max():.1f}", f"{test.max():.1f}")
    assert its_test in {f"{accuracy:.1f}" for accuracy in test[val == val.max()]}
    assert all(0 < float(str(accuracy)) < val.max() for accuracy in uniform)


def test_the_committed_page_is_made_of_the_tables(tmp_path: Path) -> None:
    reduction = 0.75
    lines = landscape(LandscapeConfig(macs_reductions=(reduction,)))
    committed = (ROOT / "results" / "landscape.md").read_text()
    page = (ROOT / "docs" / "tables.md").read_text()
    assert committed.rstrip() in page
    for each in markdown(lines).splitlines():
        assert each in committed
    main(LandscapeConfig(macs_reductions=(reduction,), out=tmp_path / "found.csv"))
    assert (tmp_path / "found.md").read_text() == markdown(lines)
    assert len((tmp_path / "found.csv").read_text().splitlines()) == 1 + len(lines)
