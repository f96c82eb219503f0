"""When ranks fail together, one of them speaks: the first."""

import os
import tempfile
import time
from pathlib import Path

from bigpeft.world import World

_RECENT = 120.0
TIME_TO_SPEAK = 2.0


def speaks_first(world: World) -> bool:
    """Whether this rank is the first of its node to fail in this launch.

    The others wait until it has spoken: the launcher ends all ranks at the first exit. Where there
    are many nodes the next launch has the same name, but other parents of its ranks.
    """
    if world.size == 1:
        return True
    launch = f"{world.launch}-{os.environ.get('MASTER_PORT', '')}-{os.getppid()}"
    name = f"bigpeft-{os.getuid()}-{launch}.failed"
    claim = Path(tempfile.gettempdir()) / name
    if _is_old(claim):
        claim.unlink(missing_ok=True)
    try:
        os.close(os.open(claim, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except FileExistsError:
        time.sleep(TIME_TO_SPEAK)
        return False
    return True


def _is_old(claim: Path) -> bool:
    """Left by an earlier launch whose parent had the same process id."""
    try:
        return time.time() - claim.stat().st_mtime > _RECENT
    except FileNotFoundError:
        return False
