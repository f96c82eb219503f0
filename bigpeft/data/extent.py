"""How many rows there are to read, told without reading them: for bars that know their end."""

from functools import partial
from pathlib import Path

from bigpeft.data.files import kind_of
from bigpeft.data.sources import Rows

_BLOCK = 1 << 22  # bytes


def rows_in(rows: Rows) -> int | None:
    """About as many as reading will give, None where only that would tell.

    Lines of JSONL are counted, tables say it themselves. A file that cannot be read has no number:
    the message about it is for whoever reads it.
    """
    counts = [_count(source) for source in rows.sources]
    known = [count for count in counts if count is not None]
    if len(known) < len(counts):
        return None
    total = sum(known) if rows.limit is None else min(sum(known), rows.limit)
    if rows.part is None:
        return total
    share = rows.part.share if rows.part.held_out else 1 - rows.part.share
    return round(total * share)


def _count(source: Path | str) -> int | None:
    if isinstance(source, str):
        return None
    try:
        if source.is_dir():
            return _saved(source)
        match kind_of(source):
            case ".jsonl" if source.suffix != ".gz":
                return _lines(source)
            case ".parquet":
                return _parquet(source)
    except (OSError, ValueError):
        return None
    return None


def _lines(path: Path) -> int:
    count, last = 0, b""
    with path.open("rb") as file:
        for block in iter(partial(file.read, _BLOCK), b""):
            count, last = count + block.count(b"\n"), block
    return count + (last[-1:] not in (b"", b"\n"))


def _parquet(path: Path) -> int:
    from pyarrow.parquet import read_metadata

    return read_metadata(path).num_rows


def _saved(folder: Path) -> int:
    from datasets import load_from_disk

    return len(load_from_disk(str(folder)))
