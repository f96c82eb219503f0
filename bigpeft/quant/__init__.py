"""Quantisation formats: pure codecs between a dense weight and bytes, one file per format."""

from bigpeft.quant.codec import Codec, CodecOptions
from bigpeft.registry import scan

__all__ = ["Codec", "CodecOptions", "codecs", "make_codec"]


def codecs() -> dict[str, type[Codec]]:
    """Name → class of every format."""
    import bigpeft.quant as package

    return scan(package, Codec, frozenset({"codec", "four_bit"}))


def make_codec(name: str, options: CodecOptions) -> Codec:
    """The format of this name. Raises RecipeError for a block size it does not take."""
    return codecs()[name](options)
