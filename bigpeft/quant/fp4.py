"""fp4: 4 bits per weight, one sign bit, two exponent bits, one mantissa bit (bitsandbytes)."""

from bigpeft.quant.four_bit import FourBit


class FP4(FourBit):
    """FloatingPoint 4; nf4 is almost always nearer to the weights."""

    levels = "fp4"
