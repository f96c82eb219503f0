"""The section `checkpoint`."""

from typing import Literal, get_args

from pydantic import Field, create_model

from bigpeft.recipe.section import Section
from bigpeft.recipe.values import Often, PositiveInt

_Changeable = Literal["batch.global_size", "data", "optimizer"]
CHANGEABLE: tuple[str, ...] = get_args(_Changeable)
"""What a run may go on with otherwise than it began, where its recipe says so."""


class _Checkpointing(Section):
    """When to save, how much to keep, whether to go on."""

    every: Often | None = Field(
        None, description="steps between checkpoints, or time: 90s, 30min, 2h"
    )
    keep: PositiveInt = Field(2, description="newest checkpoints to keep")
    keep_best: bool = Field(
        False, description="keep the one with the lowest held-out loss too, of evaluated steps"
    )
    best: str | None = Field(
        None,
        description="keep the best one by another figure of metrics.jsonl, such as "
        "eval_TASK_exact_match",
    )
    export: Literal["last", "best"] = Field(
        "last", description="the adapter at the end: of the last step, or of the best one kept"
    )
    keep_every: PositiveInt | None = Field(
        None, description="keep those whose step is a multiple of this too"
    )
    resume: str = Field("never", description="auto (newest that verifies), never, or a checkpoint")
    changed: tuple[_Changeable, ...] = Field(
        (),
        description="what may differ from the run that is resumed: batch.global_size, data, "
        "optimizer",
    )

    @property
    def best_by(self) -> str | None:
        """The figure that the best checkpoint is kept by."""
        return self.best or ("eval_loss" if self.keep_best else None)

    @property
    def asynchronous(self) -> bool:
        """The key `async`."""
        return bool(getattr(self, "async"))


# `async` is a word of Python, so no class body can declare it.
Checkpointing = create_model(
    "Checkpointing",
    __base__=_Checkpointing,
    __doc__=_Checkpointing.__doc__,
    **{  # type: ignore[call-overload]
        "async": (
            bool,
            Field(False, description="copy the state aside, write it behind the next steps"),
        )
    },
)
