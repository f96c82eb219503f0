"""Names of what is trained, as files and checkpoints know them, and how the optimizer sees it."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from bigpeft.methods import Method, Role


@dataclass(frozen=True)
class Trained:
    """One trained parameter: its stable name, itself, and its role in the optimizer."""

    name: str
    parameter: nn.Parameter
    role: Role


def trained(model: nn.Module, seated: Mapping[str, Method]) -> list[Trained]:
    """Everything that is trained: adapters in the order of their seats, then dense modules.

    A parameter of an adapter is named `<seat>.<parameter>`, such as
    `model.layers.0.self_attn.q_proj.lora_A`; a dense module keeps its own name.
    """
    found = [
        Trained(f"{seat}.{key}", parameter, method.role(key))
        for seat, method in seated.items()
        for key, parameter in method.named_parameters()
        if parameter.requires_grad
    ]
    in_adapters = {id(item.parameter) for item in found}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and id(parameter) not in in_adapters:
            found.append(Trained(name, parameter, Role("dense", decay=parameter.dim() > 1)))
    return found


def evolving(seated: Mapping[str, Method]) -> dict[str, Tensor]:
    """Buffers that change while training, under `<seat>.<buffer>`, the same on all ranks."""
    return {
        f"{seat}.{key}": method.get_buffer(key)
        for seat, method in seated.items()
        for key in method.evolving
    }


def frozen(seated: Mapping[str, Method]) -> dict[str, Tensor]:
    """What methods keep beside their parameters and files hold, under `<seat>.<buffer>`: singular
    vectors, norms, start factors. They come from the dense weight, which codes cannot give back.
    """
    return {
        f"{seat}.{key}": tensor
        for seat, method in seated.items()
        for key, tensor in method.state_dict(keep_vars=True).items()
        if not isinstance(tensor, nn.Parameter)
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
