"""A folder that several processes want and one of them makes."""

import fcntl
from collections.abc import Callable
from pathlib import Path

from bigpeft.errors import FileError


def made_once(folder: Path, make: Callable[[], object], say: Callable[[str], None]) -> Path:
    """`folder`, made by whichever process comes first; the others wait at a lock, outside of any
    collective. A process that dies gives the lock away. Raises what `make` raises.
    """
    if folder.is_dir():
        return folder
    lock = folder.with_name(folder.name + ".lock")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with lock.open("w") as file:
            _wait_for(file.fileno(), folder, say)
            if not folder.is_dir():
                make()
    except OSError as error:
        raise FileError(
            str(folder), f"cannot be made ({error.strerror or error})", "choose another folder"
        ) from error
    return folder


def _wait_for(descriptor: int, folder: Path, say: Callable[[str], None]) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        say(f"waiting for another process that makes {folder}")
        fcntl.flock(descriptor, fcntl.LOCK_EX)
