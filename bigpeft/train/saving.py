"""Checkpoints of a run: what identifies it, when it goes on, where it stands."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from bigpeft.checkpoint import Keep, Meta, load, loss_scale, read_meta, save, updates_done
from bigpeft.checkpoint.engine import Engine
from bigpeft.checkpoint.state import whole_shape
from bigpeft.placement import evolving
from bigpeft.plan import Plan
from bigpeft.train.backbone import Backbone
from bigpeft.train.evaluate import Result


class Saver:
    """Saves and resumes one run."""

    def __init__(self, root: Path, plan: Plan, engine: Engine, backbone: Backbone) -> None:
        self._root, self._plan, self._engine = root, plan, engine
        self._backbone, self._trained = backbone, backbone.trained
        self._state = evolving(plan.seated)

    def save(self, step: int, result: Result | None, say: Callable[[str], None]) -> None:
        """Write the checkpoint of this step, evaluated or not, all ranks together."""
        wanted = self._plan.recipe.checkpoint
        keep = Keep(wanted.keep, wanted.keep_best, wanted.keep_every)
        meta = replace(self._meta(step), eval_loss=result.eval_loss if result else None)
        save(self._root, self._engine, self._trained, self._state, meta, keep, say)

    def resume(self, found: Path | None, say: Callable[[str], None]) -> int:
        """Restore what was found; returns the steps already done, 0 for a fresh run."""
        if found is None:
            return 0
        meta = read_meta(found)
        meta.refuse_another_run(str(found), self._meta(meta.step))
        load(found, self._engine, self._trained, self._state)
        say(f"resumed {found.name}, saved by {meta.world_size} ranks")
        return meta.step

    def _meta(self, step: int) -> Meta:
        return Meta(
            step=step,
            updates=updates_done(self._engine),
            world_size=self._plan.world.size,
            identity=identity(self._plan, self._backbone.started_from),
            base=self._backbone.base.as_json(),
            parameters={t.name: list(whole_shape(t.parameter)) for t in self._trained},
            loss_scale=loss_scale(self._engine),
        )


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
        "data": recipe.data.model_dump(mode="json"),
        "batch.global_size": recipe.batch.global_size,
        "optimizer": recipe.optimizer.model_dump(mode="json"),
        "run.seed": recipe.run.seed,
        "precision": plan.precision,
    }
