"""A run, from recipe to adapter: the story of the whole program on one page."""

import time
from dataclasses import dataclass
from pathlib import Path

from bigpeft.checkpoint import find_together
from bigpeft.checkpoint.engine import Engine
from bigpeft.errors import StoppedEarly
from bigpeft.placement import Trained
from bigpeft.plan import Plan, make_plan
from bigpeft.recipe import Recipe
from bigpeft.train.adapters import Adapters
from bigpeft.train.alike import refuse_unlike_ranks
from bigpeft.train.backbone import Backbone, load_backbone, open_backbone
from bigpeft.train.due import SaveTimes
from bigpeft.train.engine import build_engine, join_processes, set_learning_rate
from bigpeft.train.expected import expect
from bigpeft.train.folder import describe_run, end_at, open_run
from bigpeft.train.inputs import read_inputs
from bigpeft.train.judge import Judge
from bigpeft.train.kept_apart import refuse_leaks
from bigpeft.train.nvme import refuse_missing_nvme
from bigpeft.train.pace import Pace
from bigpeft.train.progress import Progress, total_steps
from bigpeft.train.saving import Position, Saver
from bigpeft.train.schedule import Schedule
from bigpeft.train.source import MicroBatches, make_batches
from bigpeft.train.start_from import start_from
from bigpeft.train.step import train_step
from bigpeft.train.stops import Stops
from bigpeft.train.terminal import Terminal, log_of
from bigpeft.train.tracking import Tracking
from bigpeft.train.watch import Watch
from bigpeft.world import World


@dataclass(frozen=True)
class Finished:
    """A run at its end, for whoever gives its result away."""

    plan: Plan
    engine: Engine
    backbone: Backbone

    @property
    def trained(self) -> list[Trained]:
        """What was trained, in a stable order."""
        return self.backbone.trained


def train(recipe: Recipe, world: World, terminal: Terminal, watch: Watch | None = None) -> Finished:
    """Run a recipe to its end. Raises UserError, or StoppedEarly after a save.

    `watch` ends all ranks when one cannot go on; without it they wait as long as torch does.
    """
    plan = make_plan(recipe, world)
    folder = Path(recipe.run.folder)
    with (
        open_run(folder, recipe.checkpoint.resume != "never", world),
        Tracking(recipe.tracking, folder, world.is_first, terminal.say) as tracking,
    ):
        return _train(plan, folder, terminal, tracking, watch or Watch(World(), terminal))


def _train(
    plan: Plan, folder: Path, terminal: Terminal, tracking: Tracking, watch: Watch
) -> Finished:
    recipe, world, pulse = plan.recipe, plan.world, watch.pulse
    terminal.send_notices_to(log_of(folder, world.rank))
    refuse_missing_nvme(plan)
    device = join_processes(world, recipe.train.timeout)
    refuse_unlike_ranks(plan, folder)
    watch.start(folder, recipe.train.timeout)
    pulse.begins("opening the weights, reading the rows", lasts=True)
    weights = open_backbone(plan, terminal.say)
    inputs = read_inputs(plan, folder, terminal.say, terminal.bars)
    pulse.begins("finding the checkpoint to start from")
    found = find_together(folder / "checkpoints", recipe.checkpoint.resume, terminal.say)
    start = Position.of(found)
    batches = make_batches(inputs, plan, start)
    done, steps = start.step, total_steps(recipe, len(batches), start)
    terminal.say(describe(plan, batches, steps))
    expected = expect(plan, terminal.say) if world.is_first else None
    if world.is_first:
        describe_run(folder, plan, steps, done, expected)

    pulse.begins("loading weights")
    backbone = load_backbone(plan, weights, device, pulse.moved)
    pulse.counts(lambda: backbone.stopwatch.count)
    pulse.begins("getting ready for the first step")
    engine = build_engine(plan.model, backbone.trained, plan)
    start_from(plan, engine, backbone, found is not None, terminal.say)
    saver = Saver(folder / "checkpoints", plan, engine, backbone, found, terminal.say)
    if recipe.data.packing:
        refuse_leaks(engine, plan)
    coming = batches.of_steps(range(done, steps))
    schedule = Schedule.of(recipe.optimizer, steps)
    adapters = Adapters(plan.seated, engine, steps)
    for remark in (*backbone.remarks(), *adapters.remarks()):
        terminal.say(remark)
    progress = Progress(folder, terminal, engine, backbone.meter, steps, done)
    pace = Pace(backbone.stopwatch, world, device)
    tracking.start(done)
    judge = Judge(plan, engine, inputs, folder, done)
    if not done:
        pulse.begins("the evaluation before the first step")
        progress.before(judge.before())

    save_times = SaveTimes(recipe.checkpoint.every, device)
    with Stops(folder, device) as stops:
        for step in range(done, done if judge.is_satisfied else steps):
            pulse.begins(f"step {step + 1}")
            started = time.monotonic()
            micro_batches = next(coming)
            waited = time.monotonic() - started
            rate = set_learning_rate(engine, schedule.factor(step))
            with backbone.meter.watch_if(step - done < 2):
                record = train_step(engine, adapters, micro_batches, step + 1)
            seconds = time.monotonic() - started
            adapters.after_step(step + 1)
            slowest = pace.of_step()
            pulse.begins(f"what follows step {step + 1}")
            result = judge.after(step + 1, last=step + 1 == steps)
            last = step + 1 == steps or judge.is_satisfied
            progress.after(step + 1, record, rate, seconds, waited, slowest, result)
            tracking.look()
            told = stops.agreed()
            stopping = (told is not None or step + 1 == recipe.train.stop_after) and not last
            if save_times.due(step + 1) or stopping or last:
                pulse.begins(f"saving step {step + 1}")
                saver.save(step + 1, result, batches.position)
                save_times.saved()
            saver.look()
            if stopping:
                saver.finish()
                progress.finish()
                by = f" by {told}" if told else ""
                raise StoppedEarly(f"stopped{by} after step {step + 1} of {steps}")
            if last:
                break

    pulse.begins("what follows the last step")
    saver.finish()
    judge.finish()
    if judge.is_satisfied:
        terminal.say(f"{judge.reason}: the run ends")
        end_at(folder, world)
    saver.restore_what_is_exported()
    progress.summarise(plan, expected)
    return Finished(plan, engine, backbone)


def _places(plan: Plan) -> str:
    seats = list(plan.seated)
    return f"{len(seats)} linears" if len(seats) > 1 else f"{seats[0]}"


def describe(plan: Plan, batches: MicroBatches, steps: int) -> str:
    """Three lines before the start: what is trained, on what, over which sharding."""
    recipe, held = plan.recipe, plan.held
    kind = plan.model.config.model_type
    why = f" ({plan.group_reason})" if recipe.sharding.group == "auto" else ""
    why += f" and once more by {plan.second_copy}" if plan.second_copy else ""
    return (
        f"{recipe.model.name or kind}: {recipe.method.name} on {_places(plan)}, "
        f"{plan.trainable:,} numbers trained, {plan.precision}\n"
        f"{batches}, {steps} steps of {recipe.batch.global_size} = "
        f"{recipe.batch.micro_size} × {plan.accumulation_steps} accumulation × "
        f"{plan.world.size} ranks\n"
        f"ZeRO-{plan.stage}, backbone {recipe.model.weights} shared by {plan.group_size}{why}: "
        f"{held.packed / 2**20:.1f} of {held.packed_total / 2**20:.1f} MiB packed on each rank, "
        f"{held.sum / 2**20:.1f} MiB held in all"
    )
