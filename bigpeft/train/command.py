"""The command that starts a run: which recipe it names, and how it is written to go on."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bigpeft.errors import RecipeError
from bigpeft.recipe import load_recipe

_RECIPE, _RESUME = "--recipe", "checkpoint.resume="


@dataclass(frozen=True)
class Command:
    """`words` start a run in `folder`; `resume` is the checkpoint.resume that they ask for."""

    words: tuple[str, ...]
    folder: Path
    resume: str

    @property
    def origin(self) -> str:
        """What the run starts from as long as it has no checkpoint of its own."""
        return "the beginning" if self.resume in ("never", "auto") else self.resume

    def again(self, has_saved: bool) -> tuple[str, ...]:
        """The words of a restart, which takes the newest checkpoint.

        A run that was to go on from a checkpoint of another folder does so until it has its own.
        """
        resume = "auto" if has_saved or self.resume == "never" else self.resume
        kept = [word for word in self.words if not word.startswith(_RESUME)]
        return (*kept, f"{_RESUME}{resume}")


def read_command(words: Sequence[str]) -> Command:
    """Find the recipe and its overrides behind the script. Raises UserError as load_recipe does."""
    recipe, overrides = None, []
    behind = iter(words)
    for word in behind:
        if word.endswith(".py"):
            break
    for word in behind:
        name, equals, value = word.partition("=")
        if name == _RECIPE:
            recipe = value if equals else next(behind, None)
        elif equals and not word.startswith("-"):
            overrides.append(word)
    if not recipe:
        raise RecipeError(
            " ".join(words),
            f"names no {_RECIPE} behind a script",
            "write the command as it starts a run, such as "
            "deepspeed launch/train.py --recipe my.yaml",
        )
    loaded = load_recipe(Path(recipe), overrides)
    return Command(tuple(words), Path(loaded.run.folder), loaded.checkpoint.resume)
