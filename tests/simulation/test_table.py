"""A table of architectures: what it says, and which files it takes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from prune_gym import Architecture, ChannelGraph
from prune_gym.graph.features import group_features
from prune_gym.simulation.space import PruningSpace
from prune_gym.simulation.table import Table, digest
from prune_gym.tasks import Task


@pytest.fixture
def table(tiny_task: Task) -> Table:
    graph, rng = tiny_task.graph, np.random.default_rng(0)
    space = PruningSpace(graph, levels=3)
    shape = tuple(map(len, space.allowed))
    return Table(
        task="tiny",
        base=0,
        base_network="none",
        levels=3,
        groups=tuple(group.name for group in graph.groups),
        allowed=space.allowed,
        filters_per_unit=graph.filters_per_unit,
        layer_filters=graph.layer_filters,
        group_features=group_features(graph),
        val_hits=rng.integers(0, 121, shape).astype(np.uint16),
        test_hits=rng.integers(0, 61, shape).astype(np.uint16),
        images=(120, 60),
        recalibration_images=50,
        ranking_images=20,
        macs_form=graph.cost_model.over_widths(graph.cost_model.macs),
        params_form=graph.cost_model.over_widths(graph.cost_model.params),
    )


def of_widths(graph: ChannelGraph, widths: list[int]) -> Architecture:
    return graph.architecture([np.arange(group.width) < width for group, width in zip(graph.groups, widths, strict=True)])


def test_what_it_says_of_an_architecture(table: Table, tiny_task: Task) -> None:
    rng = np.random.default_rng(1)
    levels = np.stack([rng.integers(0, n, 50) for n in table.shape], -1)
    for row, widths, val, test, macs, params in zip(
        levels,
        table.widths(levels),
        table.val_accuracy(levels),
        table.test_accuracy(levels),
        table.macs(levels),
        table.params(levels),
        strict=True,
    ):
        assert widths.tolist() == [allowed[level] for allowed, level in zip(table.allowed, row, strict=True)]
        assert val == table.val_hits[tuple(row)] / 120
        assert test == table.test_hits[tuple(row)] / 60
        cost = tiny_task.graph.cost(of_widths(tiny_task.graph, widths.tolist()))
        assert (macs, params) == (cost.macs, cost.params)
        assert (table.macs(row), table.params(row), table.val_accuracy(row)) == (macs, params, val)  # of one, without an axis


def test_the_same_table_comes_back_from_the_same_bytes(table: Table, tmp_path: Path) -> None:
    first, second = (table.save(tmp_path / name) for name in ("a.npz", "b.npz"))
    assert first == second == digest((tmp_path / "a.npz").read_bytes())
    loaded = Table.load(tmp_path / "a.npz", first)
    assert (loaded.task, loaded.groups, loaded.images) == (table.task, table.groups, table.images)
    for name in ("val_hits", "test_hits", "macs_form", "params_form", "filters_per_unit"):
        np.testing.assert_array_equal(getattr(loaded, name), getattr(table, name))
    assert all(np.array_equal(a, b) for a, b in zip(loaded.allowed, table.allowed, strict=True))


def test_damaged_files_are_refused(table: Table, tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    expected = table.save(path)
    good = path.read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(200):
        bad = bytearray(good)
        bad[rng.integers(len(bad))] ^= 1 << rng.integers(8)
        path.write_bytes(bytes(bad))
        with pytest.raises(ValueError, match="damaged, or of another version: its digest is"):
            Table.load(path, expected)
    for bad_content in (b"", b"no zip", good[:-30], good[: len(good) // 2]):
        path.write_bytes(bad_content)
        with pytest.raises(ValueError, match="damaged, it is no table"):
            Table.load(path)
    with path.open("wb") as file:
        np.savez(file, val_hits=np.zeros(3))
    with pytest.raises(ValueError, match="damaged, it is no table"):
        Table.load(path)


def test_damage_is_named_without_a_digest_or_is_none(table: Table, tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    table.save(path)
    good, rng, refused = path.read_bytes(), np.random.default_rng(1), 0
    for number in range(300):
        bad = bytearray(good)
        for place in rng.integers(len(bad), size=1 + number % 5):
            bad[place] ^= 1 << rng.integers(8)
        path.write_bytes(bytes(bad))
        try:
            loaded = Table.load(path)
        except ValueError as error:
            assert str(error).startswith(f"{path}: damaged, it is no table of architectures")  # noqa: PT017
            refused += 1
        else:
            assert loaded == table  # such as a date in the zip
    assert refused > 200


@pytest.mark.parametrize(
    "changes",
    [
        {"images": (10, 60)},
        {"groups": ("a",)},
        {"val_hits": np.zeros((2, 2), np.uint16)},
        {"macs_form": np.eye(3)},
        {"layer_filters": np.ones((8, 4), np.int64)},
        {"layer_filters": np.ones(5, np.int64)},
    ],
)
def test_parts_that_do_not_fit(table: Table, changes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="the parts of the table of 'tiny' do not fit together"):
        replace(table, **changes)
