"""The plan: every number that follows from a recipe and a world, before anything is paid for.

Only this room reads the recipe; rooms below receive values, rooms above a frozen Plan.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from bigpeft.backbone import WeightSource
from bigpeft.methods import Method, methods
from bigpeft.plan.memory import HeldBytes
from bigpeft.plan.model import open_weights
from bigpeft.recipe import Recipe
from bigpeft.world import World

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Plan:
    """What will run. `model` is the skeleton on meta with the methods seated; `group_reason` says
    why as many ranks share the backbone, `second_copy` how many share the one of hpZ, if any.
    """

    recipe: Recipe
    world: World
    folder: Path | None
    model: PreTrainedModel
    seated: dict[str, Method]
    dense_linears: list[str]
    precision: str
    stage: int
    group_size: int
    group_reason: str
    second_copy: int
    accumulation_steps: int
    ds_config: dict[str, Any]
    held: HeldBytes

    @property
    def dtype(self) -> torch.dtype:
        """The compute dtype."""
        return DTYPES[self.precision]

    @property
    def flash(self) -> bool:
        """Whether attention is of the kind that takes rows of variable length end to end."""
        return "flash" in str(self.model.config._attn_implementation)

    @property
    def learning_rate(self) -> float:
        """The peak: the recipe's, or the method's own."""
        own = methods()[self.recipe.method.name].learning_rate
        return self.recipe.optimizer.learning_rate or own

    def open_weights(self) -> WeightSource:
        """Where the weights will come from. Raises WeightError, the same on every rank."""
        return open_weights(self.recipe, self.folder, self.model)

    @property
    def trainable(self) -> int:
        """Numbers that are trained."""
        return sum(p.numel() for p in self.model.parameters() if p.requires_grad)
