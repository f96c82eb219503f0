"""Mathematics that methods share."""

import torch
from torch import Tensor


def widen(tensor: Tensor) -> Tensor:
    """At least fp32: bf16 and fp16 are promoted, fp64 stays fp64."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def scale_features(x: Tensor, offset: Tensor) -> Tensor:
    """X ⊙ (1 + offset) in x.dtype; x (..., n), offset (n), computed in the wider of the two."""
    return torch.addcmul(x, x, offset).to(x.dtype)


def low_rank_delta(a: Tensor, b: Tensor, scaling: float) -> Tensor:
    """Scaling · B A for A (rank, in_features) and B (out_features, rank), at least in fp32."""
    return scaling * (widen(b) @ widen(a))
