"""Runs side by side: where their recipes differ, and what came of it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bigpeft.errors import FileError
from bigpeft.report.changes import differences
from bigpeft.report.chart import Line, lines
from bigpeft.report.curves import Chart, evaluated, held_out, title_of
from bigpeft.report.figures import Figures, figures
from bigpeft.report.page import render, write_page
from bigpeft.report.record import Record, read_record
from bigpeft.report.series import Series, gibibytes, series, smoothed, tokens_per_second
from bigpeft.report.words import duration, number, size, value

Table = list[tuple[str, list[str]]]
"""Heading of a line → one cell per run."""


@dataclass(frozen=True)
class Comparison:
    """Runs in the order in which they were named; names are unique."""

    records: list[Record]
    names: list[str]
    recipes: Table
    results: Table


def compare_runs(folders: Sequence[Path]) -> Comparison:
    """Read all of them. Raises FileError for a folder that is no run's, or for less than two."""
    if len(folders) < 2:
        raise FileError(
            ", ".join(map(str, folders)) or "no folder",
            "cannot be compared with nothing",
            "name two run folders or more",
        )
    records = [read_record(folder) for folder in folders]
    differing = differences([record.recipe for record in records])
    recipes = [(key, [value(one) for one in said]) for key, said in differing.items()]
    return Comparison(records, _names(records), recipes, _results(records))


def write_comparison(comparison: Comparison, out: Path) -> Path:
    """Curves over each other and the same tables, as a page that needs nothing but itself."""
    page = render(
        "compare.html",
        comparison=comparison,
        charts=_charts(comparison),
        columns=[("", False), *((name, False) for name in comparison.names)],
    )
    return write_page(page, out)


def _names(records: Sequence[Record]) -> list[str]:
    """Folder names where they tell the runs apart, else whole paths."""
    names = [record.name for record in records]
    if len(set(names)) == len(names):
        return names
    paths = [str(record.folder) for record in records]
    return [f"{path} ({n})" if paths.count(path) > 1 else path for n, path in enumerate(paths, 1)]


def _results(records: Sequence[Record]) -> Table:
    known = [figures(record) for record in records]
    table: Table = [("state", [r.status.state if r.status else "unknown" for r in records])]
    table += [(name, [show(one) for one in known]) for name, show in _RESULTS]
    for name in dict.fromkeys(key for one in known for key in one.held_out):
        pairs = [one.held_out.get(name, (None, None)) for one in known]
        if any(before is not None for before, _ in pairs):
            table.append((f"{name} before", [number(before) for before, _ in pairs]))
        table.append((f"{name} after", [number(after) for _, after in pairs]))
    return table


_RESULTS: tuple[tuple[str, Callable[[Figures], str]], ...] = (
    ("steps", lambda one: number(one.steps)),
    ("loss, last tenth", lambda one: number(one.loss_last)),
    ("tokens seen", lambda one: number(one.tokens)),
    ("tokens/s", lambda one: number(one.tokens_per_second, 3)),
    ("peak memory per rank", lambda one: size(one.memory)),
    ("time in steps", lambda one: duration(one.seconds)),
    ("numbers trained", lambda one: number(one.trainable)),
)


def _charts(comparison: Comparison) -> list[Chart]:
    keys = dict.fromkeys(key for record in comparison.records for key in evaluated(record))
    charts = [_chart(comparison, "loss", "Training loss, smoothed", _loss)]
    charts += [_chart(comparison, key, title_of(key), partial(held_out, key=key)) for key in keys]
    charts.append(_chart(comparison, "speed", "Tokens per second, smoothed", _speed))
    charts.append(_chart(comparison, "memory", "Peak memory of the first rank, GiB", _memory))
    return [chart for chart in charts if chart is not None]


def _chart(
    comparison: Comparison, name: str, title: str, curve_of: Callable[[Record], Series]
) -> Chart | None:
    """None where no run has this curve. A run keeps its colour in all charts."""
    runs = enumerate(zip(comparison.names, comparison.records, strict=True))
    drawn = [Line(curve_of(record), run, colour) for colour, (run, record) in runs]
    drawn = [line for line in drawn if len(line.curve)]
    if not drawn:
        return None
    ends = ", ".join(f"{line.name} ends at {number(line.curve.values[-1])}" for line in drawn)
    return Chart(title, lines(name.replace("_", "-"), f"{title}: {ends}", drawn))


def _loss(record: Record) -> Series:
    return smoothed(series(record.rows, "loss"))


def _speed(record: Record) -> Series:
    return smoothed(series(record.rows, tokens_per_second))


def _memory(record: Record) -> Series:
    return series(record.rows, gibibytes)
