"""Every method keeps the contract. Oracle: dense algebra on the weight behind the bytes."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import grad
from torch.nn import functional as F
from torch.testing import assert_close

from bigpeft.errors import ShapeError
from bigpeft.methods import linear_methods
from tests.oracles.dense import build, nudge, packed

METHODS = sorted(linear_methods())
SHAPES = [(24, 16), (16, 24), (8, 8), (21, 34), (9, 70)]
TOLERANCE = {
    torch.float64: {"atol": 1e-6, "rtol": 1e-6},  # parameters are fp32
    torch.float32: {"atol": 1e-5, "rtol": 1e-5},
    torch.bfloat16: {"atol": 3e-2, "rtol": 3e-2},  # 8 bits of mantissa
}


def at_most(rank: int, shape: tuple[int, int]) -> dict[str, int]:
    return {"rank": min(rank, *shape)}


def options_for(name: str, shape: tuple[int, int]) -> dict[str, int]:
    return at_most(4, shape) if "rank" in linear_methods()[name].Options.model_fields else {}


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", METHODS)
def test_values_and_gradients_equal_the_merged_dense_weight(name, shape, dtype):
    linear, weight = packed(shape)
    method = nudge(build(name, linear, weight, **options_for(name, shape)))
    x = torch.randn(3, 5, linear.in_features, dtype=dtype, requires_grad=True)
    upstream = torch.randn(3, 5, linear.out_features, dtype=dtype)
    wrt = [x, *method.parameters()]

    y = method(linear, x)
    expected = F.linear(x.double(), method.merge(weight.double()))

    assert y.dtype == dtype
    assert_close(y.double(), expected, **TOLERANCE[dtype])
    ours, theirs = grad(y, wrt, upstream), grad(expected, wrt, upstream.double())
    for one, other in zip(ours, theirs, strict=True):
        scale = max(1.0, other.abs().max().item())
        assert_close(one.double() / scale, other.double() / scale, **TOLERANCE[dtype])


@pytest.mark.parametrize("name", METHODS)
def test_the_start_is_the_identity(name):
    linear, weight = packed((24, 16))
    x = torch.randn(4, 16)

    method = build(name, linear, weight)

    assert_close(method(linear, x), F.linear(x, weight))
    assert_close(method.merge(weight), weight)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("layer", ["layer.q_proj", "layer.mlp.down_proj"])
@pytest.mark.parametrize("name", METHODS)
def test_the_count_is_that_of_its_parameters(name, layer, shape):
    linear, weight = packed(shape, name=layer)
    options = linear_methods()[name].Options(**options_for(name, shape))

    method = build(name, linear, weight, **options_for(name, shape))

    assert linear_methods()[name].count(options, linear) == sum(
        p.numel() for p in method.parameters()
    )


@pytest.mark.parametrize("name", METHODS)
def test_the_state_round_trips(name):
    linear, weight = packed((24, 16))
    moved = nudge(build(name, linear, weight))
    fresh = build(name, linear, weight)

    fresh.load_state_dict(moved.state_dict())

    assert torch.equal(fresh.merge(weight), moved.merge(weight))


@pytest.mark.parametrize("name", METHODS)
def test_merging_keeps_the_dtype_and_leaves_the_weight_alone(name):
    linear, weight = packed((24, 16))
    method = nudge(build(name, linear, weight))
    before = weight.clone()

    assert method.merge(weight.bfloat16()).dtype == torch.bfloat16
    assert torch.equal(weight, before)


@pytest.mark.parametrize("name", ["ia3", "ssb", "ssl"])
def test_a_small_step_of_a_scale_is_not_lost_in_bf16(name):
    linear, weight = packed((24, 16))
    method = build(name, linear, weight).to(torch.bfloat16)
    step = 5e-4  # bf16 numbers just above one lie 2⁻⁷ = 0.0078 apart

    with torch.no_grad():
        for parameter in method.parameters():
            parameter.add_(step)

    moved = method.merge(torch.ones_like(weight)) - 1
    assert moved.abs().min() >= 0.99 * step


@pytest.mark.parametrize("name", ["ia3", "ssb", "ssl"])
def test_scales_are_never_decayed(name):
    linear, weight = packed((24, 16))
    method = build(name, linear, weight)

    assert not any(method.role(key).decay for key, _ in method.named_parameters())


@pytest.mark.parametrize("name", [n for n in METHODS if linear_methods()[n].supports_mpc])
def test_a_rank_above_the_smaller_side_is_refused_with_the_layer_and_the_fix(name):
    linear, weight = packed((24, 16), name="model.layers.3.q_proj")

    with pytest.raises(ShapeError, match=r"layers\.3\.q_proj: rank 17 .*16") as caught:
        build(name, linear, weight, rank=17)

    assert "16 or less" in caught.value.fix


@settings(max_examples=25, deadline=None)
@given(
    out_features=st.integers(1, 40),
    in_features=st.integers(1, 80),
    rank=st.integers(1, 8),
    alpha=st.floats(0.5, 64),
    name=st.sampled_from(METHODS),
)
def test_any_shape_and_options_equal_the_dense_algebra(
    out_features, in_features, rank, alpha, name
):
    shape = (out_features, in_features)
    linear, weight = packed(shape)
    fields = linear_methods()[name].Options.model_fields
    options = {"alpha": alpha} | at_most(rank, shape) if "rank" in fields else {}
    method = nudge(build(name, linear, weight, **options))
    x = torch.randn(2, in_features)

    expected = F.linear(x.double(), method.merge(weight.double()))

    assert_close(method(linear, x).double(), expected, atol=2e-5, rtol=2e-5)


def test_lora_plus_gives_b_its_own_learning_rate():
    linear, weight = packed((24, 16))
    method = build("lora_plus", linear, weight, learning_rate_ratio=16)

    assert method.role("lora_B").learning_rate_scale == 16
    assert method.role("lora_A").learning_rate_scale == 1
