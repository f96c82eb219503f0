"""What an exit code tells of a death by a signal, in the three ways that it is written.

Python says -9 of its child, shells say 137, and DeepSpeed's launcher says 247 (256 - 9) of a rank.
"""

import signal
from contextlib import suppress

from bigpeft.errors import EXIT_DONE

_FAILED = 255
"""Of ssh and of sys.exit(-1), not of the signal 1."""


def ending(code: int) -> str:
    """The rest of a sentence about what crashed: `ended with exit code 247 (SIGKILL)`."""
    if code == EXIT_DONE:
        return "ended with exit code 0 before the run was finished"
    if code < 0:
        return f"died of {_name(-code)}"
    name = None
    if 128 < code < _FAILED:
        name = _name(256 - code if code > 192 else code - 128)
    return f"ended with exit code {code}" + (f" ({name})" if name else "")


def code_of_shells(code: int) -> int:
    """137 for -9, any other as it is."""
    return 128 - code if code < 0 else code


def _name(number: int) -> str | None:
    with suppress(ValueError):
        return signal.Signals(number).name
    return None
