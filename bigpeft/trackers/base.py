"""What a tracker is: something that is opened for a run, fed with scalars, and closed."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

Ending = Literal["finished", "stopped", "failed"]


@dataclass(frozen=True)
class Run:
    """What a tracker is told: `identifier` is what the tracker called this run when it began.

    `start` steps were made before; what was sent of later ones is sent again.
    """

    folder: Path
    project: str
    name: str
    start: int
    identifier: str | None = None
    recipe: Mapping[str, Any] = field(default_factory=dict)


class Tracker(ABC):
    """Opened by its constructor, in a process of its own. Any exception ends it, and nothing else.

    `library` is the module that has to be there, `extra` what pip installs with bigpeft.
    """

    library: ClassVar[str]
    extra: ClassVar[str]
    identifier: str | None = None
    """Under which the run is found again by the process that goes on with it."""

    @abstractmethod
    def __init__(self, run: Run) -> None: ...

    @abstractmethod
    def log(self, step: int, scalars: Mapping[str, float]) -> None:
        """Numbers of one step, by names such as train/loss."""

    @abstractmethod
    def close(self, ending: Ending) -> None:
        """Send what is left."""
