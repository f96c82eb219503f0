"""Rows from files, folders, globs and the hub, one after another, each with its place."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from bigpeft.data.files import KINDS, find, kind_of
from bigpeft.data.hub import hub_is_reachable, without_network
from bigpeft.data.text_files import csv_rows, json_rows
from bigpeft.errors import DataError


@dataclass(frozen=True)
class Rows:
    """Rows of several sources in order. Iterating reads them anew; nothing is kept in memory."""

    sources: tuple[Path | str, ...]
    """Files and saved Arrow folders; a string is a data set on the hub."""

    limit: int | None = None

    def __iter__(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """("train.jsonl row 7", the row) … Raises DataError where a source cannot be read."""
        return islice(self._all(), self.limit)

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the first row's columns."""
        return tuple(next(iter(self))[1])

    def _all(self) -> Iterator[tuple[str, dict[str, Any]]]:
        for source in self.sources:
            number = 0
            for number, row in enumerate(_read(source), 1):
                yield f"{source} row {number}", row
            if not number:
                raise DataError(
                    str(source), "holds no row", "take it out of the recipe, or fill it"
                )


def load_rows(paths: tuple[str, ...], limit: int | None = None) -> Rows:
    """The first `limit` rows of these paths together, in the order given; a glob is sorted.

    A path is a .jsonl, .json, .csv (each also .gz), .parquet or .arrow file, a folder of such
    files or one that `Dataset.save_to_disk` wrote, a glob, or a hub name. Raises DataError when a
    path is missing, of another kind, or its first row cannot be read.
    """
    found: list[Path | str] = []
    for path in paths:
        files = find(path)
        found += [path] if files is None else files
    rows = Rows(tuple(found), limit)
    for source in rows.sources:
        next(iter(Rows((source,))))  # a wrong file says so now, not an hour into the first
    return rows


def _read(source: Path | str) -> Iterator[dict[str, Any]]:
    if isinstance(source, str):
        return _from_hub(source)
    if source.is_dir():
        return _from_saved(source)
    match kind_of(source):
        case ".jsonl" | ".json":
            return json_rows(source)
        case ".csv":
            return csv_rows(source)
        case ".parquet" | ".arrow":
            return _from_table(source)
    raise DataError(
        str(source), "is of an unknown kind", f"use a file ending in {', '.join(KINDS)}"
    )


def _from_table(path: Path) -> Iterator[dict[str, Any]]:
    from datasets import Dataset

    try:
        with _quiet():
            table: Any = (
                Dataset.from_file(str(path))
                if kind_of(path) == ".arrow"
                else Dataset.from_parquet(str(path), streaming=True)
            )
            yield from table
    except Exception as error:  # pyarrow has a class per mishap
        raise DataError(str(path), f"cannot be read ({_reason(error)})", "write it anew") from error


def _from_saved(folder: Path) -> Iterator[dict[str, Any]]:
    from datasets import DatasetDict, load_from_disk

    try:
        with _quiet():
            table: Any = load_from_disk(str(folder))
    except Exception as error:
        raise DataError(
            str(folder), f"cannot be read ({_reason(error)})", "save it anew"
        ) from error
    if isinstance(table, DatasetDict):
        raise DataError(
            str(folder),
            f"holds the splits {', '.join(map(str, table))}",
            f"name one, such as {folder / str(next(iter(table), 'train'))}",
        )
    yield from table


def _from_hub(name: str) -> Iterator[dict[str, Any]]:
    from datasets import load_dataset

    reachable = hub_is_reachable()
    try:
        with _quiet(), nullcontext() if reachable else without_network():
            table: Any = load_dataset(name, split="train")
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
