"""Signals to a guarded command, and what it leaves alive. Oracle: the acts of the stand-in."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from bigpeft.train.orphans import Orphans
from tests.train.stand_in import FINISH, PATIENCE, Act


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
