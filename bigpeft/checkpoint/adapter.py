"""The files of an adapter: `adapter.safetensors`, `adapter.json` that says what made it, and
`base.json`, the fingerprint of the model that it belongs to.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from bigpeft.backbone import Fingerprint
from bigpeft.errors import FileError

TENSORS, DESCRIPTION, BASE = "adapter.safetensors", "adapter.json", "base.json"
VERSION = 1


def write_adapter(
    folder: Path, tensors: Mapping[str, Tensor], described: Mapping[str, Any]
) -> None:
    """Write both files; the tensors appear when they are whole."""
    temporary = folder / f"{TENSORS}.tmp"
    save_file(dict(tensors), temporary)
    temporary.chmod(0o644)
    os.replace(temporary, folder / TENSORS)
    (folder / DESCRIPTION).write_text(json.dumps(described, indent=2) + "\n")


def read_adapter(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors, numbers in fp32, and description. Raises FileError for a folder that is no whole
    adapter.
    """
    try:
        described = json.loads((folder / DESCRIPTION).read_text())
        tensors = load_file(folder / TENSORS)
    except (OSError, ValueError, SafetensorError) as error:
        fix = "point at the adapter folder of a finished run"
        if (folder / "adapter" / DESCRIPTION).is_file():
            fix = f"write {folder / 'adapter'}"
        raise FileError(str(folder), f"is no adapter ({error})", fix) from error
    if described.get("version") != VERSION:
        raise FileError(
            str(folder / DESCRIPTION),
            f"has format version {described.get('version')}, this bigpeft reads {VERSION}",
            "use the version of bigpeft that wrote it",
        )
    wide = {name: t.float() if t.is_floating_point() else t for name, t in tensors.items()}
    return wide, described


def read_base(folder: Path) -> Fingerprint | None:
    """Which base the adapter belongs to; None where nothing says so, as in an imported adapter.

    Raises FileError for a file that is no fingerprint.
    """
    path = folder / BASE
    if not path.is_file():
        return None
    try:
        return Fingerprint.from_json(json.loads(path.read_text()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise FileError(
            str(path), f"is no fingerprint ({error})", "copy the adapter again"
        ) from error
