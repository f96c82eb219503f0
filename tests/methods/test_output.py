"""Methods behind a linear keep their contract. Oracle: dense algebra in fp64."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import grad
from torch.nn import functional as F
from torch.testing import assert_close

from bigpeft.methods import OutputMethod, methods
from bigpeft.methods.mpc import FUNCTIONS
from bigpeft.placement import Placement, matches, place
from tests.backbone.families import FAMILIES
from tests.oracles.dense import frozen_linear, nudge, packed
from tests.placement.test_place import filled, skeleton

METHODS = sorted(name for name, m in methods().items() if issubclass(m, OutputMethod))
DEFAULTS = {"houlsby": (32, "silu"), "pfeiffer": (64, "relu")}
TOLERANCE = {
    torch.float64: {"atol": 1e-12, "rtol": 1e-12},
    torch.float32: {"atol": 1e-5, "rtol": 1e-5},
    torch.bfloat16: {"atol": 3e-2, "rtol": 3e-2},  # 8 bits of mantissa
}
ENDS = {  # of attention and feed-forward part
    "gpt2": ("attn.c_proj", "mlp.c_proj"),
    "gpt_neox": ("attention.dense", "mlp.dense_4h_to_h"),
    "opt": ("self_attn.out_proj", "fc2"),
    "phi": ("self_attn.dense", "mlp.fc2"),
}


def build(name: str, shape: tuple[int, int] = (24, 16), **options) -> OutputMethod:
    """A method at its start behind a linear of this shape."""
    method = methods()[name]
    built = method(packed(shape)[0], method.Options(**options))
    torch.manual_seed(1)
    built.reset()
    return built


def dense(method: OutputMethod, activation: str, y: Tensor) -> Tensor:
    """y + U f(D y + b₁) + b₂ in fp64."""
    down, inner, up, outer = (p.double() for p in method.parameters())
    return y + FUNCTIONS[activation](y @ down.T + inner) @ up.T + outer


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("activation", FUNCTIONS)
@pytest.mark.parametrize("rank", [1, 8, 40])
@pytest.mark.parametrize("name", METHODS)
def test_values_and_gradients_equal_the_dense_algebra(name, rank, activation, dtype):
    method = nudge(build(name, rank=rank, activation=activation)).to(dtype)
    y = torch.randn(3, 5, 24, dtype=dtype, requires_grad=True)
    upstream = torch.randn(3, 5, 24, dtype=dtype)
    wrt = [y, *method.parameters()]

    out, expected = method(y), dense(method, activation, y.double())

    assert out.dtype == dtype
    scale = max(1.0, expected.abs().max().item())
    assert_close(out.double() / scale, expected / scale, **TOLERANCE[dtype])
    ours, theirs = grad(out, wrt, upstream), grad(expected, wrt, upstream.double())
    for one, other in zip(ours, theirs, strict=True):
        scale = max(1.0, other.abs().max().item())
        assert_close(one.double() / scale, other.double() / scale, **TOLERANCE[dtype])


@settings(max_examples=40, deadline=None)
@given(
    name=st.sampled_from(METHODS),
    features=st.integers(1, 50),
    rank=st.integers(1, 70),
    leading=st.lists(st.integers(1, 4), max_size=3),
)
def test_any_shape_equals_the_dense_algebra_and_is_counted(name, features, rank, leading):
    method = nudge(build(name, (features, 8), rank=rank))
    y = torch.randn(*leading, features)

    assert_close(
        method(y).double(), dense(method, DEFAULTS[name][1], y.double()), atol=1e-4, rtol=1e-5
    )
    numbers = sum(p.numel() for p in method.parameters() if p.requires_grad)
    options = type(method).Options(rank=rank)
    assert type(method).count(options, frozen_linear((features, 8))) == numbers
    assert numbers == 2 * rank * features + features + rank


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("name", METHODS)
def test_the_start_is_the_identity(name, dtype):
    y = torch.randn(2, 3, 24, dtype=dtype)

    assert torch.equal(build(name)(y), y)


@pytest.mark.parametrize("name", METHODS)
def test_the_first_step_moves_what_lies_behind_the_function(name):
    method = build(name)
    y = torch.randn(4, 24)

    gradients = dict(
        zip(
            dict(method.named_parameters()),
            grad(method(y).square().sum(), list(method.parameters())),
            strict=True,
        )
    )

    assert all(torch.isfinite(g).all() for g in gradients.values())
    assert [key for key, g in gradients.items() if g.any()] == ["up", "up_bias"]


@pytest.mark.parametrize("name", METHODS)
def test_the_state_round_trips(name):
    moved, fresh = nudge(build(name)), build(name)
    y = torch.randn(4, 24)

    fresh.load_state_dict(moved.state_dict())

    assert torch.equal(fresh(y), moved(y))


@pytest.mark.parametrize("name", METHODS)
def test_the_defaults_are_those_that_the_docstring_gives(name):
    options = methods()[name].Options()

    assert (options.rank, options.activation, options.dropout) == (*DEFAULTS[name], 0.0)


@pytest.mark.parametrize("name", METHODS)
def test_dropout_is_at_work_in_training_only(name):
    method, y = nudge(build(name, dropout=0.5)), torch.randn(4, 24)
    plain = build(name)
    plain.load_state_dict(method.state_dict())

    assert not torch.equal(method(y), method(y))
    assert torch.equal(method.eval()(y), plain(y))


@pytest.mark.parametrize("name", METHODS)
def test_matrices_are_decayed_and_biases_are_not(name):
    method = build(name)

    decayed = {key for key, _ in method.named_parameters() if method.role(key).decay}

    assert decayed == {"down", "up"}


@pytest.mark.parametrize("family", FAMILIES)
def test_they_sit_at_the_ends_of_attention_and_feed_forward_part(family):
    kind = family.partition("-")[0]
    attention, feed_forward = ENDS.get(kind, ("self_attn.o_proj", "mlp.down_proj"))

    houlsby = list(place(skeleton(kind), Placement("houlsby")))
    pfeiffer = list(place(skeleton(kind), Placement("pfeiffer")))

    layers = [(n, end) for n in (0, 1) for end in (attention, feed_forward)]
    assert len(houlsby) == 4
    for name, (layer, end) in zip(houlsby, layers, strict=True):
        assert f".{layer}." in name
        assert matches(end, name)
    assert pfeiffer == houlsby[1::2]


@pytest.mark.parametrize("family", ["llama", "gpt2", "opt"])
@pytest.mark.parametrize("name", METHODS)
def test_behind_a_linear_and_its_bias_nothing_is_trained_but_the_adapter(name, family):
    model, seated = filled(Placement(name, {"rank": 8}), family)
    ids = torch.randint(3, 96, (2, 7))
    at_start = model.eval()(ids).logits
    for method in seated.values():
        nudge(method)

    logits = model(ids).logits
    logits.square().sum().backward()

    bare, _ = filled(Placement("lora"), family)
    assert torch.equal(at_start, bare.eval()(ids).logits)
    assert not torch.allclose(logits, at_start)
    moved = {id(p) for p in model.parameters() if p.grad is not None and p.grad.any()}
    assert moved == {id(p) for method in seated.values() for p in method.parameters()}


@pytest.mark.parametrize("name", METHODS)
def test_the_bias_of_the_linear_goes_through_the_adapter(name):
    model, seated = filled(Placement(name, {"rank": 8}), "gpt2")
    seat = model.transformer.h[0].mlp.c_proj
    seat.linear.bias.data.normal_()
    method, x = nudge(seated["transformer.h.0.mlp.c_proj"]), torch.randn(3, 192)

    y = F.linear(x, seat.linear.base.dense(torch.float32)) + seat.linear.bias

    assert_close(
        seat(x).double(),
        dense(method, DEFAULTS[name][1], y.double()).to(torch.float64),
        atol=1e-5,
        rtol=1e-5,
    )
