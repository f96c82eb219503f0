"""A command that leaves what a run leaves, in no time. Each start plays the next of its acts.

    python tests/train/stand_in.py --recipe R run.folder=F [section.key=value ...]

Beside F are acts.json, a list of `Act` as objects, and ready/, what to copy from. Each start adds
its arguments to starts.jsonl; `waiting` there says that an act waits.
"""

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

STEPS = 4
PATIENCE = 30.0
ORPHAN = """
import fcntl, sys, time
lock = open(sys.argv[1], "a")
fcntl.flock(lock, fcntl.LOCK_EX)
open(sys.argv[2], "w")
time.sleep(30)
"""


@dataclass(frozen=True)
class Act:
    """What one start does: steps done and saved, whether it gives its adapter, how it ends.

    A `code` below 0 is a signal to itself. `waits` for its stop file, or for a signal; an `orphan`,
    in its process group or in a session of its own, holds the lock of the folder.
    """

    code: int = 0
    steps: int = 0
    saved: int = 0
    adapter: bool = False
    waits: str = ""
    orphan: str = ""


FINISH = Act(steps=STEPS, saved=STEPS, adapter=True)


def main() -> None:
    given = next(word for word in sys.argv if word.startswith("run.folder="))
    folder = Path(given.partition("=")[2])
    beside = folder.parent
    with (beside / "starts.jsonl").open("a") as starts:
        starts.write(json.dumps(sys.argv[1:]) + "\n")
    started = len((beside / "starts.jsonl").read_text().splitlines())
    act = Act(**json.loads((beside / "acts.json").read_text())[started - 1])

    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            sys.exit(2)
    wait(act.waits, folder)
    leave(act, folder)
    if act.orphan:
        ready = beside / "orphan"
        words = [sys.executable, "-c", ORPHAN, str(folder / "lock"), str(ready)]
        subprocess.Popen(words, start_new_session=act.orphan == "session")
        wait_for(ready)
    if act.code < 0:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), -act.code)
    sys.exit(act.code)


def wait(what: str, folder: Path) -> None:
    if not what:
        return
    try:
        (folder.parent / "waiting").touch()
        wait_for(folder / what)
    except KeyboardInterrupt:
        sys.exit(130)
    (folder / what).unlink()


def wait_for(path: Path) -> None:
    until = time.monotonic() + PATIENCE
    while not path.exists():
        if time.monotonic() > until:
            sys.exit(99)
        time.sleep(0.01)


def leave(act: Act, folder: Path) -> None:
    ready = folder.parent / "ready"
    if act.steps:
        shutil.copy(ready / "run.json", folder)
        rows = [
            json.dumps({"step": n, "loss": 0.5, "seconds": 0.1}) for n in range(1, act.steps + 1)
        ]
        (folder / "metrics.jsonl").write_text("\n".join(rows) + "\n")
    if act.saved:
        name = f"checkpoints/step-{act.saved:06d}"
        shutil.copytree(ready / "checkpoint", folder / name, dirs_exist_ok=True)
    if act.adapter:
        shutil.copytree(
            ready / "adapter", folder / "adapter", dirs_exist_ok=True, copy_function=shutil.copyfile
        )


if __name__ == "__main__":
    main()
