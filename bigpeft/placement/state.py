"""Names of what is trained, as files and checkpoints know them, and how the optimizer sees it."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from bigpeft.methods import LinearMethod, Role
from bigpeft.placement.place import Adapted


@dataclass(frozen=True)
class Trained:
    """One trained parameter: its stable name, itself, and its role in the optimizer."""

    name: str
    parameter: nn.Parameter
    role: Role


def trained(model: nn.Module) -> list[Trained]:
    """Everything that is trained, in the model's order.

    A parameter of an adapter is named `<layer>.<parameter>`, such as
    `model.layers.0.self_attn.q_proj.lora_A`; a dense module keeps its own name.
    """
    found = []
    in_adapters: set[int] = set()
    for module in model.modules():
        if not isinstance(module, Adapted):
            continue
        for key, parameter in module.adapter.named_parameters():
            if parameter.requires_grad:
                name = f"{module.linear.name}.{key}"
                found.append(Trained(name, parameter, module.adapter.role(key)))
                in_adapters.add(id(parameter))
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and id(parameter) not in in_adapters:
            found.append(Trained(name, parameter, Role("dense", decay=parameter.dim() > 1)))
    return found


def evolving(seated: Mapping[str, LinearMethod]) -> dict[str, Tensor]:
    """Buffers that change while training, under `<layer>.<buffer>`, the same on all ranks."""
    return {
        f"{layer}.{key}": method.get_buffer(key)
        for layer, method in seated.items()
        for key in method.evolving
    }


def optimizer_groups(
    parameters: list[Trained], learning_rate: float, weight_decay: float
) -> list[dict[str, object]]:
    """Parameter groups for torch optimizers, one per (learning rate, decay).

    `peak` keeps the group's own learning rate, which the schedule scales.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for item in parameters:
        key = (
            learning_rate * item.role.learning_rate_scale,
            weight_decay if item.role.decay else 0.0,
        )
        groups.setdefault(key, []).append(item.parameter)
    return [
        {"params": members, "lr": rate, "peak": rate, "weight_decay": decay}
        for (rate, decay), members in groups.items()
    ]
