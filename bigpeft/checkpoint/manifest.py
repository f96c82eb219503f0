"""The manifest: name, size and sha256 of every file of a checkpoint, written last.

A folder without a manifest that verifies is no checkpoint, whatever its name says.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bigpeft.errors import CheckpointError

MANIFEST = "manifest.json"
_VERSION = 1
FIX = "use another checkpoint; checkpoint.resume=auto takes the newest that verifies"

Files = Mapping[str, Mapping[str, Any]]
"""Name, relative to the checkpoint → {bytes, sha256}."""


def described(folder: Path, name: str) -> dict[str, Any]:
    """What a manifest says of a file, once the file is on disk."""
    path = folder / name
    with path.open("rb") as file:
        os.fsync(file.fileno())
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"bytes": path.stat().st_size, "sha256": digest}


def write_manifest(folder: Path, files: Files) -> None:
    """Put the manifest on disk, synced, with the entries of `described`."""
    body = json.dumps(files, sort_keys=True)
    content = {"version": _VERSION, "files": files, "sha256": _text_hash(body)}
    with (folder / MANIFEST).open("w") as file:
        json.dump(content, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    sync_folder(folder)


def read_manifest(folder: Path) -> Files:
    """Raises CheckpointError where it is missing, damaged or of another version."""
    path = folder / MANIFEST
    try:
        content = json.loads(path.read_text())
        files = content["files"]
        if content["sha256"] != _text_hash(json.dumps(files, sort_keys=True)):
            raise ValueError("its own checksum is wrong")
        if content["version"] != _VERSION:
            raise ValueError(f"version {content['version']}, this bigpeft reads {_VERSION}")
        if not all({"bytes", "sha256"} <= entry.keys() for entry in files.values()):
            raise ValueError("a file has no size or no sha256")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(str(path), f"is no manifest ({error})", FIX) from error
    return dict(files)


def verify(folder: Path) -> None:
    """Raises CheckpointError, naming the first file that is missing, damaged or foreign."""
    files = read_manifest(folder)
    extra = sorted(set(_names(folder)) - set(files))
    if extra:
        raise CheckpointError(str(folder / extra[0]), "is not in the manifest", FIX)
    compare(folder, files)


def compare(folder: Path, files: Files) -> None:
    """Raises CheckpointError, naming the first of `files` that is not as it is said to be."""
    for name, expected in files.items():
        file = folder / name
        if not file.resolve().is_relative_to(folder.resolve()):
            raise CheckpointError(str(file), "points out of the checkpoint", FIX)
        if not file.is_file():
            raise CheckpointError(str(file), "is missing", FIX)
        if file.stat().st_size != expected["bytes"] or sha256(file) != expected["sha256"]:
            raise CheckpointError(str(file), "is damaged: its sha256 is not the manifest's", FIX)


def _names(folder: Path) -> list[str]:
    """Every file of the checkpoint but its manifest, relative to it."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return sorted(str(f.relative_to(folder)) for f in files if f != folder / MANIFEST)


def sha256(path: Path) -> str:
    """Hex digest of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync_folder(folder: Path) -> None:
    """Make the folder's entries durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _text_hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
