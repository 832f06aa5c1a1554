"""The world of a table against its rules written out: moves, ends, the best network, and the best play."""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise, product

import numpy as np
import pytest
from chain_table import FULL, chain_table

from prune_gym.scoring.evaluation import NUMBERS, Score
from prune_gym.simulation.block_world import BlockGame, BlockWorld
from prune_gym.simulation.rewards import Reward, VectorReward, make_reward, paper_reward
from prune_gym.simulation.table import Table
from prune_gym.simulation.target import Target
from prune_gym.simulation.yardsticks import accuracy

Levels = tuple[int, ...]


@pytest.fixture(scope="module")
def table() -> Table:
    return chain_table()


def state(levels: Levels) -> int:
    return int(np.ravel_multi_index(levels, tuple(level + 1 for level in FULL)))


def moved(levels: Levels, group: int) -> Levels:
    """A block of the group goes, or of the next one that has one left, round and round."""
    for chosen in [*range(group, 3), *range(group)]:
        if levels[chosen]:
            return tuple(level - (i == chosen) for i, level in enumerate(levels))
    return levels


def widths(table: Table, levels: Levels) -> list[int]:
    return [int(allowed[level]) for allowed, level in zip(table.allowed, levels, strict=True)]


def cost(table: Table, levels: Levels, target: str) -> int:
    a, b, c = widths(table, levels)
    macs = 9 * a + 9 * a * b + b * c
    return {"sparsity": a + 2 * b + c, "macs_reduction": macs, "params_reduction": macs + 2 * (a + b + c)}[target]


def score(table: Table, levels: Levels) -> Score:
    gone = {t: 1 - cost(table, levels, t) / cost(table, FULL, t) for t in ("macs_reduction", "params_reduction", "sparsity")}
    hits = int(table.val_hits[levels])
    macs, params = cost(table, levels, "macs_reduction"), cost(table, levels, "params_reduction")
    return Score(hits / 100, macs, params, gone["macs_reduction"], gone["params_reduction"], gone["sparsity"])


def games(table: Table, target: str, reduction: float) -> list[list[Levels]]:
    """All games, as the architectures that they come by."""
    found, whole = [], cost(table, FULL, target)

    def play(way: list[Levels]) -> None:
        if whole - cost(table, way[-1], target) >= reduction * whole - 1e-9:
            found.append(way)
            return
        for group in range(3):
            play([*way, moved(way[-1], group)])

    play([FULL])
    return found


def test_every_state(table: Table) -> None:
    world = BlockWorld(table)
    assert world.start == state(FULL)
    for levels in product(range(3), range(4), range(2)):
        number = state(levels)
        assert world.widths[number].tolist() == widths(table, levels)
        assert world.following[number].tolist() == [state(moved(levels, group)) for group in range(3)]
        assert world.blocks[number] == sum(levels)
        found, expected = world.score(number), score(table, levels)
        assert [getattr(found, name) for name in NUMBERS] == pytest.approx([getattr(expected, name) for name in NUMBERS])
        assert found.widths.tolist() == widths(table, levels)
        assert world.test_accuracy[number] == table.test_hits[levels] / 50
    for array in vars(world.scores).values():  # which all environments on the table share
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0
    for widths_of in (world.baseline.widths, world.score(3).widths):
        assert not widths_of.flags.writeable
    some = world.scores_of(np.array([3, 1]))
    assert some.widths.tolist() == world.widths[[3, 1]].tolist()
    assert some.accuracy.tolist() == [world.score(3).accuracy, world.score(1).accuracy]  # type: ignore[attr-defined]


@pytest.mark.parametrize("target", ["sparsity", "macs_reduction", "params_reduction"])
@pytest.mark.parametrize("reduction", [0.1, 0.3, 0.45, 0.6])
def test_ends_and_the_best_of_them(table: Table, target: str, reduction: float) -> None:
    game = BlockGame(BlockWorld(table), target, reduction)
    played = games(table, target, reduction)
    assert game.ends().tolist() == sorted({state(way[-1]) for way in played})
    assert np.flatnonzero(game.reachable).tolist() == sorted({state(levels) for way in played for levels in way})
    found, worth = game.best(accuracy)
    assert worth == max(score(table, way[-1]).accuracy for way in played) == game.world.score(found).accuracy
    smallest = game.best(lambda after, baseline: -after.params)
    assert smallest[1] == -min(score(table, way[-1]).params for way in played)


REWARDS: dict[str, Reward] = {
    "accuracy": "accuracy",
    "paper": paper_reward(1.0, 0.5, 0.25),
    "of the end": "terminal * accuracy + 0.1 * (target - removed)",
    "difference": lambda before, after, baseline: after.accuracy - before.accuracy - 0.1 * baseline.accuracy,
}


@pytest.mark.parametrize("gamma", [0.0, 0.9, 1.0])
@pytest.mark.parametrize("name", REWARDS)
def test_the_best_play_against_recursion(table: Table, name: str, gamma: float) -> None:
    target, reduction, chosen = "macs_reduction", 0.6, make_reward(REWARDS[name])
    assert not isinstance(chosen, VectorReward)
    whole, baseline = cost(table, FULL, target), score(table, FULL)

    def over(levels: Levels) -> bool:
        return whole - cost(table, levels, target) >= reduction * whole - 1e-9

    def reward(one: Levels, other: Levels) -> float:
        return chosen(score(table, one), score(table, other), baseline, Target(target, reduction), over(other))

    @lru_cache
    def value(levels: Levels) -> float:
        if over(levels):
            return 0.0
        after = [moved(levels, group) for group in range(3)]
        return max(reward(levels, each) + gamma * value(each) for each in after)

    game = BlockGame(BlockWorld(table), target, reduction)
    values = game.optimal_values(chosen, gamma)
    for levels in product(range(3), range(4), range(2)):
        if game.reachable[state(levels)]:
            assert values[state(levels)] == pytest.approx(value(levels))
        else:
            assert np.isnan(values[state(levels)])
    best = max(sum(gamma**t * reward(a, b) for t, (a, b) in enumerate(pairwise(way))) for way in games(table, target, reduction))
    assert values[game.world.start] == pytest.approx(best)


def test_a_target_that_no_architecture_reaches(table: Table) -> None:
    with pytest.raises(ValueError, match=r"macs_reduction: 0\.95 cannot be reached on the table of 'chain'; the largest"):
        BlockGame(BlockWorld(table), "macs_reduction", 0.95)
