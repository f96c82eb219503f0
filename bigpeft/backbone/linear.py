"""A frozen linear over a packed weight, in the place of the model's own."""

import inspect
import re
from functools import cache

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from bigpeft.backbone.head import OutputHead
from bigpeft.backbone.packed import PackedWeight
from bigpeft.quant import Codec


class PackedLinear(nn.Module):
    """y = x Wᵀ + b with frozen W and b. What methods see of it is `methods.FrozenLinear`.

    `transposed` says that files hold W as (in_features, out_features), as GPT-2's Conv1D does.
    """

    def __init__(self, name: str, linear: nn.Linear | Conv1D, codec: Codec) -> None:
        super().__init__()
        self.name = name
        self.transposed = isinstance(linear, Conv1D)
        rows, columns = linear.weight.shape
        shape = (columns, rows) if self.transposed else (rows, columns)
        self.out_features, self.in_features = shape
        self.base = PackedWeight(codec, shape)
        self.bias = linear.bias

    @property
    def device(self) -> torch.device:
        """Where the packed bytes are, and parameters beside them belong."""
        return self.base.packed.device

    def turned(self, weight: Tensor) -> Tensor:
        """W as files keep it → (out_features, in_features), or back."""
        return weight.t().contiguous() if self.transposed else weight

    def forward(self, x: Tensor) -> Tensor:
        """x (..., in_features) → (..., out_features) in x.dtype."""
        y = self.base(x)
        return y if self.bias is None else y + self.bias.to(y.dtype)


def freeze_linears(model: PreTrainedModel, codec: Codec) -> tuple[list[PackedLinear], list[str]]:
    """Put a PackedLinear in the place of every linear that may have one, an OutputHead in that of
    the head.

    Returns them, and the names of linears that stay dense: the output head, and those whose
    `weight` the model's own code reads.
    """
    head = model.get_output_embeddings()
    packed: list[PackedLinear] = []
    dense: list[str] = []
    for parent_name, parent in list(model.named_modules()):
        read = _weights_read_by(type(parent))
        for child_name, child in list(parent.named_children()):
            if not isinstance(child, nn.Linear | Conv1D) or type(child) not in (nn.Linear, Conv1D):
                continue
            name = f"{parent_name}.{child_name}" if parent_name else child_name
            if child is head or child_name in read:
                dense.append(name)
                if child is head and isinstance(child, nn.Linear):
                    setattr(parent, child_name, OutputHead(child))
                continue
            seat = PackedLinear(name, child, codec)
            setattr(parent, child_name, seat)
            packed.append(seat)
    return packed, dense


@cache
def _weights_read_by(cls: type[nn.Module]) -> frozenset[str]:
    """Children whose weight this class uses otherwise than by calling them."""
    try:
        source = inspect.getsource(cls)
    except (OSError, TypeError):
        return frozenset()
    return frozenset(re.findall(r"self\.(\w+)\.weight\b", source))
