"""MLflow; the server is that of its own variable MLFLOW_TRACKING_URI."""

from collections.abc import Iterator, Mapping
from typing import Any

from bigpeft.trackers.base import Ending, Run, Tracker

_STATUS = {"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}
_LONGEST = 500
_AT_ONCE = 100


class MLflow(Tracker):
    """A run of mlflow in the experiment of the project, with the recipe's keys as parameters."""

    library = extra = "mlflow"

    def __init__(self, run: Run) -> None:
        import mlflow

        self._mlflow = mlflow
        mlflow.set_experiment(run.project)
        active = mlflow.start_run(run_id=run.identifier, run_name=run.name)
        self.identifier = active.info.run_id
        if run.identifier is None:  # a parameter cannot be written twice
            said = [(key, str(value)[:_LONGEST]) for key, value in _flat(run.recipe)]
            for start in range(0, len(said), _AT_ONCE):
                mlflow.log_params(dict(said[start : start + _AT_ONCE]))

    def log(self, step: int, scalars: Mapping[str, float]) -> None:
        self._mlflow.log_metrics(dict(scalars), step=step)

    def close(self, ending: Ending) -> None:
        self._mlflow.end_run(_STATUS[ending])


def _flat(recipe: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in recipe.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value
