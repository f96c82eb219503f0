"""What autograd keeps of one micro-batch, asked of autograd itself on the meta device.

A twin of the model with one and with two layers, dense and without weights, makes the forward pass
that the run will make; hooks count what it saves. So every family and every method is counted as
it is, and a model of any size in a fraction of a second.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from bigpeft.backbone import build_skeleton, freeze_linears
from bigpeft.placement import Placement, place
from bigpeft.quant import CodecOptions, make_codec

_ATTENTION = "bigpeft_plan"
META = torch.device("meta")


@dataclass(frozen=True)
class Activations:
    """Bytes on one rank of one micro-batch.

    `layer` is what each layer saves, `ends` what is saved beside the layers, `stream` the hidden
    states between two layers, and `logits` what the loss and its backward keep at their peak: the
    logarithms of probabilities, their gradient and that of the logits, all in fp32.
    """

    layer: int
    ends: int
    stream: int
    logits: int

    def kept(self, layers: int, recomputing: bool) -> int:
        """Saved from forward to backward, logits apart."""
        return self.ends + layers * (self.stream if recomputing else self.layer)


def activation_bytes(
    config: PretrainedConfig,
    wanted: Placement,
    dtype: torch.dtype,
    rows: int,
    length: int,
    targets: int,
) -> Activations:
    """Of `rows` × `length` tokens in `dtype`, the loss falling on `targets` positions of each row.

    Raises RecipeError and ShapeError as building and placing the model do.
    """
    one, two = (_saved(config, wanted, dtype, layers, rows, length) for layers in (1, 2))
    hidden = config.get_text_config().hidden_size
    numbers = rows * targets * config.get_text_config().vocab_size
    return Activations(
        layer=two - one,
        ends=max(0, 2 * one - two),
        stream=rows * length * hidden * dtype.itemsize,
        logits=numbers * 3 * 4,
    )


def _saved(
    config: PretrainedConfig,
    wanted: Placement,
    dtype: torch.dtype,
    layers: int,
    rows: int,
    length: int,
) -> int:
    model = _twin(config, wanted, dtype, layers)
    ids = torch.zeros(rows, length, dtype=torch.int64, device=META)
    with counted(model) as saved:
        model.get_decoder()(input_ids=ids, attention_mask=torch.ones_like(ids))
    return saved.total


def _twin(
    config: PretrainedConfig, wanted: Placement, dtype: torch.dtype, layers: int
) -> PreTrainedModel:
    cut = deepcopy(config)
    cut.get_text_config().num_hidden_layers = layers
    ALL_ATTENTION_FUNCTIONS.register(_ATTENTION, _attention)
    model = build_skeleton(cut, attention=_ATTENTION)
    freeze_linears(model, make_codec("none", CodecOptions(dtype=dtype)))
    place(model, wanted)
    model.enable_input_require_grads()
    model.to(dtype=dtype)  # type: ignore[call-overload]
    return model.train()


@dataclass
class Saved:
    """Bytes of storages that a graph holds, parameters and buffers apart."""

    total: int = 0


@contextmanager
def counted(model: nn.Module) -> Iterator[Saved]:
    """Count what is saved for backward in the with statement, every storage once."""
    saved = Saved()
    alive = [t.data for t in (*model.parameters(), *model.buffers())]  # ZeRO-3 lets go of storages
    known = {_storage(t) for t in alive}

    def keep(tensor: Tensor) -> Tensor:
        if _storage(tensor) not in known:
            known.add(_storage(tensor))
            alive.append(tensor)  # or its address may be given to another one
            saved.total += tensor.untyped_storage().nbytes()
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        yield saved


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


class _Fused(torch.autograd.Function):
    """Attention that keeps queries, keys, values, its result, and one number per query and head."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        result = torch.empty_like(query)
        ctx.save_for_backward(query, key, value, result, query[..., 0].float())
        return result


def _attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any
) -> tuple[Tensor, None]:
    """In transformers' form: (rows, heads, length, head_dim) → (rows, length, heads, head_dim)."""
    return _Fused.apply(query, key, value).transpose(1, 2).contiguous(), None
