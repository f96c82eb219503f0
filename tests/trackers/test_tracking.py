"""Trackers beside a run. Oracle: what each library's own reader finds of metrics.jsonl."""

import json
import socket
import struct
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from bigpeft.errors import RecipeError, StoppedEarly
from bigpeft.recipe import Tracking as Wanted
from bigpeft.recipe import load_recipe
from bigpeft.train.metrics import MetricsFile, read_rows
from bigpeft.train.tracking import Tracking
from tests.report.folders import row, write_run
from tests.train.runs import DEBUG, column, run

STEPS = 12
LOSSES = {step: row(step)["loss"] for step in range(1, STEPS + 1)}


class Beside:
    """A run that only writes its rows, and the lines said beside it."""

    def __init__(self, folder: Path, name: str, patience: float = 240) -> None:
        self.folder = write_run(folder, steps=0)
        self.said: list[str] = []
        self.metrics = MetricsFile(folder / "metrics.jsonl")
        self._wanted = Wanted(trackers=(name,), project="house", name="first")  # type: ignore[call-arg]
        self._patience = patience

    def make(self, start: int, end: int, error: Exception | None = None) -> None:
        """Steps `start` + 1 to `end`, on top of those that are done."""
        self.metrics.cut(start)
        tracking = Tracking(self._wanted, self.folder, True, self.said.append, self._patience)
        with pytest.MonkeyPatch.context() as patch, tracking:
            patch.setenv("WANDB_MODE", "offline")
            tracking.start(start)
            for step in range(start + 1, end + 1):
                self.metrics.add(row(step))
                tracking.look()
            if error is not None:
                raise error

    @property
    def identifier(self) -> str | None:
        return json.loads(next(self.folder.glob("tracking/*.json")).read_text())["id"]


def interrupted_and_resumed(beside: Beside) -> None:
    """Stopped after step 8, gone on with from the checkpoint of step 6."""
    with pytest.raises(StoppedEarly):
        beside.make(0, 8, StoppedEarly())
    beside.make(6, STEPS)
    assert beside.said == []


def test_tensorboard_shows_a_resumed_run_as_one_curve(tmp_path):
    accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    beside = Beside(tmp_path / "run", "tensorboard")

    interrupted_and_resumed(beside)

    found = accumulators.EventAccumulator(str(beside.folder / "tensorboard"))
    found.Reload()
    points = found.Scalars("train/loss")
    assert {p.step: p.value for p in points} == pytest.approx(LOSSES)
    assert len(points) == STEPS  # nothing twice
    assert [p.step for p in found.Scalars("eval/loss")] == [0, 10]
    assert found.Scalars("train/tokens_per_second")[0].value == 1200


def test_mlflow_goes_on_with_the_same_run(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow", reason="pip install 'bigpeft[mlflow]'")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "store").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    beside = Beside(tmp_path / "run", "mlflow")

    interrupted_and_resumed(beside)

    client = mlflow.MlflowClient(tracking_uri=(tmp_path / "store").as_uri())
    experiment = client.get_experiment_by_name("house")
    (found,) = client.search_runs([experiment.experiment_id])
    assert found.info.run_name == "first"
    assert found.info.status == "FINISHED"
    assert found.data.params["method.rank"] == "4"
    history = client.get_metric_history(found.info.run_id, "train/loss")
    assert {m.step: m.value for m in history} == pytest.approx(LOSSES)


def test_wandb_goes_on_with_the_same_run(tmp_path):
    pytest.importorskip("wandb", reason="pip install 'bigpeft[wandb]'")
    beside = Beside(tmp_path / "run", "wandb")

    interrupted_and_resumed(beside)

    files = sorted((beside.folder / "tracking/wandb").glob("offline-run-*/*.wandb"))
    assert {path.name for path in files} == {f"run-{beside.identifier}.wandb"}
    found = {step: loss for path in files for step, loss in offline_losses(path)}
    assert found == pytest.approx(LOSSES)


def offline_losses(path: Path) -> list[tuple[int, float]]:
    """Step and train/loss of every history record that wandb has kept for its upload."""
    from wandb.proto import wandb_internal_pb2

    found = []
    for data in offline_records(path.read_bytes()):
        record = wandb_internal_pb2.Record.FromString(data)
        items = {(i.key or "/".join(i.nested_key)): i.value_json for i in record.history.item}
        if "train/loss" in items:
            found.append((record.history.step.num, float(items["train/loss"])))
    return found


def offline_records(data: bytes) -> Iterator[bytes]:
    """Records of LevelDB's log format, behind seven bytes of wandb's own."""
    block, at, record = 2**15, 7, b""
    while at + 7 <= len(data):
        if block - at % block < 7:
            at += block - at % block
            continue
        _, length, kind = struct.unpack_from("<IHB", data, at)  # 1 whole, 2 first, 3 inner, 4 last
        record = (record if kind in (3, 4) else b"") + data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):
            yield record


def test_a_tracker_that_cannot_write_is_told_of_once_and_the_run_goes_on(tmp_path):
    beside = Beside(tmp_path / "run", "tensorboard")
    (beside.folder / "tensorboard").write_text("a file where a folder should be")

    beside.make(0, STEPS)

    assert len(read_rows(beside.folder / "metrics.jsonl")) == STEPS
    (line,) = beside.said
    assert line.startswith("tracker tensorboard gave up (FileExistsError")
    assert (beside.folder / "tracking/tensorboard.error").read_text().strip() in line


def test_a_tracker_that_hangs_is_ended_with_all_that_it_has_started(tmp_path, monkeypatch):
    pytest.importorskip("mlflow", reason="pip install 'bigpeft[mlflow]'")
    with socket.create_server(("127.0.0.1", 0)) as deaf:  # takes connections, never answers
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{deaf.getsockname()[1]}")
        beside = Beside(tmp_path / "run", "mlflow", patience=2)
        before = set(psutil.Process().children(recursive=True))
        started = time.monotonic()

        beside.make(0, STEPS)

        assert time.monotonic() - started < 60
    assert beside.said == [
        "tracker mlflow gave up (it did not end within 2 s); the run is no worse"
    ]
    assert set(psutil.Process().children(recursive=True)) <= before


def test_a_missing_library_is_told_before_the_run_starts(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    wanted = load_recipe(DEBUG, ["tracking.trackers=[wandb]"]).tracking

    with pytest.raises(RecipeError, match=r"pip install 'bigpeft\[wandb\]'"):
        Tracking(wanted, tmp_path, True, print)


def test_an_unknown_tracker_is_refused_with_those_that_there_are():
    with pytest.raises(RecipeError, match="is not one of mlflow, tensorboard, wandb"):
        load_recipe(DEBUG, ["tracking.trackers=[neptune]"])


def test_a_real_run_is_followed_over_a_resume(tmp_path):
    accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    wanted = ["train.steps=4", "checkpoint.every=1", "tracking.trackers=[tensorboard]"]

    folder = run(1, tmp_path / "run", *wanted, "train.stop_after=2")
    run(1, folder, *wanted, "checkpoint.resume=auto")

    found = accumulators.EventAccumulator(str(folder / "tensorboard"))
    found.Reload()
    points = found.Scalars("train/loss")
    assert [p.step for p in points] == [1, 2, 3, 4]
    assert [p.value for p in points] == pytest.approx(column(folder, "loss"))
