"""bigpeft eval: held-out rows, judged by a run's adapter or by a model alone."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from bigpeft.cli.harness import Asked, answer, show
from bigpeft.cli.ranks import on_all_ranks
from bigpeft.errors import RecipeError

if TYPE_CHECKING:
    from bigpeft.train.evaluation import Result


def evaluate(
    place: Annotated[Path, typer.Argument(metavar="RUN|MODEL", help="run or model folder")],
    overrides: Annotated[list[str] | None, typer.Argument(help="section.key=value ...")] = None,
    recipe: Annotated[
        Path | None,
        typer.Option(help="recipe whose data and eval sections hold; default: the run's own"),
    ] = None,
    task: Annotated[list[str] | None, typer.Option(help="only this one; may be repeated")] = None,
    harness: Annotated[
        list[str] | None,
        typer.Option(metavar="TASK", help="instead: a task of lm-evaluation-harness; repeatable"),
    ] = None,
    harness_tasks: Annotated[
        Path | None, typer.Option(metavar="DIR", help="--harness: a folder with more tasks in YAML")
    ] = None,
    shots: Annotated[
        int | None, typer.Option(min=0, help="--harness: solved examples before each question")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="--harness: only the first rows of each task")
    ] = None,
    max_length: Annotated[
        int | None, typer.Option(min=2, help="--harness: tokens that the model is shown at most")
    ] = None,
    chat: Annotated[
        bool, typer.Option("--chat", help="--harness: ask through the chat template")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object")] = False,
) -> None:
    """Measure what the eval section asks for, or tasks of lm-evaluation-harness. Sharded over
    ranks: deepspeed --num_gpus N --no_local_rank --module bigpeft eval RUN
    """
    with on_all_ranks() as (world, terminal):
        asked = Asked(tuple(harness or ()), harness_tasks, shots, limit, max_length, chat)
        asked.check(beside_task=bool(task))
        from bigpeft.recipe import load_recipe
        from bigpeft.train.evaluation import evaluate as judged
        from bigpeft.train.evaluation.read import read_tasks
        from bigpeft.train.reopen import recipe_of, reopen

        wanted = recipe_of(place, world)
        if recipe is not None or overrides:
            source = recipe or place / "recipe.yaml"
            other = load_recipe(source, overrides or [])
            folder = {"folder": other.run.folder if recipe else str(place)}
            wanted = wanted.model_copy(
                update={
                    "data": other.data,
                    "eval": other.eval,
                    "run": other.run.model_copy(update=folder),
                }
            )
        quiet = (lambda _: None) if as_json else terminal.say
        if asked.names:
            scores = answer(asked, wanted, place, world, quiet)
            show(scores, terminal, as_json)
            return
        if wanted.eval is None:
            raise RecipeError(
                "eval",
                "is missing, and says what to measure",
                "add --recipe FILE, or --harness TASK",
            )
        known = wanted.eval.measured()
        for name in task or ():
            if name not in known:
                raise RecipeError(f"--task {name}", "is no task", f"take {', '.join(known)}")
        opened = reopen(wanted, place, Path(wanted.run.folder), world, quiet)
        tasks = read_tasks(opened.plan, opened.rows, task)
        result = judged(opened.generator, tasks, wanted.eval.micro_size, world)
        if as_json:
            terminal.say(json.dumps(result.as_json()))
        else:
            terminal.show(_table(result))


def _table(result: "Result") -> Table:
    table = Table("task", "metric", "value", "95 %", "rows", box=None, header_style="bold")
    for task, figures in result.figures.items():
        for metric, found in figures.items():
            bounds = f"{found.low:.4f} to {found.high:.4f}"
            table.add_row(task, metric, f"{found.value:.4f}", bounds, str(found.rows))
    return table
