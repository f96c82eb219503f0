"""Weights & Biases; who and where is up to its own variables, such as WANDB_API_KEY, WANDB_MODE."""

import secrets
from collections.abc import Mapping

from bigpeft.trackers.base import Ending, Run, Tracker


class WandB(Tracker):
    """A run of wandb with the recipe as its config; offline it lies in RUN/tracking/wandb."""

    library = extra = "wandb"

    def __init__(self, run: Run) -> None:
        import wandb

        self.identifier = run.identifier or secrets.token_hex(4)
        self._run = wandb.init(
            project=run.project,
            name=run.name,
            id=self.identifier,
            resume="allow",
            dir=run.folder / "tracking",
            config=dict(run.recipe),
            settings=wandb.Settings(console="off", silent=True),
        )

    def log(self, step: int, scalars: Mapping[str, float]) -> None:
        self._run.log(dict(scalars), step=step)

    def close(self, ending: Ending) -> None:
        self._run.finish(exit_code=int(ending == "failed"))
