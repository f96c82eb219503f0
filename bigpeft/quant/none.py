"""none: weights keep their numbers in the compute dtype; sharded and re-read like packed ones."""

import torch
from torch import Tensor

from bigpeft.quant.codec import Codec, view_as


class Unquantised(Codec):
    """The bytes of the dense weight."""

    quantises = False

    def nbytes(self, shape: tuple[int, int]) -> int:
        """The size of one number times their count."""
        return shape[0] * shape[1] * self.options.dtype.itemsize

    def encode(self, weight: Tensor) -> Tensor:
        """Dense (out_features, in_features) → uint8 (nbytes,)."""
        return weight.to(self.options.dtype).contiguous().view(-1).view(torch.uint8).clone()

    def decode(self, flat: Tensor, shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
        """uint8 (nbytes,) → dense (out_features, in_features); a view where the dtype is kept."""
        return view_as(flat, self.options.dtype).view(shape).to(dtype)
