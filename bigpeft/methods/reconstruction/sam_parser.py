"""SAM-PARSER, trained singular values (Peng et al., arXiv 2308.14604).

    W' = W + U diag(offset) Vᵀ        the new singular values are σ + offset

U and V are those of the dense W. The paper moves all min(in_features, out_features) values; U and V
are then as large as two dense weights, so `directions` keeps only the largest: set it to the
smaller side for the paper's method. Trains one number per direction and starts as the identity.
"""

import torch
from torch import Tensor

from bigpeft.methods.spectral import SingularShift


class SamParser(SingularShift):
    """Singular values that move freely."""

    family = "reconstruction"
    source = "arXiv 2308.14604"
    moves = "the largest singular values of W, along frozen singular vectors; no new direction"
    when = "a handful of numbers per layer has to do, and the SVD at load is affordable"

    def shift(self, dtype: torch.dtype) -> Tensor:
        """The offset itself."""
        return self.offset.to(dtype)
