"""A model with its methods seated, as the numbers that bytes and seconds follow from."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedModel

from bigpeft.backbone import PackedLinear
from bigpeft.placement import Adapted, Placement
from bigpeft.plan.activations import Activations, activation_bytes
from bigpeft.quant.four_bit import PIECE


@dataclass(frozen=True)
class Block:
    """A part of the model that ZeRO-3 gathers as one: bytes of packed weights, dense numbers."""

    packed: int
    dense: int

    def bytes(self, itemsize: int) -> int:
        """Gathered, in the compute dtype."""
        return self.packed + self.dense * itemsize


@dataclass(frozen=True, order=True)
class Tensor:
    """A frozen tensor: its numbers, the bytes that are kept of it, and whether a method sees it in
    fp32 before (`measured`).
    """

    numbers: int
    kept: int
    is_packed: bool
    measured: bool = False


@dataclass(frozen=True)
class Facts:
    """Numbers of one model and one length of rows, whatever the machines.

    `packed` bytes of all frozen linears and `linear` weights in them; `dense` frozen numbers that
    ZeRO-3 cuts and `kept` those that it leaves whole (norms, biases); `trained` numbers; `buffers`
    bytes beside them; `block` the largest layer, `embedding` and `head` dense numbers of the ends
    (the same ones if `tied`); `largest` numbers of the largest packed weight; `tensors` every
    frozen one in the order of loading, read in `source_itemsize`; `activations` those of one row
    of `length` tokens.
    """

    packed: int
    linear: int
    dense: int
    kept: int
    trained: int
    buffers: int
    layers: int
    block: Block
    embedding: int
    head: int
    tied: bool
    largest: int
    tensors: tuple[Tensor, ...]
    source_itemsize: int
    hidden: int
    vocabulary: int
    length: int
    itemsize: int
    activations: Activations

    def reading(self, tensor: Tensor) -> int:
        """Bytes on the rank that makes a tensor ready to be sent.

        One that is packed is there as read and packed, with what packing takes of its piece, or as
        packed and, where a method measures it, in fp32; a dense one as read and converted.
        """
        read = tensor.numbers * self.source_itemsize
        if not tensor.is_packed:
            return tensor.kept + (read if self.source_itemsize != self.itemsize else 0)
        packing = read + 10 * min(tensor.numbers, PIECE)
        return tensor.kept + max(packing, 4 * tensor.numbers if tensor.measured else 0)


def facts_of(
    model: PreTrainedModel,
    methods: Iterable[nn.Module],
    wanted: Placement,
    dtype: torch.dtype,
    length: int,
    threshold: int,
    source_itemsize: int = 2,
) -> Facts:
    """Count a placed skeleton; dense parameters up to `threshold` numbers are never cut."""
    linears = [m for m in model.modules() if isinstance(m, PackedLinear)]
    weights = [m.base.shape[0] * m.base.shape[1] for m in linears]
    trained = [p.numel() for p in model.parameters() if p.requires_grad]
    frozen = [p.numel() for p in model.parameters() if _is_dense(p)]
    config = model.config.get_text_config()
    embedding = model.get_input_embeddings()
    head = model.get_output_embeddings()
    measured = {
        id(module.linear)
        for module in model.modules()
        if isinstance(module, Adapted) and module.adapter.needs_dense
    }
    shared = head is not None and head.weight is embedding.weight  # type: ignore[union-attr]
    return Facts(
        packed=sum(m.base.packed.numel() for m in linears),
        linear=sum(weights),
        dense=sum(n for n in frozen if n > threshold),
        kept=sum(n for n in frozen if n <= threshold),
        trained=sum(trained),
        buffers=sum(b.numel() * b.element_size() for m in methods for b in m.buffers()),
        layers=config.num_hidden_layers,
        block=_largest(model, threshold),
        embedding=_cut(embedding, threshold),
        head=_cut(head, threshold),
        tied=shared,
        largest=max(weights, default=0),
        tensors=tuple(sorted(_tensors(linears, measured, frozen, dtype.itemsize), reverse=True)),
        source_itemsize=source_itemsize,
        hidden=config.hidden_size,
        vocabulary=config.vocab_size,
        length=length,
        itemsize=dtype.itemsize,
        activations=activation_bytes(model.config, wanted, dtype, 1, length, length),
    )


def _tensors(
    linears: Iterable[PackedLinear], measured: set[int], frozen: Iterable[int], itemsize: int
) -> Iterator[Tensor]:
    for linear in linears:
        rows, columns = linear.base.shape
        yield Tensor(rows * columns, linear.base.packed.numel(), True, id(linear) in measured)
    for numbers in frozen:
        yield Tensor(numbers, numbers * itemsize, False)


def _is_dense(parameter: nn.Parameter) -> bool:
    return parameter.is_floating_point() and not parameter.requires_grad


def _cut(module: nn.Module | None, threshold: int) -> int:
    """Dense frozen numbers of a module that are gathered when it is used."""
    if module is None:
        return 0
    return sum(p.numel() for p in module.parameters() if _is_dense(p) and p.numel() > threshold)


def _largest(model: nn.Module, threshold: int) -> Block:
    stacks = [m for m in model.modules() if isinstance(m, nn.ModuleList) and len(m)]
    blocks = [
        Block(
            sum(p.numel() for p in layer.parameters() if p.dtype == torch.uint8),
            _cut(layer, threshold),
        )
        for stack in stacks
        for layer in stack
    ]
    return max(blocks, key=lambda block: block.packed, default=Block(0, 0))
