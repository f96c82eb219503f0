"""What several tests of this room need."""

from collections.abc import Callable
from pathlib import Path

import pytest

from bigpeft.checkpoint.manifest import MANIFEST, described, write_manifest


@pytest.fixture
def resealed() -> Callable[[Path], None]:
    """Gives a checkpoint a manifest that agrees with what is in it now, as a forger would."""

    def seal(folder: Path) -> None:
        (folder / MANIFEST).unlink()
        write_manifest(folder, {p.name: described(folder, p.name) for p in folder.iterdir()})

    return seal
