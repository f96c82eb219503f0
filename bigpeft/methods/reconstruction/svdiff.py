"""SVDiff, trained singular values that stay non-negative (Han et al., arXiv 2303.11305).

    W' = W + U diag(max(σ + offset, 0) - σ) Vᵀ

U, σ and V are those of the dense W. The paper moves all min(in_features, out_features) values; U
and V are then as large as two dense weights, so `directions` keeps only the largest: set it to the
smaller side for the paper's method. Trains one number per direction and starts as the identity.
arXiv 2407.05417 files it under combination in its text; what it does is SAM-PARSER with a floor.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from bigpeft.methods.spectral import SingularShift


class SVDiff(SingularShift):
    """Singular values that move, but not below zero."""

    family = "reconstruction"
    source = "arXiv 2303.11305"
    moves = (
        "singular values of W, never below zero, along frozen singular vectors; no new direction"
    )
    when = "as sam_parser, where values must stay what singular values are"

    def shift(self, dtype: torch.dtype) -> Tensor:
        """max(σ + offset, 0) - σ, which is the offset until σ is used up."""
        values, offset = self.values.to(dtype), self.offset.to(dtype)
        return offset + F.relu(-values - offset)
