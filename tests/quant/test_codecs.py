"""Oracle: bitsandbytes for the codes, and a table look-up written out in torch for decoding."""

import bitsandbytes.functional as bnb
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from bigpeft.errors import RecipeError
from bigpeft.quant import CodecOptions, codecs, make_codec
from bigpeft.quant.four_bit import BLOCKS

FOUR_BIT = ["fp4", "nf4"]


def table_lookup(weight: torch.Tensor, name: str, block: int, nested: bool) -> torch.Tensor:
    """What the codes of bitsandbytes mean, by definition."""
    codes, state = bnb.quantize_4bit(
        weight, blocksize=block, quant_type=name, compress_statistics=nested
    )
    scales = state.absmax
    if nested:
        second = state.state2
        blocks = second.absmax.repeat_interleave(second.blocksize)[: scales.numel()]
        scales = second.code[scales.long()] * blocks + state.offset
    nibbles = torch.stack([codes.view(-1) >> 4, codes.view(-1) & 15], 1).view(-1)
    values = state.code[nibbles[: weight.numel()].long()]
    return (values * scales.repeat_interleave(block)[: weight.numel()]).view(weight.shape)


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 40),
    columns=st.integers(1, 150),
    block=st.sampled_from([b for b in BLOCKS if b < 2048]),
    nested=st.booleans(),
    name=st.sampled_from(FOUR_BIT),
)
def test_any_shape_decodes_to_what_the_codes_mean(rows, columns, block, nested, name):
    weight = torch.randn(rows, columns)
    codec = make_codec(name, CodecOptions(block, nested))

    flat = codec.encode(weight)

    assert flat.dtype == torch.uint8
    assert flat.numel() == codec.nbytes((rows, columns))
    expected = table_lookup(weight, name, block, nested)
    assert_close(codec.decode(flat, (rows, columns), torch.float32), expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("nested", [True, False])
@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("name", FOUR_BIT)
def test_codes_and_statistics_are_those_of_bitsandbytes(name, block, nested):
    weight = torch.randn(64, 4096)
    codec = make_codec(name, CodecOptions(block, nested))
    codes, state = bnb.quantize_4bit(
        weight, blocksize=block, quant_type=name, compress_statistics=nested
    )

    flat = codec.encode(weight)

    assert torch.equal(flat[: codes.numel()], codes.view(-1))
    expected = bnb.dequantize_4bit(codes, state)
    assert torch.equal(codec.decode(flat, (64, 4096), torch.float32), expected)


@pytest.mark.parametrize("source", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", FOUR_BIT)
def test_half_precision_files_give_the_codes_of_bitsandbytes(name, source):
    weight = torch.randn(32, 128).to(source)
    codes, _ = bnb.quantize_4bit(weight, blocksize=64, quant_type=name)

    flat = make_codec(name, CodecOptions()).encode(weight)

    assert torch.equal(flat[: codes.numel()], codes.view(-1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_none_keeps_the_numbers(dtype):
    weight = torch.randn(9, 7).to(dtype)
    codec = make_codec("none", CodecOptions(dtype=dtype))

    assert torch.equal(codec.decode(codec.encode(weight), (9, 7), dtype), weight)


@pytest.mark.parametrize("name", sorted(codecs()))
def test_bytes_that_do_not_lie_on_a_word_decode_the_same(name):
    weight = torch.randn(12, 20)
    codec = make_codec(name, CodecOptions())
    flat = codec.encode(weight)
    shifted = torch.cat([torch.zeros(1, dtype=torch.uint8), flat])[1:]

    one, other = (codec.decode(bytes_, (12, 20), torch.float32) for bytes_ in (flat, shifted))

    assert torch.equal(one, other)


@pytest.mark.parametrize("name", FOUR_BIT)
def test_fp64_is_widened_from_fp32(name):
    codec = make_codec(name, CodecOptions())
    flat = codec.encode(torch.randn(8, 64))

    wide = codec.decode(flat, (8, 64), torch.float64)

    assert torch.equal(wide, codec.decode(flat, (8, 64), torch.float32).double())


def test_a_block_size_of_no_kernel_is_refused_with_those_that_are():
    with pytest.raises(RecipeError, match=r"(?s)model\.block: 100 .*4096"):
        make_codec("nf4", CodecOptions(block=100))
