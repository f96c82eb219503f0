"""What every launcher is told: a recipe, and the machines that run it."""

import re
from dataclasses import dataclass
from pathlib import Path

from bigpeft.recipe import Recipe, load_recipe

_SEPARATORS = re.compile(r"[^a-z0-9]+")
_LONGEST = 40


@dataclass(frozen=True)
class Job:
    """`run` is the run folder, `name` a word of a-z, 0-9 and hyphens that every scheduler takes;
    `arguments` are those of launch/train.py.
    """

    recipe: Path
    overrides: tuple[str, ...]
    run: str
    name: str
    nodes: int
    gpus_per_node: int

    @property
    def arguments(self) -> list[str]:
        """A run that is started again goes on from its newest checkpoint."""
        words = ["--recipe", str(self.recipe), *self.overrides]
        named = any(word.startswith("checkpoint.resume=") for word in self.overrides)
        return words if named else [*words, "checkpoint.resume=auto"]


def read_job(
    recipe: Path, overrides: list[str], nodes: int, gpus_per_node: int, name: str | None = None
) -> Job:
    """Check the recipe and name the job. Raises RecipeError as a run would."""
    loaded: Recipe = load_recipe(recipe, overrides)
    return Job(
        recipe=recipe,
        overrides=tuple(overrides),
        run=loaded.run.folder,
        name=_name(name or recipe.stem),
        nodes=nodes,
        gpus_per_node=gpus_per_node,
    )


def _name(text: str) -> str:
    """RFC 1123: begins with a letter, ends without a hyphen."""
    word = _SEPARATORS.sub("-", text.lower()).strip("-")
    word = word if word[:1].isalpha() else f"run-{word}"
    return word[:_LONGEST].strip("-")
