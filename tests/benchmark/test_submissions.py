"""Submissions: written, checked, and refused where they say what is not so."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from prune_gym.benchmark import submissions
from prune_gym.benchmark.games import Game
from prune_gym.benchmark.leaderboard import leaderboard
from prune_gym.benchmark.play import Play, play
from prune_gym.benchmark.results import Played, add_results, summarise
from prune_gym.benchmark.store import Store
from prune_gym.benchmark.submissions import COLUMNS, plays_in, read_submission, validate, write_submission
from prune_gym.files import csv_text

TABLE, LIVE = Game("tabular-digits-mobilenet", 1, 0.6, 100), Game("digits", 1, 0.3, 100)
TRIED = {"scale": [0.1, 3.0]}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = Store(tmp_path_factory.mktemp("store"))
    for game in (TABLE, LIVE):
        for agent in ("uniform", "random"):
            one = Play(game, agent, 100)
            store.add(one, play(one))
    return store


@pytest.fixture
def file(store: Store, tmp_path: Path) -> Path:
    assert write_submission(tmp_path / "mine.csv", plays_in(store.folder), "random", TRIED) == 2
    return tmp_path / "mine.csv"


def test_a_submission_is_scored_again_and_set_beside_others(store: Store, file: Path) -> None:
    others = [summarise(record) for record in store]
    tabular, live = validate(file, others)
    assert {one.name for one in tabular.standings} == {one.name for one in live.standings} == {"random", "uniform"}
    (mine,) = (one for one in tabular.standings if one.name == "random")
    (record,) = (record for record in store if record.key["agent"] == "random" and record.key["task"] == TABLE.task)
    assert mine.regret.value == pytest.approx(100 * record.found["regret"])
    assert mine.test == (100 * record.found["test_accuracy"],)


def test_alone_it_has_the_regret_that_the_table_says(file: Path, store: Store) -> None:
    (tabular, _) = validate(file, [])
    (record,) = (record for record in store if record.key["agent"] == "random" and record.key["task"] == TABLE.task)
    assert tabular.standings[0].regret.value == pytest.approx(100 * record.found["regret"])


def test_settings_that_were_tuned_say_in_which_ranges(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submissions, "all_tuned", lambda: {"random": {"ranges": {"scale": [0.1, 3]}}})
    plays = [play for play in plays_in(store.folder) if play.row["task"] == TABLE.task]
    tuned = [replace(play, row={**play.row, "settings": '{"scale": 2.0}'}) for play in plays]
    assert write_submission(tmp_path / "both.csv", [*plays, *tuned], "random") == 2
    with (tmp_path / "both.csv").open(newline="") as file:
        assert [(row["settings"], row["tried"]) for row in csv.DictReader(file)] == [
            ("{}", "{}"),
            ('{"scale": 2.0}', '{"scale": [0.1, 3]}'),
        ]


def test_what_was_tried_is_in_the_file(file: Path) -> None:
    rows = read_submission(file)
    assert [row["task"] for row in rows] == ["digits", "tabular-digits-mobilenet"]
    assert {row["tried"] for row in rows} == {'{"scale": [0.1, 3.0]}'}


def changed(file: Path, number: int, **values: Any) -> Path:
    with file.open(newline="") as content:
        rows = list(csv.DictReader(content))
    rows[number] |= values
    other = file.with_name("changed.csv")
    other.write_text(csv_text(COLUMNS, rows))
    return other


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("name", ["val_accuracy", "test_accuracy"])
def test_one_wrong_number_is_refused(file: Path, number: int, name: str) -> None:
    said = float(read_submission(file)[number][name])
    message = rf"changed.csv is refused.\nrow {number + 2}: {name}: expected {said}, which is what the network has"
    with pytest.raises(ValueError, match=message):
        validate(changed(file, number, **{name: said + 0.0025}), [])


def test_another_network_is_refused(file: Path) -> None:
    table = TABLE.environment().simulator.table
    full = " ".join(str(widths[-1]) for widths in table.allowed)
    with pytest.raises(ValueError, match=r"row 3: architecture: expected 60% of the MACs to be gone, got 0.00%"):
        validate(changed(file, 1, architecture=full), [])
    digits = read_submission(file)[0]["architecture"]
    with pytest.raises(ValueError, match=r"row 2: "):
        validate(changed(file, 0, architecture="f" + digits[1:] if digits[0] != "f" else "7" + digits[1:]), [])
    with pytest.raises(ValueError, match=r"row 2: .*got 30"):
        validate(changed(file, 0, macs_reduction=0.9), [])


def test_all_wrong_rows_are_named(file: Path) -> None:
    both = changed(changed(file, 0, val_accuracy=0.111), 1, test_accuracy=0.222)
    with pytest.raises(ValueError, match=r"row 2: val_accuracy: .*\nrow 3: test_accuracy: "):
        validate(both, [])


def test_damaged_files(file: Path, tmp_path: Path, store: Store) -> None:
    for text, message in (
        ("a,b\n1,2\n", "file: expected the columns task, base"),
        ("", "file: expected the columns"),
        (",".join(COLUMNS) + "\n", "holds no plays"),
    ):
        (tmp_path / "bad.csv").write_text(text)
        with pytest.raises(ValueError, match=message):
            read_submission(tmp_path / "bad.csv")
    for name, value in (
        ("seed", "x"), ("seed", "-1"), ("tried", "{"), ("settings", "[1]"), ("val_accuracy", ""), ("base", "2"), ("budget", "99"),
        ("task", "cifar"), ("macs_reduction", "1.5"), ("agent", "[x](http://y) | <b>"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=r"file: row 2 of .* is damaged"):
            read_submission(changed(file, 0, **{name: value}))
    with pytest.raises(FileNotFoundError):
        read_submission(tmp_path / "none.csv")
    header, first, *_ = file.read_text().splitlines()
    for lines, message in (
        ([header, first, first], "has several rows of the same play"),
        ([header, first.partition(",")[0]], "row 2 of .* is damaged"),
        ([header, f"{first},more"], "row 2 of .* is damaged"),
        ([header, f'"{"x" * 200_000}"'], "row 2 of .* is damaged"),
    ):
        (tmp_path / "bad.csv").write_text("\n".join(lines) + "\n")
        with pytest.raises(ValueError, match=message):
            read_submission(tmp_path / "bad.csv")
    with pytest.raises(ValueError, match="agent: expected one that played"):
        write_submission(tmp_path / "none.csv", [], "ppo", {})


def test_results_of_other_problems_are_left_out(file: Path) -> None:
    other = summarise(play(Play(Game("tabular-digits-mobilenet", 1, 0.7, 100), "uniform", 100)))
    assert isinstance(other, Played)
    assert all(len(field.problems) == 1 for field in validate(file, [other]))


def test_a_folder_of_results_is_as_good_as_the_store(store: Store, file: Path, tmp_path: Path) -> None:
    add_results(tmp_path / "results", store)
    write_submission(tmp_path / "other.csv", plays_in(tmp_path / "results"), "random", TRIED)
    assert (tmp_path / "other.csv").read_bytes() == file.read_bytes()
    with pytest.raises(ValueError, match="store: expected a folder"):
        plays_in(tmp_path / "nowhere")


def test_the_leaderboard(store: Store, file: Path, tmp_path: Path) -> None:
    other = tmp_path / "folder" / "other.csv"
    other.parent.mkdir()
    write_submission(other, plays_in(store.folder), "uniform", {})
    page = leaderboard([file, other], tmp_path / "docs")
    for world in ("On tables", "Where networks run"):
        assert page.count(f"\n## {world}, 100 evaluations\n") == 1
    rows = [line for line in page.splitlines() if line.startswith("| [")]
    assert len(rows) == 4
    (mine, *_) = (row for row in rows if "[random]" in row)
    assert mine.startswith("| [random](../mine.csv) | ")
    assert mine.endswith(' | 1 | `{"scale": [0.1, 3.0]}` |')
    assert sum(row.startswith("| [uniform](../folder/other.csv)") and row.endswith(" | 1 | none |") for row in rows) == 2
    again = tmp_path / "again.csv"
    again.write_bytes(file.read_bytes())
    with pytest.raises(ValueError, match=r"files: .*mine\.csv and .*again\.csv both hold plays of random"):
        leaderboard([file, again], tmp_path)
    with pytest.raises(ValueError, match=r"the rows of random in .* say different things of the settings that were tried"):
        leaderboard([changed(file, 1, tried="{}")], tmp_path)
    with pytest.raises(ValueError, match="is refused"):
        leaderboard([changed(file, 1, val_accuracy=0.5)], tmp_path)


@pytest.mark.parametrize(
    "reward", ['latency("clock.json")', '(latency)("clock.json")', 'latency\\\n("clock.json")', '\uff4catency("clock.json")']
)
def test_a_submission_reads_no_file_of_the_one_who_checks_it(file: Path, reward: str) -> None:
    with file.open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    rows[0]["reward"] = reward
    file.write_text(csv_text(COLUMNS, rows))
    with pytest.raises(ValueError, match="reward: expected one that reads no file"):
        read_submission(file)
