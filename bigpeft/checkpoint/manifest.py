"""The manifest: name, size and sha256 of every file of a checkpoint, written last.

A folder without a manifest that verifies is no checkpoint, whatever its name says.
"""

import hashlib
import json
import os
from pathlib import Path

from bigpeft.errors import CheckpointError

MANIFEST = "manifest.json"
_VERSION = 1


def write_manifest(folder: Path) -> None:
    """Hash every file of the folder and put the manifest on disk, synced."""
    files = {
        name: {"bytes": (folder / name).stat().st_size, "sha256": sha256(folder / name)}
        for name in _names(folder)
    }
    body = json.dumps(files, sort_keys=True)
    content = {"version": _VERSION, "files": files, "sha256": _text_hash(body)}
    with (folder / MANIFEST).open("w") as file:
        json.dump(content, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    sync_folder(folder)


def verify(folder: Path) -> None:
    """Raises CheckpointError, naming the first file that is missing, damaged or foreign."""
    path = folder / MANIFEST
    try:
        content = json.loads(path.read_text())
        files = content["files"]
        intact = content["sha256"] == _text_hash(json.dumps(files, sort_keys=True))
        if not intact or content["version"] != _VERSION:
            raise ValueError("its own checksum or version is wrong")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(str(path), f"is no manifest ({error})", _FIX) from error
    extra = sorted(set(_names(folder)) - set(files))
    if extra:
        raise CheckpointError(str(folder / extra[0]), "is not in the manifest", _FIX)
    for name, expected in files.items():
        file = folder / name
        if not file.resolve().is_relative_to(folder.resolve()):
            raise CheckpointError(str(file), "points out of the checkpoint", _FIX)
        if not file.is_file():
            raise CheckpointError(str(file), "is missing", _FIX)
        if file.stat().st_size != expected["bytes"] or sha256(file) != expected["sha256"]:
            raise CheckpointError(str(file), "is damaged: its sha256 is not the manifest's", _FIX)


_FIX = "use another checkpoint; checkpoint.resume=auto takes the newest that verifies"


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
