"""What a run folder holds, read without faith: any file may be missing, half written or foreign."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from bigpeft.checkpoint import read_meta, verify
from bigpeft.checkpoint.keeping import by_step
from bigpeft.errors import CheckpointError, FileError
from bigpeft.train.folder import RUN
from bigpeft.train.inputs import CARD
from bigpeft.train.metrics import read_rows
from bigpeft.train.progress import BEFORE
from bigpeft.train.status import Status, read_status

_SIGNS = (RUN, "recipe.yaml", "metrics.jsonl", "summary.json", "environment.json")


@dataclass(frozen=True)
class Saved:
    """One checkpoint: `size` in bytes, `damage` None where every file has its hash."""

    step: int
    size: int
    eval_loss: float | None
    damage: str | None


@dataclass(frozen=True)
class Record:
    """One run, as far as its folder tells. What is missing is empty; `unread` names what is broken.

    `rows` are those of metrics.jsonl with a step; `starts` says at which steps the run was started.
    """

    folder: Path
    recipe_text: str
    recipe: dict[str, Any]
    status: Status | None
    steps: int | None
    plan: dict[str, Any]
    forecast: dict[str, Any]
    starts: list[dict[str, Any]]
    rows: list[dict[str, Any]]
    before: dict[str, Any]
    summary: dict[str, Any]
    environment: dict[str, Any]
    card: dict[str, Any]
    evaluation: dict[str, Any]
    samples: list[dict[str, Any]]
    checkpoints: list[Saved]
    log: list[str]
    tracker_errors: dict[str, str]
    unread: list[str]

    @property
    def name(self) -> str:
        """The folder's own name."""
        return self.folder.resolve().name


def read_record(folder: Path) -> Record:
    """Read a run that goes on, is over or has crashed. Raises FileError for what is no run."""
    if not any((folder / sign).exists() for sign in _SIGNS):
        raise FileError(
            str(folder), f"is no run folder (it holds no {RUN})", "name the run.folder of a recipe"
        )
    unread: list[str] = []

    def read(name: str) -> dict[str, Any]:
        return _object(folder / name, unread)

    run = read(RUN)
    status = _status(folder)
    text = _text(folder / "recipe.yaml")
    return Record(
        folder=folder,
        recipe_text=text,
        recipe=_recipe(text, unread),
        status=status,
        steps=run.get("steps"),
        plan=_kind(run.get("plan"), dict),
        forecast=_kind(run.get("forecast"), dict),
        starts=[one for one in _kind(run.get("starts"), list) if isinstance(one, dict)],
        rows=[row for row in _lines(folder / "metrics.jsonl") if isinstance(row.get("step"), int)],
        before=read(BEFORE),
        summary=read("summary.json"),
        environment=read("environment.json"),
        card=read(CARD),
        evaluation=read("eval.json"),
        samples=_lines(folder / "samples.jsonl"),
        checkpoints=_checkpoints(folder / "checkpoints", status),
        log=[line for log in _logs(folder) for line in _text(log).splitlines()],
        tracker_errors={
            path.stem: _text(path).strip() for path in sorted(folder.glob("tracking/*.error"))
        },
        unread=unread,
    )


def _kind(value: Any, kind: type) -> Any:
    """The value, or an empty one where it is of another kind."""
    return value if isinstance(value, kind) else kind()


def _logs(folder: Path) -> list[Path]:
    """Of all ranks, the first rank's first."""
    return [folder / "run.log", *sorted(folder.glob("logs/*.log"))]


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _object(path: Path, unread: list[str]) -> dict[str, Any]:
    text = _text(path)
    try:
        content = json.loads(text) if text else {}
    except ValueError:
        content = None
    if not isinstance(content, dict):
        unread.append(path.name)
        return {}
    return content


def _lines(path: Path) -> list[dict[str, Any]]:
    try:
        return [row for row in read_rows(path) if isinstance(row, dict)]
    except (OSError, UnicodeDecodeError):
        return []


def _recipe(text: str, unread: list[str]) -> dict[str, Any]:
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError:
        content = text
    if content is not None and not isinstance(content, dict):
        unread.append("recipe.yaml")
    return _kind(content, dict)


def _status(folder: Path) -> Status | None:
    try:
        return read_status(folder)
    except (FileError, KeyError, TypeError, UnicodeDecodeError, OSError):
        return None


def _checkpoints(root: Path, status: Status | None) -> list[Saved]:
    """Oldest first. The newest whole one was compared with its hashes for the status."""
    return [
        _saved(path, status is not None and status.checkpoint == path.name)
        for path in by_step(root)
    ]


def _saved(path: Path, verified: bool) -> Saved:
    damage, eval_loss = None, None
    try:
        if not verified:
            verify(path)
        eval_loss = read_meta(path).evaluation.get("eval_loss")
    except CheckpointError as error:
        damage = error.why
    except OSError as error:  # a run that goes on has deleted it meanwhile
        damage = str(error.strerror)
    files = [file for file in path.rglob("*") if file.is_file()]
    return Saved(int(path.name.partition("-")[2]), _size(files), eval_loss, damage)


def _size(files: list[Path]) -> int:
    total = 0
    for file in files:
        try:
            total += file.stat().st_size
        except OSError:
            continue
    return total
