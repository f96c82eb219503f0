"""Tokenise once for all processes: one writes the tokens, the others wait for the file.

They wait by looking, not in a collective: NCCL's watchdog kills ranks that wait half an hour.
"""

import json
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path

from bigpeft.data.tokens import Tokens
from bigpeft.errors import DataError, FileError, UserError

_LOOK_EVERY = 0.2  # seconds
_SAY_AFTER = 30.0  # seconds


def prepare(
    folder: Path,
    is_writer: bool,
    build: Callable[[], Tokens],
    fingerprint: str,
    name: str,
    attempt: str,
) -> Tokens:
    """The tokens of `build`, made by the one writer or taken from `folder`, which all ranks see.

    The file is `{name}-{fingerprint[:16]}.safetensors`; one that is damaged is built anew.
    `attempt` is the same on all ranks of a launch and differs between launches: it marks the note
    by which a failed writer tells the others why, so none reads an older run's. Raises on all
    ranks what `build` raised on the writer: its UserError, or a DataError quoting anything else.
    """
    path = folder / f"{name}-{fingerprint[:16]}.safetensors"
    note = folder / f"{path.stem}.{attempt}.error"
    return _write(path, note, build) if is_writer else _wait(path, note)


def _write(path: Path, note: Path, build: Callable[[], Tokens]) -> Tokens:
    _make_room(path)
    tokens = _load(path)
    if tokens is not None:
        return tokens
    try:
        tokens = build()
        _replace(path, lambda temporary: tokens.save(temporary))
    except UserError as error:
        _leave(note, error.what, error.why, error.fix)
        raise
    except Exception as error:
        reason = f"failed on the first rank ({type(error).__name__}: {error})"
        _leave(note, f"tokenising {path.stem}", reason, "read the first rank's traceback")
        raise
    return tokens


def _wait(path: Path, note: Path) -> Tokens:
    began, said = time.monotonic(), False
    while True:
        if note.exists():
            raise DataError(**json.loads(note.read_text(encoding="utf-8")))
        tokens = _load(path)
        if tokens is not None:
            return tokens
        if not said and time.monotonic() - began > _SAY_AFTER:
            logging.getLogger(__name__).warning("waiting for the first rank to tokenise %s", path)
            said = True
        time.sleep(_LOOK_EVERY)


def _make_room(path: Path) -> None:
    """The folder, without the notes that earlier launches left for these rows."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for old in path.parent.glob(f"{path.stem}.*.error"):
            old.unlink(missing_ok=True)
    except OSError as error:
        raise FileError(
            str(path.parent), f"cannot be written ({error.strerror})", "choose another folder"
        ) from error


def _load(path: Path) -> Tokens | None:
    """None when there is no file, or a damaged one."""
    try:
        return Tokens.load(path)
    except (FileNotFoundError, ValueError):
        return None


def _leave(note: Path, what: str, why: str, fix: str) -> None:
    text = json.dumps({"what": what, "why": why, "fix": fix})
    _replace(note, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def _replace(path: Path, write: Callable[[Path], object]) -> None:
    """Write beside `path`, then move into place: nobody sees half a file."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        write(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
