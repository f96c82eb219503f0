"""Small files by which nodes find out whether a folder is one folder to all of them."""

import fcntl
import os
import time
from contextlib import suppress
from pathlib import Path

from bigpeft.doctor.facts import nearest

FIRST, SECOND = "first", "second"


class Mark:
    """One node's file in a folder, or in the nearest one above it that exists."""

    def __init__(self, folder: Path, token: str, host: str) -> None:
        self._folder, self._token = nearest(folder), token
        self._file = self._named(host)

    def _named(self, host: str) -> Path:
        return self._folder / f".bigpeft-doctor-{self._token}-{host}"

    def write(self, text: str) -> str:
        """Rename a new file over the mark. Returns why that fails, or nothing."""
        new = self._file.with_name(f"{self._file.name}.new")
        try:
            with new.open("w") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            new.replace(self._file)
        except OSError as error:
            with suppress(OSError):
                new.unlink()
            return error.strerror or str(error)
        return ""

    def look(self, hosts: dict[str, str], patience: float) -> dict[str, str]:
        """What the hosts' marks say, once that is what is expected or `patience` seconds passed."""
        end = time.monotonic() + patience
        while True:
            seen = {host: self._read(host) for host in hosts}
            if seen == hosts or time.monotonic() > end:
                return seen
            time.sleep(0.2)

    def _read(self, host: str) -> str:
        try:
            return self._named(host).read_text()
        except OSError:
            return ""

    def remove(self) -> None:
        """Leave the folder as it was."""
        with suppress(OSError):
            self._file.unlink()
