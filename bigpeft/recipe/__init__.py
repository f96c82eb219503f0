"""The recipe: what was asked, from YAML and the command line to one checked, frozen tree."""

from bigpeft.recipe.load import dump_recipe, load_recipe
from bigpeft.recipe.sections import (
    METHOD_SECTIONS,
    Batch,
    Checkpointing,
    Data,
    Evaluation,
    MethodSection,
    Model,
    Optimizer,
    Recipe,
    Run,
    Section,
    Sharding,
    Train,
)
from bigpeft.recipe.values import seconds_of

__all__ = [
    "METHOD_SECTIONS",
    "Batch",
    "Checkpointing",
    "Data",
    "Evaluation",
    "MethodSection",
    "Model",
    "Optimizer",
    "Recipe",
    "Run",
    "Section",
    "Sharding",
    "Train",
    "dump_recipe",
    "load_recipe",
    "seconds_of",
]
