"""Results in short: what is kept of a play, and that files give it back."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prune_gym.benchmark import results
from prune_gym.benchmark.games import Game
from prune_gym.benchmark.play import Play, Record, play
from prune_gym.benchmark.results import NETWORKS, PLAYS, add_results, read_results, summarise
from prune_gym.benchmark.statistics import hypervolume


def record(accuracies: list[float], macs: list[int], seed: int = 1) -> Record:
    """A play of a network of 100 MACs, of which 60 are to go."""
    key = Play(Game("digits", 1, 0.6, 100), "random", seed).key
    found = dict.fromkeys(("val_accuracy", "test_accuracy", "policy_accuracy"), 0.5)
    found |= {"macs": 40, "policy_macs": 40, "full_macs": 100, "full_cost": 1000, "architecture": "ff0a"}
    n = len(accuracies)
    networks = {
        "accuracy": np.array(accuracies),
        "macs": np.array(macs),
        "compute": 10 * np.arange(1, n + 1),
        "kind": np.array([2 * (accuracy == 0.7) for accuracy in accuracies]),
    }
    return Record(key, found, {"seconds": 1.5, "commit": "abc+"}, networks)


def test_what_is_kept_by_hand() -> None:
    short = summarise(record([0.9, 0.3, 0.2, 0.5, 0.5, 0.95, 0.7], [70, 40, 30, 39, 35, 41, 40]))
    assert short.best.tolist() == [[2, 20, 40, 0.3], [4, 40, 39, 0.5]]  # 41 are too many, and the last was looked at from afar
    assert short.front.tolist() == [[6, 60, 41, 0.95], [7, 70, 40, 0.7], [5, 50, 35, 0.5], [3, 30, 30, 0.2]]
    assert short.front_points == pytest.approx(np.array([[0.59, 0.95], [0.6, 0.7], [0.65, 0.5], [0.7, 0.2]]))
    assert short.row["hypervolume"] == pytest.approx(0.59 * 0.95 + 0.01 * 0.7 + 0.05 * 0.5 + 0.05 * 0.2)
    assert (short.row["evaluations"], short.row["compute"], short.row["seconds"], short.row["commit"]) == (7, 70, 1.5, "abc+")
    assert np.isnan(short.row["regret"])


def test_files_give_it_back(tmp_path: Path) -> None:
    records = [record([0.1, 0.25], [40, 40], 1), record([1 / 3], [50], 2), record([0.2], [20], 3)]
    written = add_results(tmp_path, records)
    read = read_results(tmp_path)
    assert len(read) == len(written) == 3
    for one, other in zip(written, read, strict=True):
        assert np.array_equal(one.best, other.best)
        assert np.array_equal(one.front, other.front)
        assert {k: v for k, v in one.row.items() if k != "regret"} == {k: v for k, v in other.row.items() if k != "regret"}
    assert not len(read[1].best)
    before = [(tmp_path / name).read_bytes() for name in (PLAYS, NETWORKS)]
    add_results(tmp_path, records)
    assert [(tmp_path / name).read_bytes() for name in (PLAYS, NETWORKS)] == before


def test_results_of_several_stores_add_up(tmp_path: Path) -> None:
    first, second, third = record([0.5], [40], 1), record([0.25], [40], 2), record([0.75], [40], 10)
    add_results(tmp_path / "a", [third, first])
    add_results(tmp_path / "a", [second, record([0.125], [40], 1)])
    assert [(each.row["seed"], each.best[0, 3]) for each in read_results(tmp_path / "a")] == [(1, 0.125), (2, 0.25), (10, 0.75)]
    add_results(tmp_path / "b", [record([0.125], [40], 1), second, third])
    for name in (PLAYS, NETWORKS):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_two_processes_add_one_after_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second one reads what the first one has written, however slowly it writes."""
    write, reading = results.write_rows, threading.Event()

    def slowly(path: Path, columns: Any, rows: Any) -> None:
        reading.set()
        time.sleep(0.2)
        write(path, columns, rows)

    monkeypatch.setattr(results, "write_rows", slowly)
    first = threading.Thread(target=add_results, args=(tmp_path, [record([0.5], [40], 1)]))
    first.start()
    reading.wait()
    add_results(tmp_path, [record([0.25], [40], 2)])
    first.join()
    assert [each.row["seed"] for each in read_results(tmp_path)] == [1, 2]


def test_a_real_play() -> None:
    game = Game("tabular-digits-mobilenet", 1, 0.6, 60)
    found = play(Play(game, "random", 5))
    short = summarise(found)
    assert short.best[-1, 3] == found.found["val_accuracy"] == short.row["val_accuracy"]
    assert short.row["regret"] == found.found["regret"]
    assert (np.diff(short.best[:, [0, 3]], axis=0) > 0).all()
    points = np.column_stack([1 - found.networks["macs"] / found.found["full_macs"], found.networks["accuracy"]])
    assert hypervolume(short.front_points) == pytest.approx(hypervolume(points))


def test_damaged_files(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_results(tmp_path)
    add_results(tmp_path, [record([0.5], [40])])
    whole = (tmp_path / PLAYS).read_bytes()
    for content in (b"", whole[:-9], b"text", whole[:40] + b"\0\0" + whole[42:]):
        (tmp_path / PLAYS).write_bytes(content)
        with pytest.raises(ValueError, match=r"results: .*plays.csv.gz is damaged, or of another version"):
            read_results(tmp_path)
