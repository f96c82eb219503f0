"""The adapters of a run as HF peft has them: one type for all seats, the best that all can take."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bigpeft.backbone import fill_slots
from bigpeft.backbone.skeleton import rebuild_buffers
from bigpeft.backbone.slots import Slot
from bigpeft.errors import RecipeError
from bigpeft.export.run import CPU, FinishedRun
from bigpeft.methods import LinearMethod, NoPeftForm, PeftForm, PeftSeat
from bigpeft.placement import embedding_scale

_ON_CONV1D = frozenset({"LORA", "IA3", "VERA", "HIRA", "FOURIERFT"})
"""Types of peft that sit on layers which keep W as (in_features, out_features)."""
_PATTERNS = {
    "r": "rank_pattern",
    "lora_alpha": "alpha_pattern",
    "alpha": "alpha_pattern",
    "n_frequency": "n_frequency_pattern",
}


@dataclass(frozen=True)
class Forms:
    """One form of `kind` for every seat. `transposed` layers keep W as (in, out)."""

    kind: str
    seats: dict[str, PeftForm]
    transposed: bool


@torch.no_grad()
def forms_of(run: FinishedRun, only: str | None = None) -> Forms:
    """The forms of all seats, of the type `only` where one is named.

    Raises RecipeError, which names the method and the seat, where peft has no equivalent.
    """
    known: dict[str, dict[str, PeftForm]] = {}
    slots = _slots(run)
    transposed = any(s.linear is not None and s.linear.transposed for s in slots.values())
    for name, method in run.seated.items():
        try:
            forms = method.peft_forms(_seat(run, name, slots.get(name)))
        except NoPeftForm as error:
            raise _refusal(run, f"at {name} it {error}") from error
        known[name] = {form.kind: form for form in forms}
    shared = set.intersection(*(set(forms) for forms in known.values()))
    kinds = [kind for kind in next(iter(known.values())) if kind in shared]
    able = [kind for kind in kinds if kind in _ON_CONV1D or not transposed]
    if not able:
        why = f"HF peft's {kinds[0]} does not sit on Conv1D layers" if kinds else "no type fits all"
        raise _refusal(run, why)
    if only is not None and only not in able:
        raise RecipeError(
            f"method.name: {run.recipe.method.name}",
            f"is {able[0]} in HF peft, not {only}",
            _way_out(run),
        )
    kind = only or able[0]
    return Forms(kind, {name: forms[kind] for name, forms in known.items()}, transposed)


def config_of(run: FinishedRun, forms: Forms) -> dict[str, Any]:
    """The entries of peft's configuration that belong to the forms.

    Raises RecipeError where seats differ in what peft has one of.
    """
    config: dict[str, Any] = {}
    seats = forms.seats
    for key in {key: None for form in seats.values() for key in form.config}:
        values = {name: form.config.get(key) for name, form in seats.items()}
        config[key] = _one(run, key, values)
    for key in {key: None for form in seats.values() for key in form.layer}:
        config |= _patterned(key, {name: form.layer[key] for name, form in seats.items()})
    for key in {key: None for form in seats.values() for key in form.training}:
        first, *others = {form.training.get(key) for form in seats.values()}
        if first and not others:
            config[key] = first
    for key in {key: None for form in seats.values() for key in form.lists}:
        config[key] = [name for name, form in seats.items() if key in form.lists]
    return config


def _one(run: FinishedRun, key: str, values: dict[str, Any]) -> Any:
    first, *others = values.items()
    for name, value in others:
        if value != first[1]:
            raise _refusal(
                run,
                f"{key} is {first[1]} at {first[0]} and {value} at {name}, HF peft has one for all",
            )
    return first[1]


def _patterned(key: str, values: dict[str, Any]) -> dict[str, Any]:
    """The commonest value for all, and a pattern for the layers that have another."""
    counted = list(values.values())
    common = max(counted, key=counted.count)
    others = {name: value for name, value in values.items() if value != common}
    return {key: common, _PATTERNS[key]: others} if others else {key: common}


def _slots(run: FinishedRun) -> dict[str, Slot]:
    """Layer → slot of its W, of the layers that have a seat."""
    shapes = run.open_weights().shapes()
    return {
        slot.linear.name: slot
        for slot in fill_slots(run.model, shapes)
        if slot.linear is not None and slot.linear.name in run.seated
    }


def _seat(run: FinishedRun, name: str, slot: Slot | None) -> PeftSeat:
    if slot is None or slot.linear is None:
        rebuild_buffers(run.model, CPU)
        scale = embedding_scale(run.model.get_input_embeddings(), torch.float32)
        return PeftSeat(name, run.seated, embedding_scale=float(scale))
    linear = slot.linear

    def dense() -> Tensor:
        return linear.turned(run.open_weights().read(slot.key)).float()

    return PeftSeat(name, run.seated, linear.bias is not None, dense)


def _refusal(run: FinishedRun, why: str) -> RecipeError:
    return RecipeError(
        f"method.name: {run.recipe.method.name}",
        f"has no equivalent in HF peft: {why}",
        _way_out(run),
    )


def _way_out(run: FinishedRun) -> str:
    merges = all(isinstance(m, LinearMethod) and m.mergeable for m in run.seated.values())
    return (
        "write the whole model with bigpeft merge, or its nearest LoRA with --to lora --rank k"
        if merges
        else "use the adapter beside the base, with bigpeft"
    )
