"""Keys of a recipe that are right one by one and make no sense together."""

from collections.abc import Mapping

from bigpeft.errors import RecipeError
from bigpeft.methods import InputMethod, Method
from bigpeft.recipe import KEPT, Recipe


def refuse_contradictions(recipe: Recipe) -> None:
    """Raises RecipeError, naming the key to change."""
    _refuse_endless(recipe)
    _refuse_rows_for_nothing(recipe)
    _refuse_the_best_of_nothing(recipe)


def _refuse_rows_for_nothing(recipe: Recipe) -> None:
    asked, share = recipe.eval, recipe.data.held_out
    if asked is not None and asked.path == KEPT and not share:
        raise RecipeError("eval.path", f"is {KEPT}, which keeps no row", f"write a share in {KEPT}")
    if share and (asked is None or asked.path != KEPT):
        raise RecipeError(
            KEPT, "keeps rows from training that eval leaves out", "remove eval.path, or this key"
        )


def _refuse_endless(recipe: Recipe) -> None:
    if recipe.data.streaming and recipe.train.steps is None:
        raise RecipeError(
            "train.epochs", "is not known of rows that are streamed", "write train.steps"
        )


def _refuse_the_best_of_nothing(recipe: Recipe) -> None:
    wanted, asked = recipe.checkpoint, recipe.eval
    measured = asked.figures() if asked else []
    key = "checkpoint.best" if wanted.best else "checkpoint.keep_best"
    if wanted.best_by and asked is None:
        raise RecipeError(
            key,
            "needs an eval section, which says what the best is of",
            f"add one, or remove {key.rpartition('.')[2]}",
        )
    if wanted.best_by and wanted.best_by not in measured:
        raise RecipeError(
            key,
            f"is about {wanted.best_by}, which no task of eval measures",
            f"write checkpoint.best: one of {', '.join(measured)}",
        )
    if wanted.export == "best" and wanted.best_by is None:
        raise RecipeError(
            "checkpoint.export",
            "best needs to know what the best is",
            "add checkpoint.best, such as eval_loss",
        )
    if asked and asked.patience and (wanted.best_by or "eval_loss") not in measured:
        raise RecipeError(
            "eval.patience",
            "waits for eval_loss, which no task of eval measures",
            f"write checkpoint.best: one of {', '.join(measured)}",
        )


def refuse_packed_prompts(recipe: Recipe, seated: Mapping[str, Method]) -> None:
    """Raises RecipeError for a method that puts tokens before rows that are packed."""
    if recipe.data.packing and any(isinstance(method, InputMethod) for method in seated.values()):
        raise RecipeError(
            "data.packing",
            f"{recipe.method.name} puts its tokens before a row, and a pack holds several",
            "remove data.packing; data.group_by_length saves padding, too",
        )
