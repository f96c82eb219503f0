"""Real launches of the documented command. Oracle: the interface that the README promises."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bigpeft.export import read_adapter
from tests.commands import bigpeft, train_script
from tests.worlds import free_port

BIN = Path(sys.executable).parent
TRAIN = ["launch/train.py", "--recipe", "recipes/debug.yaml"]
LAUNCH = [str(BIN / "deepspeed"), "--num_gpus", "2", "--master_port", str(free_port()), *TRAIN]
TORCHRUN = [str(BIN / "torchrun"), "--standalone", "--nproc_per_node", "2", *TRAIN]
ENVIRONMENT = os.environ | {
    "DS_ACCELERATOR": "cpu",
    "OMP_NUM_THREADS": "1",
    "PATH": f"{BIN}:{os.environ['PATH']}",
}


PROMISED_OF_A_STEP = {
    "step",
    "loss",
    "grad_norm",
    "learning_rate",
    "tokens",
    "seconds",
    "memory_bytes",
}
PROMISED_OF_A_RUN = {
    "steps",
    "loss_first",
    "loss_last",
    "seconds",
    "world_size",
    "trainable_parameters",
    "peak_memory_bytes",
    "packed_bytes_total",
    "packed_bytes_shard",
    "packed_bytes_gathered_peak",
}


def metrics(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def launch(*overrides: object, words: list[str] = LAUNCH) -> subprocess.CompletedProcess[str]:
    command = [*words, *map(str, overrides)]
    return subprocess.run(
        command, env=ENVIRONMENT, capture_output=True, text=True, timeout=240, check=False
    )


def everything(done: subprocess.CompletedProcess[str]) -> str:
    return done.stdout + done.stderr


def of_ours(text: str) -> str:
    """What is printed beside the launcher's own lines, which begin with a date."""
    return "\n".join(line for line in text.splitlines() if not line.startswith("["))


def gone(group: int, within: float) -> bool:
    """Whether no process of the group is left, some seconds later at the latest."""
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.2)
    return False


def assert_the_plan_is_printed_and_its_peak_beside_the_measured_one(said: str, folder: Path):
    planned = json.loads((folder / "run.json").read_text())["forecast"]
    sums = {phase: sum(kinds.values()) / 2**20 for phase, kinds in planned.items()}
    assert list(sums) == ["load", "forward", "backward", "step"]
    for phase, mib in sums.items():
        assert re.search(rf"planned for {phase} *{mib:.1f} MiB of tensors on each rank: ", said)
    measured = max(json.loads((folder / "summary.json").read_text())["peak_memory_bytes"])
    readable = f"{measured / 2**30:.2f} GiB" if measured >= 2**30 else f"{measured / 2**20:.1f} MiB"
    assert f"planned {max(sums.values()):.1f} MiB of tensors, measured {readable}" in said


def test_a_run_is_stopped_resumed_and_leaves_what_the_readme_says(tmp_path):
    folder = tmp_path / "run"
    common = (f"run.folder={folder}", "train.steps=4", "checkpoint.every=2")

    stopped = launch(*common, "train.stop_after=2")
    report = (folder / "report.html").read_text()
    (folder / "report.html").unlink()
    (folder / "report.html").mkdir()  # the next one cannot be written
    refused = launch(*common)
    finished = launch(*common, "checkpoint.resume=auto")
    other = launch(f"run.folder={tmp_path}/other", "train.steps=2", words=TORCHRUN)

    assert stopped.returncode == 75, everything(stopped)
    assert refused.returncode == 2
    assert "holds a run already" in everything(refused)
    assert "checkpoint.resume=auto" in everything(refused)
    assert finished.returncode == 0, everything(finished)
    assert "resumed step-000002" in finished.stdout
    assert_the_plan_is_printed_and_its_peak_beside_the_measured_one(finished.stdout, folder)
    assert 'id="checkpoints"' in report
    assert "report.html: cannot be written (Is a directory)" in finished.stdout
    assert len(everything(finished).splitlines()) < 40
    rows = metrics(folder)
    assert other.returncode == 0, everything(other)
    losses = [row["loss"] for row in metrics(tmp_path / "other")]
    assert losses == [row["loss"] for row in rows[:2]]
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert all(set(row) >= PROMISED_OF_A_STEP for row in rows)
    assert "eval_loss" in rows[-1]
    summary = json.loads((folder / "summary.json").read_text())
    assert set(summary) >= PROMISED_OF_A_RUN
    assert (summary["steps"], summary["world_size"]) == (4, 2)
    assert len(summary["peak_memory_bytes"]) == 2
    for name in ("recipe.yaml", "ds_config.json", "environment.json", "run.log"):
        assert (folder / name).stat().st_size
    tensors, described = read_adapter(folder / "adapter")
    assert described["method"]["name"] == "lora"
    assert sum(t.numel() for t in tensors.values()) == summary["trainable_parameters"]


@pytest.mark.parametrize(
    ("override", "word"),
    [
        ("batch.micro_sise=2", "did you mean batch.micro_size"),
        ("model.name=/no/such/model", "/no/such/model"),
        ("method.target_modules=[nothing_proj]", "'nothing_proj' matches no layer"),
        ("data.path=/no/such/rows.jsonl", "/no/such/rows.jsonl"),
    ],
)
def test_a_mistake_is_one_message_without_a_traceback_and_exit_code_2(override, word, tmp_path):
    ranks = train_script(2, *TRAIN[1:], f"run.folder={tmp_path}/run", override)

    assert [done.returncode for done in ranks] == [2, 2]
    said = "".join(map(everything, ranks))
    assert "Traceback" not in said
    assert said.count(word) == 1
    assert "fix:" in said


def test_a_launcher_says_a_mistake_once_and_exits_with_2(tmp_path):
    done = launch(f"run.folder={tmp_path}/run", "batch.micro_sise=2")

    assert done.returncode == 2, everything(done)
    assert "Traceback" not in everything(done)
    assert of_ours(everything(done)).count("did you mean batch.micro_size") == 1


def test_an_interrupted_run_leaves_a_whole_checkpoint_and_no_process(tmp_path):
    folder = tmp_path / "run"
    overrides = (f"run.folder={folder}", "train.steps=100000", "checkpoint.every=3", "eval=null")
    process = subprocess.Popen(
        [*LAUNCH, *overrides],
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    deadline = time.monotonic() + 300
    while not list((folder / "checkpoints").glob("step-*6")) and time.monotonic() < deadline:
        time.sleep(0.2)

    os.killpg(process.pid, signal.SIGINT)
    process.communicate(timeout=60)

    assert gone(process.pid, within=30)
    checkpoints = [p for p in (folder / "checkpoints").glob("step-*") if p.suffix != ".tmp"]
    assert checkpoints
    verify = bigpeft("verify", folder / "checkpoints")
    assert verify.returncode == 0, verify.stdout
    assert process.returncode not in (0, None)


def test_a_run_that_is_told_to_stop_exits_with_75(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "stop").touch()

    ranks = train_script(2, *TRAIN[1:], f"run.folder={folder}", "eval=null")

    said = "".join(map(everything, ranks))
    assert [rank.returncode for rank in ranks] == [75, 75], said
    assert "stopped by a file stop after step 1" in said
    assert "checkpoint.resume=auto goes on" in said


def test_a_mistake_that_is_made_twice_is_told_twice(tmp_path):
    """Without a launcher both processes have one parent, as from a shell."""
    command = [sys.executable, *TRAIN, f"run.folder={tmp_path}/run", "batch.micro_sise=2"]

    for _ in range(2):
        done = subprocess.run(
            command, env=ENVIRONMENT, capture_output=True, text=True, timeout=120, check=False
        )

        assert done.returncode == 2
        assert "did you mean batch.micro_size" in everything(done)
