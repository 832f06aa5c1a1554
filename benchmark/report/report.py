"""A report of a benchmark: one page, and its tables and pictures as files of their own."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from math import isnan
from pathlib import Path
from string import Template

from prune_gym.benchmark.report.drawing import to_html, to_png
from prune_gym.benchmark.report.figures import Figure, figures_of
from prune_gym.benchmark.report.standings import FLOOR, Field, Standing, fields_of, place, verdict
from prune_gym.benchmark.results import Played
from prune_gym.benchmark.statistics import Interval
from prune_gym.benchmark.table import markdown_table
from prune_gym.files import csv_text, write_atomically

PAGE, TABLE = "report.html", "report.md"
TITLE = "prune_gym: which algorithm prunes best?"
HOW_TO_READ = (
    "Regret is how much less accurate, in points of validation accuracy, the network that was found is than the best one with as "
    "few MACs: by brute force on tables, the best that anybody found where networks run. Intervals are those of the 95% "
    "bootstrap, stratified by problem. The final policy is what an agent does in the end without noise and without looking for "
    "more; a search that learns no policy repeats the best network that it found. P(better than random) is how probable it is "
    "that one play of it ends better than one of random search on the same problem. Two agents count as separated if a "
    "permutation test of their mean regrets, within the problems and corrected for the number of comparisons, says so at the 5% "
    "level. Compute is what the evaluations cost, in evaluations of the original network. Hypervolume is the area below the "
    "Pareto front of all networks that were scored, over MACs removed and accuracy, in percent. Test accuracies are those of the "
    "network that was found; nothing was chosen by them."
)


@dataclass(frozen=True)
class Cell:
    """What stands in a table under a heading; what it is sorted by, None if it is not known; and the interval around that."""

    heading: str
    value: str | float | None
    text: str
    low: float | None = None
    high: float | None = None


def cells(field: Field, one: Standing) -> list[Cell]:
    """A row of the table of standings."""
    row = [Cell("agent", one.name, one.name), _interval("regret", one.regret), _interval("final policy", one.policy)]
    row.append(_interval(f"P(better than {FLOOR})", one.over_floor, ".2f"))
    row += [_number("compute", one.compute, ",.0f"), _number("seeds", one.seeds, "d"), _number("hypervolume", one.hypervolume)]
    row += [_number(f"{problem}: regret", value) for problem, value in zip(field.problems, one.by_problem, strict=True)]
    return row + [_number(f"{problem}: test, %", value) for problem, value in zip(field.problems, one.test, strict=True)]


def _number(heading: str, value: float, form: str = ".1f") -> Cell:
    return Cell(heading, None, "") if isnan(value) else Cell(heading, value, f"{value:{form}}")


def _interval(heading: str, found: Interval | None, form: str = ".1f") -> Cell:
    if found is None or isnan(found.value):
        return Cell(heading, None, "")
    if isnan(found.low):
        return _number(heading, found.value, form)
    text = f"{found.value:{form}} ({found.low:{form}} to {found.high:{form}})"
    return Cell(heading, found.value, text, found.low, found.high)


def csv_of(field: Field) -> str:
    """The whole table as CSV, with intervals in columns of their own, and nothing where nothing is known."""
    rows: list[dict[str, object]] = []
    for one in field.standings:
        row: dict[str, object] = {}
        for cell in cells(field, one):
            row[cell.heading] = "" if cell.value is None else cell.value
            if cell.low is not None:
                row |= {f"{cell.heading}, low": cell.low, f"{cell.heading}, high": cell.high}
        rows.append(row)
    columns = dict.fromkeys(name for row in rows for name in row)
    return csv_text(list(columns), [{name: row.get(name, "") for name in columns} for row in rows])


def markdown(fields: Sequence[Field]) -> str:
    """Verdicts and tables; the first columns alone, which fit on a page."""
    return "\n".join(f"{' '.join(verdict(field))}\n\n{_markdown_table(field)}" for field in fields)


def _markdown_table(field: Field) -> str:
    few = 6
    rows = [cells(field, one)[:few] for one in field.standings]
    return markdown_table([cell.heading for cell in rows[0]], ([cell.text for cell in row] for row in rows)) if rows else ""


def page(fields: Sequence[Field], figures: Sequence[Sequence[Figure]], made: str) -> str:
    """The whole report as one HTML page that needs no network."""
    from plotly.offline import get_plotlyjs  # of the extra "report"

    parts = [f"<p>{html.escape(HOW_TO_READ)}</p>"]
    for field, drawn in zip(fields, figures, strict=True):
        parts.append(f"<h2>{place(field)}, {field.budget:,} evaluations</h2>")
        parts += [f"<p>{html.escape(sentence)}</p>" for sentence in verdict(field)]
        parts.append(_html_table(field))
        for figure in drawn:
            caption = f"<figcaption>{html.escape(figure.caption)}</figcaption>"
            parts.append(f"<figure><h3>{html.escape(figure.title)}</h3>{to_html(figure)}{caption}</figure>")
    template = Template(files(__package__).joinpath("page.html").read_text())
    return template.substitute(title=html.escape(TITLE), plotly=get_plotlyjs(), body="\n".join(parts), made=html.escape(made))


def _html_table(field: Field) -> str:
    rows = [cells(field, one) for one in field.standings]
    head = "".join(f'<th scope="col"><button type="button">{html.escape(cell.heading)}</button></th>' for cell in rows[0])
    body = "".join(f"<tr>{''.join(map(_html_cell, row))}</tr>" for row in rows)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _html_cell(cell: Cell) -> str:
    value = "" if cell.value is None else str(cell.value)
    return f'<td data-value="{html.escape(value)}">{html.escape(cell.text)}</td>'


def write_report(folder: Path, played: Sequence[Played]) -> list[Path]:
    """Write the page, the tables as Markdown and CSV, and the pictures; gives their paths. The same results give the same files.

    Raises ValueError for no results, ImportError without Plotly.
    """
    if not played:
        raise ValueError("results: expected plays, got none; run scripts/benchmark.py first.")
    fields = fields_of(played)
    figures = [figures_of(field) for field in fields]
    commits = sorted({play.row["commit"] for play in played if play.row["commit"]})
    made = f"{len(played):,} plays" + (f", made at {', '.join(commits)}." if commits else ".")
    contents: dict[str, str | bytes] = {PAGE: page(fields, figures, made), TABLE: markdown(fields)}
    for field, drawn in zip(fields, figures, strict=True):
        contents[f"{field.world}_{field.budget}.csv"] = csv_of(field)
        contents |= {f"{figure.name}.png": to_png(figure) for figure in drawn}
    for name, content in contents.items():
        write_atomically(folder / name, content)
    return [folder / name for name in contents]
