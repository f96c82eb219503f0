"""``bigpeft recipe``: check a recipe, show it with every default, print the schema."""

import json
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Check, show and describe recipes.", no_args_is_help=True)

File = Annotated[Path, typer.Argument(metavar="RECIPE", help="YAML file of the recipe.")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[section.key=value]...", help="Put over the file, as in training."),
]


@app.command()
def check(recipe: File, overrides: Overrides = None) -> None:
    """Read RECIPE and say whether every key and value is accepted."""
    from bigpeft.recipe import load_recipe  # here, for it imports torch: --help stays quick

    load_recipe(recipe, overrides or ())
    typer.echo(f"{recipe}: fine")


@app.command()
def show(recipe: File, overrides: Overrides = None) -> None:
    """Print RECIPE as it will be run: overrides applied, every default written out."""
    from bigpeft.recipe import dump_recipe, load_recipe

    typer.echo(dump_recipe(load_recipe(recipe, overrides or ())), nl=False)


@app.command()
def schema() -> None:
    """Print the JSON schema of recipes, for editors that complete and check YAML."""
    from bigpeft.recipe import Recipe

    typer.echo(json.dumps(Recipe.model_json_schema(), indent=2, ensure_ascii=False))
