"""The recipe: what was asked, from YAML and the command line to one checked, frozen tree."""

from bigpeft.recipe.checkpointing import CHANGEABLE, Checkpointing
from bigpeft.recipe.data import Data, Source
from bigpeft.recipe.evaluation import HELD_OUT, KEPT, EvalTask, Evaluation, figure_name
from bigpeft.recipe.load import dump_recipe, load_recipe
from bigpeft.recipe.section import Section
from bigpeft.recipe.sections import (
    METHOD_SECTIONS,
    Batch,
    MethodSection,
    Model,
    Optimizer,
    Recipe,
    Run,
    Sharding,
    Train,
)
from bigpeft.recipe.tracking import Tracking
from bigpeft.recipe.values import seconds_of

__all__ = [
    "CHANGEABLE",
    "HELD_OUT",
    "KEPT",
    "METHOD_SECTIONS",
    "Batch",
    "Checkpointing",
    "Data",
    "EvalTask",
    "Evaluation",
    "MethodSection",
    "Model",
    "Optimizer",
    "Recipe",
    "Run",
    "Section",
    "Sharding",
    "Source",
    "Tracking",
    "Train",
    "dump_recipe",
    "figure_name",
    "load_recipe",
    "seconds_of",
]
