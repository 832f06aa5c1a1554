"""The tables that come with the package: they say what live networks do, their best is the best, and damage is noticed."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from prune_gym import tables, tasks
from prune_gym.benchmark.tabulate import LEVELS, kept_units
from prune_gym.scoring.candidates import FIDELITY, Candidates
from prune_gym.scoring.evaluation import Evaluator
from prune_gym.simulation.block_world import BlockGame, world_of
from prune_gym.simulation.space import PruningSpace
from prune_gym.surgery.slicing import named_tensors

ALL = [*product(tables.DIGESTS, (0, 1))]


@pytest.mark.parametrize(
    ("name", "base"), [pytest.param(*each, marks=[] if each == ALL[0] else pytest.mark.slow) for each in ALL]
)
def test_random_entries_are_those_of_live_networks(name: str, base: int) -> None:
    """Exactly: validation and test hits, and costs."""
    table, task = tables.load(name, base), tasks.load(name, seed=base)
    count = 20 if (name, base) == ALL[0] else 200
    space = PruningSpace(task.graph, levels=LEVELS[name])
    kept, rng = kept_units(task, space), np.random.default_rng(7)
    assert task.fingerprints["base network"] == table.base_network
    assert [w.tolist() for w in space.allowed] == [w.tolist() for w in table.allowed]
    levels = np.stack([rng.integers(0, n, count) for n in table.shape], -1)
    networks = [task.graph.architecture([units[level] for units, level in zip(kept, row, strict=True)]) for row in levels]
    candidates = Candidates(task.graph, named_tensors(task.model, task.graph), FIDELITY, task.train)
    val, test = (Evaluator(candidates, split).accuracies(networks) for split in (task.val, task.test))
    np.testing.assert_array_equal(table.val_accuracy(levels), val)
    np.testing.assert_array_equal(table.test_accuracy(levels), test)
    costs = [task.graph.cost(network) for network in networks]
    np.testing.assert_array_equal(table.macs(levels), [cost.macs for cost in costs])
    np.testing.assert_array_equal(table.params(levels), [cost.params for cost in costs])


@pytest.mark.parametrize("name", tables.DIGESTS)
@pytest.mark.parametrize("reduction", [0.5, 0.8])
def test_the_best_by_brute_force(name: str, reduction: float) -> None:
    """An episode ends in a network at the target that is not at it any more if some group gets a block back."""
    table = tables.load(name)
    world = world_of(table)
    game = BlockGame(world, "macs_reduction", reduction)
    macs = world.scores.macs.reshape(table.shape)  # type: ignore[attr-defined]
    at_target = macs <= (1 - reduction) * macs.max() + 1e-6
    padded = np.pad(at_target, 1, constant_values=True)
    inside = [slice(1, -1)] * len(table.shape)
    one_more = [np.where(at_target, padded[(*inside[:g], slice(2, None), *inside[g + 1 :])], True) for g in range(len(inside))]
    ends = at_target & ~np.logical_and.reduce(one_more)
    assert (np.flatnonzero(ends) == game.ends()).all()
    best, worth = game.best(lambda after, baseline: after.accuracy)
    assert worth == table.val_hits[ends].max() / table.images[0] == world.score(best).accuracy


def test_unknown_names() -> None:
    with pytest.raises(ValueError, match=r"task: .*'digit'"):
        tables.load("digit")
    with pytest.raises(ValueError, match=r"base: expected an integer in \[0, 2\), got -1"):
        tables.load("digits", -1)


def test_a_damaged_file_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(tables.DIGESTS, "digits", ("0" * 32, "1" * 32))
    tables._load.cache_clear()
    with pytest.raises(ValueError, match="damaged, or of another version"):
        tables.load("digits")
    tables._load.cache_clear()
