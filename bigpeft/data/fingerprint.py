"""A short name for exactly these rows, read in exactly this way."""

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bigpeft.data.chat import read_template
from bigpeft.data.files import find
from bigpeft.data.tokenizer import serialised

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_LAYOUT = 3  # of the token file and of what tokenise does: raise it when either changes


def fingerprint_of(
    paths: tuple[str, ...],
    tokenizer: "PreTrainedTokenizerBase | None" = None,
    template: str | None = None,
    **options: Any,
) -> str:
    """sha256 in hex over the contents of all files, hub names, tokenizer, template and `options`.

    `template` is Jinja text or a file of it; options, JSON values, are everything else that the
    tokens depend on. Raises DataError or FileError when a path is missing.
    """
    rules = None if tokenizer is None else serialised(tokenizer)
    asked = [_LAYOUT, options, read_template(template), rules]
    total = hashlib.sha256(json.dumps(asked, sort_keys=True).encode())
    for path in paths:
        found = find(path)
        if found is None:
            total.update(f"hub {path}\n".encode())
        for place in found or ():
            for file in _files(place):
                total.update(f"{file.suffix} {file.stat().st_size} {_digest(file)}\n".encode())
    return total.hexdigest()


def _files(place: Path) -> list[Path]:
    return (
        sorted(file for file in place.rglob("*") if file.is_file()) if place.is_dir() else [place]
    )


def _digest(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
