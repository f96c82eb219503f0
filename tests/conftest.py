"""What all tests share: one set of process groups, and the folder of the repository."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import worlds

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session", autouse=True)
def _end_process_groups() -> Iterator[None]:
    yield
    worlds.close_all()


@pytest.fixture(autouse=True)
def _at_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
