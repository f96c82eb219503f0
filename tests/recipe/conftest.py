"""A small recipe to bend, and the message that a bent one gives."""

from collections.abc import Callable
from pathlib import Path

import pytest

from bigpeft.errors import RecipeError
from bigpeft.recipe import load_recipe

SMALL = """\
model:
  name: models/tiny
method:
  name: lora
  rank: 16
  alpha: 32
data:
  path: data/train.jsonl
batch:
  global_size: 8
run:
  folder: runs/small
train:
  steps: 10
"""


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`small.yaml` in the working directory: 14 lines that load."""
    monkeypatch.chdir(tmp_path)
    path = Path("small.yaml")
    path.write_text(SMALL, encoding="utf-8")
    return path


@pytest.fixture
def message(small: Path) -> Callable[..., str]:
    """Text of the RecipeError that `small.yaml` gives after a replacement, with overrides."""

    def read(old: str = "", new: str = "", *, overrides: tuple[str, ...] = ()) -> str:
        assert old in SMALL
        small.write_text(SMALL.replace(old, new, 1) if old else SMALL + new, encoding="utf-8")
        with pytest.raises(RecipeError) as caught:
            load_recipe(small, overrides)
        return str(caught.value)

    return read
