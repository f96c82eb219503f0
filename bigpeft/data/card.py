"""The data card: which files, what became of their rows, how many tokens, and how long they are."""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from bigpeft.data.tokens import Tokens

_BINS = 24


def card_of(sources: Iterable[Path | str], tokens: Tokens) -> dict[str, Any]:
    """JSON of one set of rows: files with bytes and sha256, rows, tokens, lengths in tokens.

    `rows` are those to learn; of the `read` ones of the files some are `skipped` as unusable, and
    of those over the length some `dropped`, `truncated` or `split`, a split one being several rows.

    A string among the sources is a name on the hub, which has neither bytes nor a sha256 here.
    """
    lengths = tokens.offsets.diff()
    return {
        "files": [entry for source in sources for entry in _files(source)],
        "read": tokens.read,
        "rows": len(tokens),
        "skipped": tokens.skipped.count,
        "dropped": tokens.dropped,
        "truncated": tokens.truncated,
        "split": tokens.split,
        "tokens": len(tokens.ids),
        "target_tokens": int(tokens.targets.sum()),
        "lengths": _histogram(lengths),
    }


def _files(source: Path | str) -> list[dict[str, Any]]:
    if isinstance(source, str):
        return [{"path": source}]
    inside = sorted(p for p in source.rglob("*") if p.is_file()) if source.is_dir() else [source]
    return [
        {"path": str(path), "bytes": path.stat().st_size, "sha256": _digest(path)}
        for path in inside
    ]


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _histogram(lengths: torch.Tensor) -> dict[str, Any]:
    """Bins of one width in whole tokens: bin i holds lengths in [i × width, (i + 1) × width)."""
    if not len(lengths):
        return {"width": 1, "counts": [], "mean": 0.0, "median": 0, "longest": 0}
    longest = int(lengths.max())
    width = longest // _BINS + 1
    return {
        "width": width,
        "counts": torch.bincount(lengths // width).tolist(),
        "mean": round(float(lengths.double().mean()), 2),
        "median": int(lengths.median()),
        "longest": longest,
    }
