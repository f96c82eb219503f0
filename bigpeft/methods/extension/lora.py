"""LoRA, a low-rank extension of W (Hu et al., arXiv 2106.09685, Eq. 3).

    W' = W + (alpha / rank) · B A        A (rank, in_features), B (out_features, rank)

Trains rank · (in_features + out_features) numbers per linear. A starts uniform in
±1/√in_features, B at zero, so the start is the identity.
"""

from bigpeft.methods.low_rank import LowRank


class LoRA(LowRank):
    """Low-rank extension with scaling alpha / rank."""

    family = "extension"
    source = "arXiv 2106.09685"
    moves = "a change of rank r; in each layer r directions in and r out"
    when = "the default: well understood, fast, merges, every tool reads it"
