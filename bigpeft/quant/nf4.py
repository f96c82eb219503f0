"""nf4: 4 bits per weight, levels at the quantiles of a normal distribution (arXiv 2305.14314)."""

from bigpeft.quant.four_bit import FourBit


class NF4(FourBit):
    """NormalFloat 4, the usual choice for frozen weights."""

    levels = "nf4"
