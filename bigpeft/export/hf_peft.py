"""The adapter of a run in HF peft's own terms, for every method of which peft has an equivalent.

What a method amounts to there the method says itself (`Method.peft_forms`). Outputs are those of
the dense base with the adapter, but for rounding in fp32.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from bigpeft.backbone import fill_slots
from bigpeft.backbone.copies.writer import refuse_existing
from bigpeft.checkpoint.peft_names import PREFIX
from bigpeft.errors import RecipeError
from bigpeft.export.forms import config_of, forms_of
from bigpeft.export.peft_folder import common_config, write_peft_folder
from bigpeft.export.run import FinishedRun
from bigpeft.methods import InputMethod, PeftForm


@dataclass(frozen=True)
class Exported:
    """What was written: peft's type, and how many seats have it."""

    folder: Path
    kind: str
    seats: int


def export_hf_peft(run: FinishedRun, out: Path) -> Exported:
    """Write the adapter as HF peft would have written it.

    Raises RecipeError for a method without an equivalent and for modules trained in full that peft
    cannot keep, FileError for a place that cannot be written.
    """
    forms = forms_of(run)
    refuse_existing(out)
    config = common_config(run.recipe, forms.kind) | config_of(run, forms)
    tensors: dict[str, Tensor] = {}
    for name, form in forms.seats.items():
        on_input = isinstance(run.seated[name], InputMethod)
        start = "" if on_input else f"{PREFIX}{name}."
        tensors |= {start + end: _whole(tensor) for end, tensor in form.tensors.items()}
        if not on_input:
            config.setdefault("target_modules", []).append(name)
    tensors |= _shared(forms.seats)
    if forms.transposed:
        config["fan_in_fan_out"] = True
    if run.dense:
        kept = _kept_whole(run)
        config["modules_to_save"] = sorted({name.rpartition(".")[0] for name in kept})
        tensors |= {f"{PREFIX}{name}": _whole(tensor) for name, tensor in kept.items()}
    write_peft_folder(out, config, tensors)
    return Exported(out, forms.kind, len(forms.seats))


def _shared(seats: Mapping[str, PeftForm]) -> dict[str, Tensor]:
    first = next(iter(seats.values()))
    return {f"base_model.{name}": _whole(tensor) for name, tensor in first.whole().items()}


def _kept_whole(run: FinishedRun) -> dict[str, Any]:
    """What was trained in full, under every name that the model has for it: tied weights have two.

    Raises RecipeError where peft cannot save such a module.
    """
    where = next(iter(run.dense))
    if any(isinstance(method, InputMethod) for method in run.seated.values()):
        _refuse(run, f"trained {where} in full, which HF peft does not keep beside virtual tokens")
    found = {}
    for slot in fill_slots(run.model, run.open_weights().shapes()):
        trained = [name for name in slot.names if name in run.dense]
        found |= {name: run.dense[trained[0]] for name in slot.names if trained}
    for name in found:
        module = name.rpartition(".")[0]
        if list(run.model.get_submodule(module).children()):
            _refuse(run, f"trained {name} in full, whose module HF peft would save with all in it")
    return found


def _refuse(run: FinishedRun, why: str) -> None:
    raise RecipeError(
        f"method.train_modules: {', '.join(run.recipe.method.train_modules)}",
        why,
        "use the adapter beside the base, with bigpeft",
    )


def _whole(tensor: Tensor) -> Tensor:
    return tensor.detach().float().contiguous()
