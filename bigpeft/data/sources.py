"""Rows from files, folders, globs and the hub, one after another, each with its place."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from bigpeft.data.files import KINDS, find, kind_of
from bigpeft.data.held_out import Part
from bigpeft.data.hub import hub_is_reachable, without_network
from bigpeft.data.text_files import Refuse, csv_rows, json_rows, raise_it
from bigpeft.errors import DataError


@dataclass(frozen=True)
class Rows:
    """Rows of several sources in order. Iterating reads them anew; nothing is kept in memory."""

    sources: tuple[Path | str, ...]
    """Files and saved Arrow folders; a string is a data set on the hub."""

    limit: int | None = None

    split: str | None = None
    """Of data sets on the hub; None is train."""

    part: Part | None = None
    """Only these of the first `limit` rows."""

    def __iter__(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """("train.jsonl row 7", the row) … Raises DataError where a source cannot be read."""
        return self.read(raise_it)

    def read(self, refuse: Refuse) -> Iterator[tuple[str, dict[str, Any]]]:
        """The same, but a line that cannot be read is handed to `refuse`, and left out."""
        for number, found in enumerate(islice(self._all(refuse), self.limit)):
            if self.part is None or self.part.has(number):
                yield found

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the first row's columns."""
        return columns_of(self, self.sources[0])

    def _all(self, refuse: Refuse) -> Iterator[tuple[str, dict[str, Any]]]:
        for source in self.sources:
            number, refused = 0, []

            def note(error: DataError, refused: list[DataError] = refused) -> None:
                refuse(error)
                refused.append(error)

            for number, row in enumerate(read_source(source, self.split, note), 1):
                yield f"{source} row {number}", row
            if not number and not refused:
                raise DataError(
                    str(source), "holds no row", "take it out of the recipe, or fill it"
                )


def load_rows(
    paths: tuple[str, ...],
    limit: int | None = None,
    split: str | None = None,
    part: Part | None = None,
) -> Rows:
    """The first `limit` rows of these paths together, in the order given; a glob is sorted.

    A path is a .jsonl, .json, .csv (each also .gz), .parquet or .arrow file, a folder of such
    files or one that `Dataset.save_to_disk` wrote, a glob, or a hub name; `split` is the one to
    take of a hub name or a folder. Raises DataError when a path is missing, of another kind, or
    nothing of it can be read.
    """
    found: list[Path | str] = []
    for path in paths:
        files = find(path, split)
        found += [path] if files is None else files
    rows = Rows(tuple(found), limit, split, part)
    for source in rows.sources:
        columns_of(rows, source)  # a wrong file says so now, not an hour into the first
    return rows


def columns_of(rows: Rows, source: Path | str) -> tuple[str, ...]:
    """Names of the columns of the first row of one source that can be read."""
    first: list[DataError] = []
    for _, row in Rows((source,), split=rows.split).read(first.append):
        return tuple(row)
    raise first[0]


def table_stream(source: Path | str, split: str | None) -> Any:
    """A table or a data set on the hub as an IterableDataset, of which nothing is read yet."""
    from datasets import Dataset, load_dataset, load_from_disk

    with unreadable_named(source), _quiet():
        if isinstance(source, str):
            return load_dataset(source, split=split or "train", streaming=True)
        if source.is_dir():
            saved: Any = load_from_disk(str(source))
            return saved.to_iterable_dataset()
        if kind_of(source) == ".arrow":
            return Dataset.from_file(str(source)).to_iterable_dataset()
        return Dataset.from_parquet(str(source), streaming=True)


@contextmanager
def unreadable_named(source: Path | str) -> Iterator[None]:
    """What a library raises about a source becomes a DataError that names it."""
    try:
        yield
    except DataError:
        raise
    except Exception as error:  # pyarrow has a class per mishap
        raise DataError(
            str(source), f"cannot be read ({_reason(error)})", "write it anew, or check its name"
        ) from error


def read_source(source: Path | str, split: str | None, refuse: Refuse) -> Iterator[dict[str, Any]]:
    """The rows of one source; a line that cannot be read is handed to `refuse`."""
    if isinstance(source, str):
        return _from_hub(source, split or "train")
    if source.is_dir():
        return _from_saved(source)
    match kind_of(source):
        case ".jsonl" | ".json":
            return json_rows(source, refuse)
        case ".csv":
            return csv_rows(source, refuse)
        case ".parquet" | ".arrow":
            return _from_table(source)
    raise DataError(
        str(source), "is of an unknown kind", f"use a file ending in {', '.join(KINDS)}"
    )


def _from_table(path: Path) -> Iterator[dict[str, Any]]:
    from datasets import Dataset

    with unreadable_named(path), _quiet():
        if kind_of(path) == ".arrow":
            yield from Dataset.from_file(str(path))  # type: ignore[misc]
        else:
            yield from Dataset.from_parquet(str(path), streaming=True)  # type: ignore[misc]


def _from_saved(folder: Path) -> Iterator[dict[str, Any]]:
    from datasets import load_from_disk

    try:
        with _quiet():
            table: Any = load_from_disk(str(folder))
    except Exception as error:
        raise DataError(
            str(folder), f"cannot be read ({_reason(error)})", "save it anew"
        ) from error
    yield from table


def _from_hub(name: str, split: str) -> Iterator[dict[str, Any]]:
    from datasets import load_dataset

    reachable = hub_is_reachable()
    try:
        with _quiet(), nullcontext() if reachable else without_network():
            table: Any = load_dataset(name, split=split)
    except Exception as error:
        where = "on the hub" if reachable else "in the hub's cache, and the hub cannot be reached"
        raise DataError(
            name,
            f"is no path here, and no data set to load {where} ({_reason(error)})",
            "check the path or the name; on a machine without network, use a local file",
        ) from error
    yield from table


def _reason(error: BaseException) -> str:
    """The first line of the innermost cause."""
    while error.__cause__ is not None:
        error = error.__cause__
    return next(iter(str(error).splitlines()), "") or type(error).__name__


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars and no log lines of the library meanwhile: errors are raised, once."""
    import datasets

    bars, level = datasets.are_progress_bars_disabled(), datasets.logging.get_verbosity()
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    try:
        yield
    finally:
        datasets.logging.set_verbosity(level)
        if not bars:
            datasets.enable_progress_bars()
