"""Pages that need nothing but themselves: no network, no script, no font."""

import os
from pathlib import Path
from typing import Any

from jinja2 import ChainableUndefined, Environment, PackageLoader

from bigpeft.errors import FileError
from bigpeft.report import words
from bigpeft.report.changes import changes, flatten
from bigpeft.report.curves import curves, lengths
from bigpeft.report.figures import figures
from bigpeft.report.findings import findings
from bigpeft.report.planned import planned
from bigpeft.report.record import Record, read_record
from bigpeft.report.scores import scores

PAGE = "report.html"
_MOST_SAMPLES = 20
_MOST_NOTICES = 40
_NOTICE = ("warning", "error", "traceback")


def write_report(folder: Path, out: Path | None = None) -> Path:
    """Write the page of a run, as a whole or not at all. Raises FileError for what is no run."""
    page = report_page(read_record(folder))
    return write_page(page, out or folder / PAGE)


def write_page(page: str, path: Path) -> Path:
    """Beside `path`, then into place: nobody opens half a page. Raises FileError."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(page, encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        raise FileError(
            str(path),
            f"cannot be written ({error.strerror})",
            "name a file in a folder that exists and may be written",
        ) from error
    finally:
        temporary.unlink(missing_ok=True)
    return path


def report_page(record: Record) -> str:
    """The HTML of one run. Everything that comes from its folder is escaped."""
    cards = {name: card for name, card in record.card.items() if isinstance(card, dict)}
    evaluated = series_of_evaluations(record)
    return render(
        "report.html",
        record=record,
        figures=figures(record),
        findings=findings(record),
        changes=changes(record.recipe) if record.recipe else [],
        cards=cards,
        histograms={name: lengths(name, card.get("lengths")) for name, card in cards.items()},
        charts=curves(record),
        scores=scores(record),
        planned=planned(record),
        samples=record.samples[:_MOST_SAMPLES],
        evaluated=evaluated,
        environment=flatten(record.environment),
        notices=_notices(record),
    )


def series_of_evaluations(record: Record) -> dict[int, float]:
    """Step → held-out loss, for checkpoints that do not know it."""
    return {r["step"]: r["eval_loss"] for r in record.rows if r.get("eval_loss") is not None}


def _notices(record: Record) -> list[str]:
    """Lines of the logs that speak of trouble, each once."""
    told = [line for line in record.log if any(word in line.lower() for word in _NOTICE)]
    return list(dict.fromkeys(told))[-_MOST_NOTICES:]


def render(template: str, **context: Any) -> str:
    """A template of this room; values are escaped, and nothing stands for a missing one."""
    environment = Environment(
        loader=PackageLoader("bigpeft.report"),
        autoescape=True,
        undefined=ChainableUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for name in ("number", "share", "size", "duration", "value"):
        environment.filters[name] = getattr(words, name)
    return environment.get_template(template).render(**context)
