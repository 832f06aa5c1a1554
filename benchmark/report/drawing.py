"""A figure as a picture for papers, by matplotlib, and as one that moves, by Plotly."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import matplotlib as mpl
from matplotlib.figure import Figure as Canvas

from prune_gym.agents.pictures import png
from prune_gym.benchmark.report.curves import EXACT, Line
from prune_gym.benchmark.report.figures import Figure

if TYPE_CHECKING:
    import plotly.graph_objects as go

COLOURS = [mpl.colors.to_hex(colour) for colour in mpl.colormaps["tab10"].colors]  # type: ignore[attr-defined]
DASHES = (
    ("-", "solid"),
    ("--", "dash"),
    (":", "dot"),
    ("-.", "dashdot"),
)  # of matplotlib, of Plotly; a colour comes again with another one
DRAWN = {"": ("default", "linear"), "after": ("steps-post", "hv"), "before": ("steps-pre", "vh")}  # the same two
BAND = 0.15  # opacity


def styles(figure: Figure) -> dict[str, tuple[str, tuple[str, str]]]:
    """The colour and the dash of every line by its name: those of a player are the same in all figures of a field."""
    players = [line.name for line in figure.lines if line.name != EXACT]
    found = {name: (COLOURS[i % len(COLOURS)], DASHES[i // len(COLOURS) % len(DASHES)]) for i, name in enumerate(players)}
    return found | {EXACT: ("#000000", DASHES[0])}


def to_png(figure: Figure) -> bytes:
    """The lines that are shown at first, as a picture."""
    lines = [line for line in figure.lines if line.name in figure.shown]
    height = 1.2 + 0.28 * len(lines) if figure.rows else 4.5
    canvas = Canvas(figsize=(7.5, height), layout="constrained")
    axes, styled = canvas.add_subplot(), styles(figure)
    for position, line in enumerate(lines):
        colour, (dash, _) = styled[line.name]
        if figure.rows:
            assert line.low is not None
            assert line.high is not None
            axes.plot([line.low[0], line.high[0]], [position, position], color="0.4", linewidth=2)
            axes.plot(line.x, [position], "o", color=COLOURS[0])
            continue
        axes.plot(line.x, line.y, dash, color=colour, label=line.name, drawstyle=DRAWN[line.steps][0])
        if line.low is not None and line.high is not None:
            axes.fill_between(line.x, line.low, line.high, color=colour, alpha=BAND, linewidth=0)
    if figure.rows:
        axes.set_yticks(range(len(lines)), [line.name for line in lines])
        axes.invert_yaxis()
    else:
        axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize="small")
    if figure.log_x:
        axes.set_xscale("log")
    axes.set(title=figure.title, xlabel=figure.x_label, ylabel=figure.y_label)
    axes.grid(alpha=0.3)
    return png(canvas)


def to_html(figure: Figure) -> str:
    """A division of a page in which Plotly's script draws the figure; the page has the script."""
    import plotly.graph_objects as go  # of the extra "report"

    drawing, styled = go.Figure(), styles(figure)
    for line in figure.lines:
        colour, (_, dash) = styled[line.name]
        _add(drawing, figure, line, colour, dash)
    drawing.update_layout(
        xaxis={"title": figure.x_label, "type": "log" if figure.log_x else "linear"},
        yaxis={"title": figure.y_label, "autorange": "reversed" if figure.rows else True},
        margin={"l": 50, "r": 20, "t": 20, "b": 50},
        height=100 + 22 * len(figure.lines) if figure.rows else 620,
        legend={"orientation": "h", "y": -0.15},
        template="plotly_white",
        hovermode="closest",
        showlegend=not figure.rows,
    )
    config = {"responsive": True, "displaylogo": False}
    return drawing.to_html(full_html=False, include_plotlyjs=False, div_id=figure.name, config=config)


def _add(drawing: go.Figure, figure: Figure, line: Line, colour: str, dash: str) -> None:
    import plotly.graph_objects as go

    if figure.rows:
        assert line.low is not None
        assert line.high is not None
        error = {"type": "data", "array": line.high - line.x, "arrayminus": line.x - line.low, "color": "#666"}
        hover = f"{line.name}: {line.x[0]:.2f} ({line.low[0]:.2f} to {line.high[0]:.2f})<extra></extra>"
        drawing.add_trace(
            go.Scatter(x=line.x, y=[line.name], error_x=error, mode="markers", marker_color=COLOURS[0], hovertemplate=hover)
        )
        return
    common: dict[str, Any] = {
        "legendgroup": line.name,
        "visible": True if line.name in figure.shown else "legendonly",
        "mode": "lines",
    }
    if line.low is not None and line.high is not None:
        edge = {"line": {"width": 0}, "hoverinfo": "skip", "showlegend": False, **common}
        shade = "rgba({}, {}, {}, {})".format(*(round(255 * part) for part in mpl.colors.to_rgb(colour)), BAND)
        drawing.add_trace(go.Scatter(x=line.x, y=line.low, **edge))
        drawing.add_trace(go.Scatter(x=line.x, y=line.high, fill="tonexty", fillcolor=shade, **edge))
    shape = {"color": colour, "dash": dash, "shape": DRAWN[line.steps][1]}
    drawing.add_trace(go.Scatter(x=line.x, y=line.y, name=line.name, line=shape, **common))
