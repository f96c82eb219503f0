"""The doctor's side of a talk with one node, over ssh or with this machine."""

import json
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from bigpeft.doctor.environment import on_node

_CONNECT = 10  # seconds
_ANSWER = 90.0  # a node may import torch from a slow disk, or wait for a shared folder
_SSH = ["ssh", "-o", "BatchMode=yes", "-o", f"ConnectTimeout={_CONNECT}"]


class Silent(Exception):
    """A node that does not answer; says why. `code` is the exit code of its process."""

    def __init__(self, why: str, code: int | None) -> None:
        super().__init__(why)
        self.code = code


@dataclass(frozen=True)
class Clock:
    """Seconds that a node's clock is ahead of this machine's, give or take `within`."""

    ahead: float
    within: float


class Talk:
    """One process on a node that answers until it is closed. `host` None is this machine."""

    def __init__(self, host: str | None, asked: dict[str, Any]) -> None:
        command = [sys.executable, "-m", "bigpeft.doctor.node", json.dumps(asked)]
        self._notices = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115  as long as the process
        self._process = subprocess.Popen(
            command if host is None else [*_SSH, host, on_node(command)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._notices,
            text=True,
        )

    def hear(self) -> dict[str, Any]:
        """The next answer. Raises Silent where there is none."""
        out = self._process.stdout
        assert out is not None
        patience = threading.Timer(_ANSWER, self._process.kill)
        patience.start()
        try:
            for line in out:  # a login shell may print a greeting first
                if line.startswith("{"):
                    return json.loads(line)
            late = not patience.is_alive()
        finally:
            patience.cancel()
        code = self._process.wait()
        self._notices.seek(0)
        lines = [line.strip() for line in self._notices if line.strip()]
        said = f"gave no answer in {_ANSWER:.0f} s" if late else (lines or ["said nothing"])[-1]
        raise Silent(said, None if late else code)

    def tell(self, **question: Any) -> None:
        """Put one question, so that many nodes can think at once; `hear` has the answer."""
        pipe = self._process.stdin
        assert pipe is not None
        with suppress(OSError):  # `hear` says why
            pipe.write(json.dumps(question) + "\n")
            pipe.flush()

    def ask(self, **question: Any) -> dict[str, Any]:
        """One question, one answer. Raises Silent."""
        self.tell(**question)
        return self.hear()

    def clock(self) -> Clock:
        """From the quickest of a few answers."""
        clocks = []
        for _ in range(5):
            before = time.time()
            there = self.ask()["time"]
            after = time.time()
            clocks.append(Clock(there - (before + after) / 2, (after - before) / 2))
        return min(clocks, key=lambda clock: clock.within)

    def close(self) -> None:
        """The node removes its mark and ends."""
        if self._process.stdin:
            self._process.stdin.close()
        try:
            self._process.wait(_CONNECT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout:
            self._process.stdout.close()
        self._notices.close()
