"""What all tests share: one set of process groups, and the folder of the repository."""

from collections import Counter
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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files of few tests first: they launch runs of minutes, and the last of them would be waited
    for while nothing else is left to run beside it.
    """
    tests = Counter(item.path for item in items)
    items.sort(key=lambda item: tests[item.path])
