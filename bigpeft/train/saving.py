"""Checkpoints of a run: what identifies it, when it goes on, where it stands."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from bigpeft.checkpoint import (
    Keep,
    Meta,
    Writer,
    before_updates,
    best_together,
    load,
    loss_scale,
    read_meta,
    take_snapshot,
    updates_done,
)
from bigpeft.checkpoint.engine import Engine
from bigpeft.checkpoint.state import whole_shape
from bigpeft.data import Place
from bigpeft.placement import evolving
from bigpeft.plan import Plan
from bigpeft.train.backbone import Backbone
from bigpeft.train.evaluation import Result
from bigpeft.train.folder import versions


@dataclass(frozen=True)
class InStream:
    """Where rows come from next: what is left of the window that begins at `place`."""

    place: Place = field(default_factory=Place)
    used: int = 0


@dataclass(frozen=True)
class Position:
    """Optimizer steps done, and rows of the data seen in them; where in a stream that is."""

    step: int = 0
    rows: int = 0
    stream: InStream | None = None

    @classmethod
    def of(cls, checkpoint: Path | None) -> "Position":
        """Where a run stands that goes on from this checkpoint, or begins."""
        if checkpoint is None:
            return cls()
        meta = read_meta(checkpoint)
        if meta.stream is None:
            return cls(meta.step, meta.rows)
        stream = InStream(Place(**meta.stream["place"]), meta.stream["used"])
        return cls(meta.step, meta.rows, stream)

    def rows_before(self, step: int, size: int) -> int:
        """Rows seen before step `step` (from 0), `size` of them in each step from here on."""
        return self.rows + (step - self.step) * size


class Saver:
    """Saves and resumes one run; all calls are collective over all ranks.

    `found` is the checkpoint that it goes on from. Raises CheckpointError for one of another run,
    and where the disk does not take a checkpoint.
    """

    def __init__(
        self,
        root: Path,
        plan: Plan,
        engine: Engine,
        backbone: Backbone,
        found: Path | None,
        say: Callable[[str], None],
    ) -> None:
        self._plan, self._engine, self._backbone = plan, engine, backbone
        self._root, self._say = root, say
        self._start, self._state = Position.of(found), evolving(plan.seated)
        wanted = plan.recipe.checkpoint
        if found is not None:
            saved = read_meta(found)
            saved.refuse_another_run(str(found), self._meta(saved.step), wanted.changed)
            load(found, engine, backbone.trained, self._state)
            say(f"resumed {found.name}, saved by {saved.world_size} ranks")
        keep = Keep(wanted.keep, wanted.best_by, wanted.keep_every)
        self._writer = Writer(root, keep, wanted.asynchronous, say)
        before_updates(engine, self._writer.wait_for_copies)

    def save(self, step: int, result: Result | None, stream: InStream | None) -> None:
        """Write the checkpoint of this step, evaluated or not, now or behind the next steps."""
        self._writer.wait()
        meta = replace(
            self._meta(step),
            evaluation=result.as_metrics() if result else {},
            stream=stream and asdict(stream),
        )
        trained = self._backbone.trained
        self._writer.write(take_snapshot(self._engine, trained, self._state, meta))

    def restore_what_is_exported(self) -> None:
        """Put the best checkpoint's numbers back where the recipe wants the best adapter."""
        wanted = self._plan.recipe.checkpoint
        if wanted.export != "best" or wanted.best_by is None:
            return
        best = best_together(self._root, wanted.best_by)
        if best is None:
            self._say("no checkpoint was evaluated: the adapter is that of the last step")
            return
        load(best, self._engine, self._backbone.trained, self._state)
        self._say(f"the adapter is that of {best.name}, the best by {wanted.best_by}")

    def look(self) -> None:
        """Tell of a save behind the training that has failed."""
        self._writer.look()

    def finish(self) -> None:
        """Once everything is on disk."""
        self._writer.finish()

    def _meta(self, step: int) -> Meta:
        size = self._plan.recipe.batch.global_size
        return Meta(
            step=step,
            rows=self._start.rows_before(step, size),
            updates=updates_done(self._engine),
            world_size=self._plan.world.size,
            identity=identity(self._plan, self._backbone.started_from),
            base=self._backbone.base.as_json(),
            parameters={t.name: list(whole_shape(t.parameter)) for t in self._backbone.trained},
            loss_scale=loss_scale(self._engine),
            recipe=self._plan.recipe.model_dump(mode="json"),
            plan=told(self._plan),
            versions=versions(),
        )


def told(plan: Plan) -> dict[str, object]:
    """How the plan spread the run over its ranks."""
    return {
        "world": asdict(plan.world),
        "stage": plan.stage,
        "group_size": plan.group_size,
        "accumulation_steps": plan.accumulation_steps,
        "precision": plan.precision,
    }


def identity(plan: Plan, started_from: str) -> dict[str, object]:
    """What must not change when a run goes on. World, stage, micro-batch and folders may."""
    recipe = plan.recipe
    return {
        "model": recipe.model.model_dump(
            mode="json", exclude={"name", "tokenizer", "revision", "cache"}
        ),
        "started_from": started_from,
        "method": recipe.method.model_dump(mode="json", exclude={"start_from"}),
        "mpc": recipe.mpc and recipe.mpc.model_dump(mode="json"),
        "data": recipe.data.model_dump(mode="json", exclude={"workers", "cache"}),
        "batch.global_size": recipe.batch.global_size,
        "optimizer": recipe.optimizer.model_dump(mode="json"),
        "run.seed": recipe.run.seed,
        "precision": plan.precision,
    }
