"""The stage of the tests of restarts: a run folder, and what plays in it."""

import json
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path

import pytest
import torch

from bigpeft.checkpoint.adapter import write_adapter
from bigpeft.checkpoint.manifest import described, write_manifest
from bigpeft.train.command import read_command
from bigpeft.train.restart import run_to_the_end
from tests.train.runs import DEBUG
from tests.train.stand_in import STEPS, Act

STAND_IN = [sys.executable, "tests/train/stand_in.py", "--recipe", str(DEBUG)]


@dataclass
class Play:
    """A run folder, and what the stand-in and its runner did there."""

    folder: Path
    said: list[str] = field(default_factory=list)

    def of(
        self, *acts: Act, retries: int = 2, pause: float = 0.01, more: tuple[str, ...] = ()
    ) -> int:
        """Exit code of running these acts."""
        (self.folder.parent / "acts.json").write_text(json.dumps([asdict(act) for act in acts]))
        (self.folder.parent / "starts.jsonl").unlink(missing_ok=True)
        command = read_command([*STAND_IN, f"run.folder={self.folder}", *more])
        return run_to_the_end(command, retries, pause, self.said.append)

    def starts(self) -> list[list[str]]:
        """The overrides of every start, behind that of the folder."""
        path = self.folder.parent / "starts.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return [json.loads(line)[3:] for line in lines]


@pytest.fixture
def play(tmp_path) -> Play:
    ready = tmp_path / "ready"
    for name in ("checkpoint", "adapter"):
        (ready / name).mkdir(parents=True)
    (ready / "run.json").write_text(json.dumps({"steps": STEPS}))
    (ready / "checkpoint/meta.json").write_text("{}")
    checkpoint = ready / "checkpoint"
    write_manifest(checkpoint, {"meta.json": described(checkpoint, "meta.json")})
    write_adapter(ready / "adapter", {"layer.down": torch.zeros(1)}, {"version": 1})
    return Play(tmp_path / "run")
