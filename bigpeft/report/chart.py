"""Line charts, histograms and stacked bars as inline SVG whose colours are the page's own.

Matplotlib knows fixed colours only; each that it is given stands for a variable of the style sheet,
so that charts turn dark with the page.
"""

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup, escape
from matplotlib import rc_context
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from bigpeft.report.series import Series, thinned

INK, MUTED, GRID, CARD = "#010101", "#020202", "#030303", "#040404"
LINES = ("#0a0a01", "#0a0a02", "#0a0a03", "#0a0a04", "#0a0a05", "#0a0a06")
_VARIABLES = {INK: "--ink", MUTED: "--muted", GRID: "--line", CARD: "--card"} | {
    colour: f"--series-{number}" for number, colour in enumerate(LINES, 1)
}
_DASHES = ("-", "--", ":")
_HATCHES = ("", "////", "....")
_STYLE = {
    "svg.fonttype": "none",  # text stays text: selectable, read aloud, in the page's font
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.edgecolor": GRID,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "xtick.color": GRID,
    "ytick.color": GRID,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "axes.labelcolor": MUTED,
    "text.color": INK,
    "axes.formatter.limits": (-3, 5),
    "axes.formatter.useoffset": False,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "text.parse_math": False,  # a run may be called $x
    "legend.frameon": False,
    "legend.fontsize": 8.5,
}


Limits = Mapping[str, tuple[float, float]]
"""What a line says → its height, and how much below it is kept back."""


@dataclass(frozen=True)
class Line:
    """One curve of a chart; `colour` counts through the page's series, `faint` ones lie behind."""

    curve: Series
    name: str = ""
    colour: int = 0
    faint: bool = False
    dotted: bool = False


def _style(name: str) -> Any:
    """matplotlib's settings; identifiers in the SVG follow from `name`."""
    return _STYLE | {"svg.hashsalt": name}


def lines(name: str, alt: str, curves: Sequence[Line], marks: Sequence[int] = ()) -> Markup:
    """A chart over steps. `name` is unique on the page, `alt` says in words what is to be seen.

    `marks` are steps at which a vertical line stands.
    """
    with rc_context(_style(name)):
        figure = Figure(figsize=(4.7, 2.35), layout="constrained")
        axes = figure.add_subplot()
        for step in marks:
            axes.axvline(step, color=MUTED, linewidth=0.7, linestyle=(0, (2, 3)))
        for line in curves:
            curve = thinned(line.curve)
            axes.plot(
                curve.steps,
                curve.values,
                _DASHES[line.colour // len(LINES) % len(_DASHES)],
                color=LINES[line.colour % len(LINES)],
                alpha=0.3 if line.faint else 1,
                linewidth=0.9 if line.faint else 1.7,
                marker="o" if line.dotted or len(curve) == 1 else None,
                markersize=3.2,
                label=f" {line.name}" if line.name else None,  # a leading _ would hide it
            )
        if any(line.name for line in curves):
            axes.legend(loc="best", handlelength=1.4)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.set_xlabel("step")
        return _svg(figure, name, alt)


def histogram(name: str, alt: str, counts: Sequence[float], width: float, label: str) -> Markup:
    """Bars of one width, the first of which starts at 0; `label` names the quantity."""
    with rc_context(_style(name)):
        figure = Figure(figsize=(4.7, 2.1), layout="constrained")
        axes = figure.add_subplot()
        starts = [index * width for index in range(len(counts))]
        axes.bar(starts, counts, width * 0.88, align="edge", color=LINES[0])
        axes.grid(False, axis="x")
        axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
        axes.set_xlabel(label)
        axes.set_ylabel("rows")
        return _svg(figure, name, alt)


def stacks(
    name: str, alt: str, bars: Mapping[str, Mapping[str, float]], limits: Limits, unit: str
) -> Markup:
    """A bar for every key of `bars`, its parts on one another in their order, and the limits.

    Every part has the id NAME-BAR-PART in the page.
    """
    with rc_context(_style(name)):
        figure = Figure(figsize=(4.7, 3.7), layout="constrained")
        axes = figure.add_subplot()
        tops = dict.fromkeys(bars, 0.0)
        for number, part in enumerate(dict.fromkeys(part for bar in bars.values() for part in bar)):
            label: str | None = f" {part}"
            for place, (bar, parts) in enumerate(bars.items()):
                if not parts.get(part):
                    continue
                (drawn,) = axes.bar(
                    place,
                    parts[part],
                    0.62,
                    tops[bar],
                    color=LINES[number % len(LINES)],
                    edgecolor=CARD,
                    linewidth=0.6,
                    hatch=_HATCHES[number // len(LINES) % len(_HATCHES)],
                    label=label,
                )
                drawn.set_gid(f"{bar}-{part}")
                tops[bar] += parts[part]
                label = None
        for text, (height, kept_back) in limits.items():
            line = axes.axhline(height, color=INK, linewidth=1.2, linestyle="--", label=f" {text}")
            line.set_gid(f"limit-{text.replace(' ', '-')}")
            if kept_back:
                axes.axhspan(height - kept_back, height, color=MUTED, alpha=0.3, linewidth=0)
        axes.set_xticks(range(len(bars)), list(bars))
        axes.tick_params("x", length=0)
        axes.grid(False, axis="x")
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.set_ylim(0, 1.05 * max([*tops.values(), *(at for at, _ in limits.values())]))
        axes.set_ylabel(unit)
        figure.legend(loc="outside lower center", ncols=3, handlelength=1.2)
        return _svg(figure, name, alt)


def _svg(figure: Figure, name: str, alt: str) -> Markup:
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    FigureCanvasSVG(figure).print_svg(buffer, metadata=nothing)
    drawn = buffer.getvalue()
    body = drawn[drawn.index("<svg") :]
    box = re.search(r'viewBox="[^"]+"', body)
    assert box is not None
    inside = body[body.index(">") + 1 :]
    inside = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", inside, flags=re.DOTALL)
    inside = re.sub(r'(id="|href="#|url\(#)', rf"\g<1>{name}-", inside)
    inside = re.sub(r"#0[0-9a-f]{5}\b", lambda m: _variable(m[0]), inside)
    inside = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", inside)
    head = f'<svg xmlns:xlink="http://www.w3.org/1999/xlink" {box[0]} role="img"'
    return Markup(f'{head} aria-label="{escape(alt)}">{inside}')


def _variable(colour: str) -> str:
    return f"var({_VARIABLES[colour]})" if colour in _VARIABLES else colour
