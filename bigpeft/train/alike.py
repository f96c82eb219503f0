"""Whether all ranks run the same program in one run folder, asked before weights are read."""

import hashlib
import platform
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from bigpeft.errors import FileError, RecipeError, UserError
from bigpeft.plan import Plan
from bigpeft.recipe import dump_recipe
from bigpeft.train.folder import versions
from bigpeft.train.meeting import meet
from bigpeft.train.program import digest_of_code
from bigpeft.world import World

_APPEARS = 15  # seconds that a shared folder may take to show a new file
_NONE = "none"
_DOCTOR = "bigpeft doctor --hostfile FILE examines all nodes"


@dataclass(frozen=True)
class Ran:
    """What one rank runs, and where. `versions` by package; digests of bigpeft's own files and of
    the recipe with its overrides.
    """

    host: str
    local_size: int
    versions: dict[str, str]
    code: str
    recipe: str


def refuse_unlike_ranks(plan: Plan, folder: Path) -> None:
    """Raises UserError on every rank, naming the hosts that differ from the first rank's or do not
    share its run folder. Collective over all ranks.
    """
    world = plan.world
    if world.size == 1:
        return
    with _mark(folder, world) as mark:
        marks, ran = zip(*meet((mark, _of_this_rank(plan)), world), strict=True)
        refuse_unlike(ran)
        sees = meet(_appears(folder / marks[0]), world)
    apart = dict.fromkeys(each.host for each, seen in zip(ran, sees, strict=True) if not seen)
    if apart:
        raise FileError(
            f"run.folder: {folder}",
            f"is not shared: {', '.join(apart)} does not see what {ran[0].host} writes there",
            "mount the same disk at the same path on every node, or choose a run.folder on one; "
            + _DOCTOR,
        )


def refuse_unlike(ran: Sequence[Ran]) -> None:
    """Raises UserError for the first host that differs from the first rank's."""
    first = ran[0]
    for other in ran[1:]:
        if differing := _versions(other, first):
            raise UserError(
                f"host {other.host}",
                f"has {differing}",
                f"install the versions of {first.host} there; {_DOCTOR}",
            )
        if other.code != first.code:
            raise UserError(
                f"host {other.host}",
                f"has other files of bigpeft than {first.host} ({other.code}, {first.code})",
                "bring all nodes to the same commit, or run from a folder that they share; "
                + _DOCTOR,
            )
        if other.recipe != first.recipe:
            raise RecipeError(
                "recipe",
                f"is another one on {other.host} than on {first.host}",
                "copy the same file to every node, or use a folder that all nodes see",
            )
        if other.local_size != first.local_size:
            raise UserError(
                f"host {other.host}",
                f"runs {other.local_size} ranks where {first.host} runs {first.local_size}",
                "give every node the same number of ranks: slots=N in a hostfile, "
                "--ntasks-per-node for srun",
            )


def _of_this_rank(plan: Plan) -> Ran:
    return Ran(
        host=plan.world.host,
        local_size=plan.world.local_size,
        versions={"python": platform.python_version(), **versions()},
        code=_code(),
        recipe=hashlib.sha256(dump_recipe(plan.recipe).encode()).hexdigest(),
    )


@cache
def _code() -> str:
    return digest_of_code()


def _versions(other: Ran, first: Ran) -> str:
    return "; ".join(
        f"{name} {other.versions.get(name, _NONE)} where {first.host} has {version}"
        for name, version in first.versions.items()
        if version != other.versions.get(name, _NONE)
    )


@contextmanager
def _mark(folder: Path, world: World) -> Iterator[str]:
    """The name of a new file of the first rank's, which is there as long as the with statement
    lasts.
    """
    name = f".nodes-{uuid.uuid4().hex[:8]}"
    if not world.is_first:
        yield name
        return
    (folder / name).touch()
    try:
        yield name
    finally:
        (folder / name).unlink(missing_ok=True)


def _appears(file: Path) -> bool:
    end = time.monotonic() + _APPEARS
    while not file.exists():
        if time.monotonic() > end:
            return False
        time.sleep(0.1)
    return True
