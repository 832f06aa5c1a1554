"""The store: what is kept, what is refused, and that nobody plays what another one plays."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from prune_gym.benchmark.games import Game
from prune_gym.benchmark.play import Play, Record
from prune_gym.benchmark.store import Store

GAME = Game("tabular-digits", 1, 0.7, 100)
ONE, OTHER = Play(GAME, "random", 7), Play(GAME, "random", 10)


def record(play: Play, accuracy: float = 0.5) -> Record:
    networks = {"accuracy": np.array([accuracy]), "widths": np.zeros((1, 3), np.int32)}
    return Record(play.key, {"val_accuracy": accuracy}, {"seconds": 1.5}, networks)


def test_what_is_kept_comes_back(tmp_path: Path) -> None:
    store = Store(tmp_path / "new" / "store")
    assert ONE not in store
    store.add(OTHER, record(OTHER))
    store.add(ONE, record(ONE, 0.25))
    assert ONE in store
    first, second = store
    assert (first.key, first.found, first.made) == (ONE.key, {"val_accuracy": 0.25}, {"seconds": 1.5})
    assert second.key == OTHER.key  # seeds are sorted as numbers
    assert first.networks["accuracy"].tolist() == [0.25]
    assert first.networks["widths"].dtype == np.int32


def test_plays_that_differ_have_files_of_their_own() -> None:
    plays = [ONE, OTHER, Play(GAME, "uniform", 7), Play(GAME, "random", 7, '{"scale": 1.0}')]
    plays += [Play(Game("digits", 1, 0.7, 100), "random", 7), Play(Game("tabular-digits", 0, 0.7, 100), "random", 7)]
    plays += [Play(Game("tabular-digits", 1, 0.8, 100), "random", 7), Play(Game("tabular-digits", 1, 0.7, 99), "random", 7)]
    plays.append(Play(GAME, "random", 7, reward="final"))
    assert len({play.digest for play in plays}) == len(plays)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 half of it", b"text", b"\x93NUMPY"])
def test_a_damaged_file_is_named(tmp_path: Path, content: bytes) -> None:
    store = Store(tmp_path)
    store.add(ONE, record(ONE))
    (path,) = tmp_path.glob("*.npz")
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"store: {path} is damaged .*; delete it"):
        list(store)


def test_every_flipped_byte_is_found_or_harmless(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.add(ONE, record(ONE))
    (path,) = tmp_path.glob("*.npz")
    whole, expected = path.read_bytes(), next(iter(store))
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
        try:
            found = store.read(path)
        except ValueError as error:
            assert str(path) in str(error)  # noqa: PT017
        else:
            assert found.key == expected.key


def test_a_store_that_is_only_read(tmp_path: Path) -> None:
    Store(tmp_path / "store").add(ONE, record(ONE))
    assert [made for _, made in Store(tmp_path / "store", new=False).made()] == [{"seconds": 1.5}]
    with pytest.raises(ValueError, match="store: expected a folder"):
        Store(tmp_path / "none", new=False)
    assert not (tmp_path / "none").exists()


def test_a_file_without_its_parts_is_damaged(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", about=np.array('{"key": {}}'))
    with pytest.raises(ValueError, match="is damaged"):
        list(Store(tmp_path))
    np.savez(tmp_path / "a.npz", about=np.array([{"key": 1}], dtype=object))  # never unpickled
    with pytest.raises(ValueError, match="is damaged"):
        list(Store(tmp_path))


def test_a_play_is_claimed_once(tmp_path: Path) -> None:
    store, other = Store(tmp_path), Store(tmp_path)
    with store.claim(ONE) as mine:
        assert mine
        with other.claim(ONE) as theirs:
            assert not theirs
        with other.claim(OTHER) as theirs:
            assert theirs
    with other.claim(ONE) as theirs:
        assert theirs
        other.add(ONE, record(ONE))
    with store.claim(ONE) as mine:
        assert not mine  # it was played in the meantime


@pytest.mark.slow
def test_a_process_that_dies_gives_up_its_claims(tmp_path: Path) -> None:
    code = (
        "import os; from pathlib import Path; from prune_gym.benchmark.store import Store; "
        "from prune_gym.benchmark.play import Play; from prune_gym.benchmark.games import Game; "
        f"context = Store(Path({str(tmp_path)!r})).claim(Play(Game('tabular-digits', 1, 0.7, 100), 'random', 7)); "
        "print(context.__enter__(), flush=True); os.kill(os.getpid(), 9)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert found.stdout == "True\n"
    with Store(tmp_path).claim(ONE) as mine:
        assert mine


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        Store(tmp_path / "file" / "store")
