"""A finished run opened again, without training: its recipe, its adapter, the base it stood on."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from bigpeft.backbone import Fingerprint, Verified, WeightSource
from bigpeft.errors import FileError
from bigpeft.export.adapter import read_adapter, read_base
from bigpeft.methods import Method
from bigpeft.placement import place, start, trained
from bigpeft.plan import build_model, open_weights, placement_of, resolve_model_folder
from bigpeft.recipe import Recipe, load_recipe

CPU = torch.device("cpu")


@dataclass(frozen=True)
class FinishedRun:
    """`model` is the skeleton on meta with the methods seated, their tensors loaded in fp32.

    `dense` are modules that were trained in full, by the model's own names.
    """

    folder: Path
    recipe: Recipe
    model: PreTrainedModel
    seated: dict[str, Method]
    dense: dict[str, Tensor]
    base: Path | None
    fingerprint: Fingerprint | None
    started_from: str

    def open_weights(self) -> WeightSource:
        """The base, each tensor compared with the one that the adapter was trained on.

        Raises WeightError where it is missing, damaged or another one.
        """
        source = open_weights(self.recipe, self.base, self.model)
        if self.fingerprint is None:
            return source
        return Verified(source, self.fingerprint, str(self.folder / "adapter"))


def open_run(folder: Path, base: Path | None = None) -> FinishedRun:
    """Open RUN/recipe.yaml and RUN/adapter, over another copy of its `base` if one is named.

    Raises FileError for a folder without them, or an adapter of another shape than its recipe says.
    """
    path = folder / "recipe.yaml"
    if not path.is_file():
        raise FileError(str(folder), "is no run folder: it has no recipe.yaml", "name a run folder")
    recipe = load_recipe(path)
    tensors, described = read_adapter(folder / "adapter")
    base = base or resolve_model_folder(recipe.model)
    model, _ = build_model(recipe, base, torch.float32)
    seated = place(model, placement_of(recipe))
    start(seated, recipe.run.seed, CPU, torch.float32)
    dense = _load(folder / "adapter", model, seated, tensors)
    return FinishedRun(
        folder=folder,
        recipe=recipe,
        model=model,
        seated=seated,
        dense=dense,
        base=base,
        fingerprint=read_base(folder / "adapter"),
        started_from=described.get("base", {}).get("started_from", "dense"),
    )


def _load(
    where: Path, model: PreTrainedModel, seated: dict[str, Method], tensors: dict[str, Tensor]
) -> dict[str, Tensor]:
    """Fill the seats. Returns the trained tensors that belong to no seat."""
    wanted: dict[str, Any] = {
        f"{seat}.{key}": tensor
        for seat, method in seated.items()
        for key, tensor in method.state_dict(keep_vars=True).items()
    }
    others = {t.name: t.parameter for t in trained(model, seated) if t.name not in wanted}
    for name, target in (wanted | others).items():
        found = tensors.get(name)
        if found is None or found.shape != target.shape:
            shape = "missing" if found is None else f"of shape {tuple(found.shape)}"
            raise FileError(
                str(where),
                f"does not fit its recipe: {name} is {shape}, {tuple(target.shape)} is wanted",
                "use the adapter and the recipe.yaml of one run",
            )
        if name in wanted:
            target.data.copy_(found)
    return {name: tensors[name] for name in others}
