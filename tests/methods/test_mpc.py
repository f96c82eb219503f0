"""Matrix pattern constraints. Oracle: the formulas of arXiv 2407.05417 in dense fp64 algebra."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch.autograd import grad, gradcheck
from torch.nn import functional as F
from torch.testing import assert_close

from bigpeft.errors import RecipeError
from bigpeft.methods import Mpc, linear_methods
from bigpeft.placement import Placement, place
from tests.oracles.dense import build, nudge, packed
from tests.placement.test_place import skeleton

CONSTRAINED = sorted(name for name, m in linear_methods().items() if m.mpc_patterns)
BENT = sorted(name for name, m in linear_methods().items() if "n" in m.mpc_patterns)
LIKE_LORA = {"lora", "rslora", "lora_plus", "dora", "trilora", "flora", "moslora"}


def orthonormal(gram):
    return (gram - torch.eye(len(gram), dtype=gram.dtype)).square().sum()


def orthogonal(gram):
    return (gram - torch.diag(torch.diag(gram))).square().sum()


def constrained(name, shape=(24, 16), rank=4, **mpc):
    linear, weight = packed(shape)
    method = build(name, linear, weight, rank=rank)
    method.constrain(Mpc(**mpc))
    return linear, linear.base.dense(torch.float32), method


def test_every_method_of_the_lora_line_takes_all_that_its_algebra_allows():
    assert set(CONSTRAINED) >= LIKE_LORA
    assert {"pissa", "milora"} <= set(CONSTRAINED)
    assert set(BENT) >= LIKE_LORA - {"dora"}


@pytest.mark.parametrize("name", CONSTRAINED)
@pytest.mark.parametrize("pattern", ["o", "d"])
def test_the_penalty_is_that_of_the_paper(name, pattern):
    *_, method = constrained(name, pattern=pattern, weight=0.25)
    nudge(method)
    used = getattr(method, "mask", torch.ones(len(method.lora_A))) > 0
    a, b = method.lora_A[used].double(), method.lora_B[:, used].double()

    second = orthonormal if pattern == "o" else orthogonal
    expected = 0.25 * (orthonormal(a @ a.T) + second(b.T @ b))

    assert_close(method.penalty().double(), expected, rtol=1e-5, atol=1e-6)
    ours, theirs = (grad(p, [method.lora_A, method.lora_B]) for p in (method.penalty(), expected))
    for one, other in zip(ours, theirs, strict=True):
        assert_close(one, other, rtol=1e-4, atol=1e-5)


@settings(max_examples=30, deadline=None)
@given(
    rank=st.integers(1, 6),
    out_features=st.integers(6, 20),
    in_features=st.integers(6, 20),
    pattern=st.sampled_from("od"),
    norm=st.sampled_from(["fro", "fro2"]),
    orthonormal_factor=st.sampled_from("AB"),
)
def test_any_shape_and_norm(rank, out_features, in_features, pattern, norm, orthonormal_factor):
    own = {"orthonormal": orthonormal_factor} if pattern == "d" else {}
    mpc = Mpc(pattern=pattern, weight=1, norm=norm, **own)
    a = torch.randn(rank, in_features, dtype=torch.double, requires_grad=True)
    b = torch.randn(out_features, rank, dtype=torch.double, requires_grad=True)
    of_a, of_b = orthonormal, orthonormal
    if pattern == "d" and orthonormal_factor == "A":
        of_b = orthogonal
    elif pattern == "d":
        of_a = orthogonal
    terms = of_a(a @ a.T), of_b(b.T @ b)

    expected = sum(terms) if norm == "fro2" else (terms[0].sqrt() + terms[1].sqrt()) / 2

    assert_close(mpc.penalty(a, b), expected)


def test_the_gradient_is_that_of_finite_differences():
    a = torch.randn(3, 7, dtype=torch.double, requires_grad=True)
    b = torch.randn(5, 3, dtype=torch.double, requires_grad=True)
    for mpc in (
        Mpc(pattern="o", weight=1),
        Mpc(pattern="d", weight=1),
        Mpc(pattern="o", weight=1, norm="fro"),
    ):
        assert gradcheck(mpc.penalty, (a, b))


def test_at_the_start_of_lora_b_has_no_slope_and_an_orthonormal_a_no_penalty():
    linear, weight = packed((24, 16))
    method = build("lora", linear, weight, rank=4)
    method.constrain(Mpc(pattern="d", weight=1, orthonormal_start=True))
    method.reset()

    assert_close(method.penalty(), torch.tensor(0.0), atol=1e-9, rtol=0)
    slopes = grad(method.penalty(), [method.lora_B])
    assert not slopes[0].any()
    assert_close(method.lora_A @ method.lora_A.T, torch.eye(4))


@pytest.mark.parametrize("name", ["trilora", "flora", "adalora"])
def test_an_orthonormal_start_takes_b_along_where_a_zero_core_keeps_the_identity(name):
    linear, _, method = constrained(name, pattern="o", weight=1, orthonormal_start=True)
    method.reset()
    x = torch.randn(3, 16)

    assert_close(method.penalty(), torch.tensor(0.0), atol=1e-5, rtol=0)
    assert_close(method(linear, x), linear.base(x))


@pytest.mark.parametrize("name", BENT)
@pytest.mark.parametrize("activation", ["relu", "silu", "tanh"])
def test_n_bends_what_lies_between_the_factors_and_no_longer_merges(name, activation):
    linear, weight, method = constrained(name, pattern="n", activation=activation)
    nudge(method)
    x = torch.randn(5, 16, dtype=torch.double)
    function = {"relu": F.relu, "silu": F.silu, "tanh": torch.tanh}[activation]
    a, b = method.lora_A.double(), method.lora_B.double()

    expected = x @ weight.double().T + method.scaling * method.inner(function(x @ a.T)) @ b.T

    assert_close(method(linear, x), expected, rtol=1e-6, atol=1e-6)
    assert method.penalty() is None
    with pytest.raises(RecipeError, match="does not merge"):
        method.merge(weight)


def test_n_with_relu_is_the_parallel_adapter():
    linear, weight, bent = constrained("lora", pattern="n")
    beside = build("parallel_adapter", linear, weight, rank=4)
    nudge(bent)
    beside.load_state_dict(bent.state_dict())
    x = torch.randn(5, 16)

    assert torch.equal(bent(linear, x), beside(linear, x))


@pytest.mark.parametrize(
    ("method", "mpc", "expected"),
    [
        ("ssl", {"pattern": "o"}, r"mpc: constrains two trained low-rank factors, ssl has none"),
        ("lora_fa", {"pattern": "d"}, r"mpc: .*lora_fa has none"),
        ("dora", {"pattern": "n"}, r"mpc.pattern: n does not go with dora"),
        ("pissa", {"pattern": "n"}, r"mpc.pattern: n does not go with pissa"),
        (
            "milora",
            {"pattern": "o", "orthonormal_start": True},
            r"mpc.orthonormal_start: A starts as a part of W",
        ),
    ],
)
def test_a_constraint_that_makes_no_sense_is_refused_with_the_fix(method, mpc, expected):
    with pytest.raises(RecipeError, match=expected) as caught:
        place(skeleton(), Placement(method, mpc=Mpc(**mpc)))

    assert caught.value.fix


@pytest.mark.parametrize(
    ("mpc", "expected"),
    [
        ({"pattern": "n", "weight": 1}, "has weight, which pattern n does not take"),
        ({"pattern": "o", "orthonormal": "B"}, "has orthonormal, which pattern o does not take"),
        ({"pattern": "d", "activation": "tanh"}, "has activation, which pattern d does not take"),
    ],
)
def test_an_option_of_another_pattern_is_refused(mpc, expected):
    with pytest.raises(ValidationError, match=expected):
        Mpc(**mpc)


def test_the_hazard_of_o_is_told_where_nothing_between_the_factors_can_balance_it():
    *_, risky = constrained("lora", pattern="o")
    *_, balanced = constrained("trilora", pattern="o")
    *_, harmless = constrained("lora", pattern="d")

    assert "alpha / rank = 4" in risky.remark()
    assert balanced.remark() is harmless.remark() is None
