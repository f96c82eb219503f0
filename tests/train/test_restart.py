"""A crashed command starts again. Oracle: the acts of a stand-in that leaves what a run leaves."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import pytest
import torch

from bigpeft.checkpoint.adapter import write_adapter
from bigpeft.checkpoint.manifest import write_manifest
from bigpeft.errors import FileError, UserError
from bigpeft.train.command import read_command
from bigpeft.train.orphans import Orphans
from bigpeft.train.restart import pause_before, run_to_the_end
from tests.train.runs import DEBUG
from tests.train.stand_in import FINISH, PATIENCE, STEPS, Act

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
    write_manifest(ready / "checkpoint")
    write_adapter(ready / "adapter", {"layer.down": torch.zeros(1)}, {"version": 1})
    return Play(tmp_path / "run")


@pytest.fixture
def send(play) -> Iterator:
    """Sends a signal to this process once a path beside the run folder exists."""
    threads = []
    before = signal.signal(signal.SIGINT, signal.default_int_handler)

    def send(number: int, awaited: str) -> None:
        path = play.folder.parent / awaited
        thread = threading.Thread(target=when, args=(path, lambda: os.kill(os.getpid(), number)))
        threads.append(thread)
        thread.start()

    yield send
    for thread in threads:
        thread.join()
    signal.signal(signal.SIGINT, before)


def when(path: Path, act: Callable[[], None]) -> None:
    until = time.monotonic() + PATIENCE
    while not path.exists() and time.monotonic() < until:
        time.sleep(0.01)
    act()


@pytest.mark.parametrize(
    ("act", "code"),
    [
        (FINISH, 0),
        (Act(code=0), 0),
        (Act(code=2), 2),
        (Act(code=130, steps=2, saved=1), 130),
        (Act(code=-signal.SIGINT, steps=2, saved=1), 130),
        (Act(code=75, steps=2, saved=2), 75),
        (replace(FINISH, code=245), 0),
    ],
    ids=str,
)
def test_what_is_over_for_good_is_not_started_again(act, code, play):
    assert play.of(act, FINISH) == code
    assert len(play.starts()) == 1


@pytest.mark.parametrize(
    ("act", "said"),
    [
        (Act(code=1), "ended with exit code 1; retry 1 of 2 from the beginning in 0.01 s"),
        (Act(code=1, steps=3, saved=2), "exit code 1; retry 1 of 2 from step-000002"),
        (Act(code=1, steps=2, saved=2), "exit code 1; retry 1 of 2 from step-000002"),
        (Act(code=1, steps=STEPS, saved=STEPS), "exit code 1; retry 1 of 2 from step-000004"),
        (Act(code=75), "exit code 75; retry"),
        (Act(code=75, steps=3, saved=2), "exit code 75; retry"),
        (Act(code=247, steps=2), "exit code 247 (SIGKILL); retry"),
        (Act(code=139), "exit code 139 (SIGSEGV); retry"),
        (Act(code=255), "exit code 255; retry"),
        (Act(code=-signal.SIGKILL, steps=2), "the command died of SIGKILL; retry"),
        (Act(code=-signal.SIGTERM, steps=2), "the command died of SIGTERM; retry"),
        (Act(code=0, steps=2, saved=2), "exit code 0 before the run was finished; retry"),
    ],
    ids=str,
)
def test_a_crash_is_told_and_started_again(act, said, play):
    assert play.of(act, FINISH) == 0

    assert len(play.starts()) == 2
    assert len(play.said) == 1
    assert said in play.said[0]


@pytest.mark.parametrize("older", [FINISH, Act(code=75, steps=2, saved=2)], ids=str)
@pytest.mark.parametrize("code", [1, 75])
def test_an_older_run_in_the_folder_does_not_speak_for_a_start_that_fails(older, code, play):
    play.of(older)

    assert play.of(Act(code=code), FINISH) == 0
    assert len(play.starts()) == 2


def test_a_restart_resumes_and_changes_nothing_else(play):
    given = ("checkpoint.resume=never", "train.steps=4")

    play.of(Act(code=1), Act(code=1, steps=2, saved=1), FINISH, more=given)

    again = ["train.steps=4", "checkpoint.resume=auto"]
    assert play.starts() == [list(given), again, again]


def test_a_run_from_another_checkpoint_takes_its_own_as_soon_as_it_has_one(play):
    given = "checkpoint.resume=runs/other/step-000007"

    play.of(Act(code=1), Act(code=1, steps=2, saved=1), FINISH, more=(given,))

    assert play.starts() == [[given], [given], ["checkpoint.resume=auto"]]
    assert "from runs/other/step-000007 in" in play.said[0]
    assert "from step-000001 in" in play.said[1]


@pytest.mark.parametrize(
    ("code", "left"), [(3, 3), (-signal.SIGKILL, 137), (0, 1)], ids=["3", "SIGKILL", "lost"]
)
def test_retries_without_a_new_checkpoint_are_limited(code, left, play):
    assert play.of(*[Act(code=code, steps=2, saved=1)] * 4, FINISH, retries=2) == left

    assert len(play.starts()) == 3
    assert "no retry of 2 is left" in play.said[-1]


def test_a_new_checkpoint_sets_the_count_back(play):
    crashes = [Act(code=1, steps=3, saved=saved) for saved in (1, 2, 2, 3)]

    assert play.of(*crashes, FINISH, retries=2) == 0

    assert [said.partition("retry ")[2][:6] for said in play.said] == [
        "1 of 2",
        "1 of 2",
        "2 of 2",
        "1 of 2",
    ]


def test_pauses_grow_up_to_ten_minutes_or_to_what_was_asked():
    assert [pause_before(retry, 10) for retry in (1, 2, 3, 6, 7, 50)] == [10, 20, 40, 320, 600, 600]
    assert [pause_before(retry, 3600) for retry in (1, 2)] == [3600, 3600]


def test_a_pause_lasts(play):
    started = time.monotonic()

    play.of(Act(code=1), Act(code=1), FINISH, pause=0.3)

    assert time.monotonic() - started > 0.3 + 0.6


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP])
@pytest.mark.parametrize("code", [75, 1, 0], ids=["75", "hidden", "lost"])
def test_a_signal_stops_the_run_by_its_file_and_is_answered_with_75(number, code, play, send):
    send(number, "waiting")

    assert play.of(Act(code=code, waits="stop", steps=2, saved=2), FINISH) == 75
    assert len(play.starts()) == 1
    assert not (play.folder / "stop").exists()


def test_a_run_that_is_told_to_stop_in_its_last_step_is_done(play, send):
    send(signal.SIGTERM, "waiting")

    assert play.of(replace(FINISH, waits="stop")) == 0


def test_a_command_that_crashes_when_told_to_stop_leaves_no_stop_file(play, send):
    send(signal.SIGTERM, "starts.jsonl")
    crash = threading.Thread(target=when, args=(play.folder / "stop", (play.folder / "go").touch))
    crash.start()

    assert play.of(Act(code=1, steps=3, saved=2, waits="go"), FINISH) == 75
    crash.join()
    assert len(play.starts()) == 1
    assert not (play.folder / "stop").exists()
    assert "checkpoint.resume=auto goes on from step-000002" in play.said[-1]


def test_an_interrupt_goes_on_to_the_command(play, send):
    send(signal.SIGINT, "waiting")
    started = time.monotonic()

    assert play.of(Act(waits="never"), FINISH) == 130
    assert len(play.starts()) == 1
    assert time.monotonic() - started < PATIENCE


@pytest.mark.parametrize(("number", "code"), [(signal.SIGUSR1, 75), (signal.SIGINT, 130)])
def test_a_signal_ends_a_pause_at_once(number, code, play, send):
    send(number, "starts.jsonl")
    started = time.monotonic()

    assert play.of(Act(code=1, steps=2, saved=1), FINISH, pause=PATIENCE) == code
    assert len(play.starts()) == 1
    assert time.monotonic() - started < PATIENCE
    assert not (play.folder / "stop").exists()


def test_handlers_of_signals_are_put_back(play):
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]

    play.of(FINISH)

    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before


@pytest.mark.parametrize("kind", ["group", "session"])
def test_ranks_that_outlive_their_launcher_do_not_meet_the_restart(kind, play):
    """The stand-in exits with 2 where the lock is held."""
    assert play.of(Act(code=-signal.SIGKILL, orphan=kind), FINISH) == 0
    assert len(play.starts()) == 2


def test_an_orphan_that_ignores_sigterm_is_killed_and_a_stranger_is_not():
    deaf = (
        "import signal, time; signal.signal(15, signal.SIG_IGN); print(flush=True); time.sleep(60)"
    )
    parent = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {deaf!r}])"
    stranger = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        with Orphans() as orphans:
            process = subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE)
            assert process.stdout is not None
            with process.stdout:
                process.stdout.readline()
                process.wait()
                orphans.end(grace=0.3)
                assert process.stdout.read() == b""  # ends when its last writer has
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


@pytest.mark.parametrize(
    ("words", "overrides"),
    [
        ("python -u launch/train.py --recipe=R run.folder=a", "a"),
        ("env X=1 deepspeed --num_gpus 2 launch/train.py run.folder=b --recipe R eval=null", "b"),
        ("torchrun --nproc_per_node=2 launch/train.py --recipe R", "runs/debug"),
    ],
)
def test_the_recipe_and_its_overrides_are_found_in_a_command(words, overrides):
    command = read_command(words.replace("R", str(DEBUG)).split())

    assert command.folder == Path(overrides)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("deepspeed launch/train.py run.folder=a", "names no --recipe behind a script"),
        ("deepspeed launch/train.py --recipe", "names no --recipe behind a script"),
        ("deepspeed --recipe R", "names no --recipe behind a script"),
        ("deepspeed launch/train.py --recipe recipes/debugg.yaml", "did you mean"),
        ("deepspeed launch/train.py --recipe R run.foldr=a", "did you mean run.folder"),
    ],
)
def test_a_command_without_a_recipe_that_loads_is_refused(words, message):
    with pytest.raises(UserError, match=message):
        read_command(words.replace("R", str(DEBUG)).split())


def test_a_program_that_does_not_exist_is_refused(tmp_path):
    words = ["no-such-launcher", "launch/train.py", "--recipe", str(DEBUG)]
    command = read_command([*words, f"run.folder={tmp_path}/run"])

    with pytest.raises(FileError, match="no-such-launcher: cannot be started"):
        run_to_the_end(command, 2, 0.01, print)
