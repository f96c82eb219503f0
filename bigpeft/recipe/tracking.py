"""The tracking section: services that show the curves of many runs."""

from typing import Annotated

from pydantic import Field

from bigpeft.recipe.section import Section
from bigpeft.recipe.values import one_of
from bigpeft.trackers import trackers

_NAMES = sorted(trackers())


class Tracking(Section):
    """Services that show the curves of many runs, each an extra of its own (report.md)."""

    trackers: tuple[Annotated[str, one_of(_NAMES)], ...] = Field(
        (), description="any of tensorboard, wandb and mlflow"
    )
    project: str = Field("bigpeft", description="project of wandb, experiment of mlflow")
    name: str | None = Field(None, description="of this run; default: that of the run folder")
