"""The leaderboard: all submissions side by side, every network in them scored again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from os.path import relpath
from pathlib import Path

from prune_gym.benchmark.report.report import cells
from prune_gym.benchmark.report.standings import FLOOR, Field, fields_of, place, player_name, verdict
from prune_gym.benchmark.results import Played
from prune_gym.benchmark.submissions import checked, read_submission
from prune_gym.benchmark.table import markdown_table

SHOWN = ("agent", "regret", f"P(better than {FLOOR})", "seeds")

HEAD = """# The leaderboard

Made of the submissions in [results/submissions](../results/submissions) by the command below, which scores every network in them
again. How to hand in yours: [benchmark.md](benchmark.md).
```
python scripts/benchmark.py leaderboard
```
"""


def leaderboard(files: Sequence[Path], folder: Path) -> str:
    """The page, in Markdown: a table of what these submissions found for each budget, on tables and where networks run. Links to
    the files are for a page in ``folder``.

    Raises FileNotFoundError, ValueError for a submission that is refused, and for a play that two of them hold.
    """
    plays: list[Played] = []
    tried: dict[str, str] = {}
    file_of: dict[str, Path] = {}
    for file in files:
        rows = read_submission(file)
        for row in rows:
            name = player_name(row["agent"], row["settings"], row["reward"])
            if file_of.setdefault(name, file) != file:
                raise ValueError(f"files: {file_of[name]} and {file} both hold plays of {name}.")
            if tried.setdefault(name, row["tried"]) != row["tried"]:
                raise ValueError(f"files: the rows of {name} in {file} say different things of the settings that were tried.")
        plays += checked(file, rows)
    links = {name: Path(relpath(file, folder)).as_posix() for name, file in file_of.items()}
    return "\n".join([HEAD, *(_table(field, tried, links) for field in fields_of(plays))])


def _table(field: Field, tried: dict[str, str], links: dict[str, str]) -> str:
    lines = list(_lines(field, tried, links))
    head = [*SHOWN, "settings tried"]
    return f"## {place(field)}, {field.budget:,} evaluations\n{' '.join(verdict(field))}\n\n{markdown_table(head, lines)}"


def _lines(field: Field, tried: dict[str, str], links: dict[str, str]) -> Iterator[list[str]]:
    for one in field.standings:
        texts = {cell.heading: cell.text for cell in cells(field, one)}
        ranges = "none" if tried[one.name] == "{}" else f"`{tried[one.name]}`"
        yield [f"[{one.name}]({links[one.name]})", *(texts[heading] for heading in SHOWN[1:]), ranges]
