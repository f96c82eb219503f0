"""Every method keeps the contract. Oracle: dense algebra on the weight behind the bytes.

A method is found by its file. Its options are chosen to fit each shape, and every switch among them
is tried both ways.
"""

import math
from itertools import product
from typing import Any, Literal, get_args, get_origin

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor
from torch.autograd import grad
from torch.nn import functional as F
from torch.testing import assert_close

from bigpeft.errors import RecipeError, ShapeError
from bigpeft.methods import LinearMethod, Step, linear_methods
from bigpeft.methods.algebra import top_singular
from tests.oracles.dense import build, freeze, frozen_linear, nudge, packed, random_weight, seated

METHODS = sorted(linear_methods())
SHAPES = [(24, 16), (16, 24), (8, 8), (21, 34), (9, 70)]
TOLERANCE = {
    torch.float64: {"atol": 1e-6, "rtol": 1e-6},  # parameters are fp32
    torch.float32: {"atol": 1e-5, "rtol": 1e-5},
    torch.bfloat16: {"atol": 3e-2, "rtol": 3e-2},  # 8 bits of mantissa
}
START_NOISE = {"lora_xs": 1e-3}  # its core starts at 1e-5 times the scaling and σ
SIZES = {
    "rank": [4, 3, 2, 1],
    "block_size": [4, 2, *range(3, 81)],
    "factors": [2, 1],
    "frequencies": [20, 1],
    "directions": [5],
    "block": [7],
}
FORMULAS = {  # of methods that no weight can hold
    "bitfit": lambda m, weight, x: F.linear(x, weight) + m.offset,
    "parallel_adapter": lambda m, weight, x: (
        F.linear(x, weight) + m.scaling * m.activation(x @ m.lora_A.T.to(x)) @ m.lora_B.T.to(x)
    ),
}


def switches(name: str) -> list[dict[str, Any]]:
    """Options that choose between forms of a method, each away from its default."""
    found: list[dict[str, Any]] = []
    for key, field in linear_methods()[name].Options.model_fields.items():
        if field.annotation is bool:
            found.append({key: not field.default})
        if get_origin(field.annotation) is Literal:
            found += [{key: v} for v in get_args(field.annotation) if v != field.default]
    return found


CASES = [(name, chosen) for name in METHODS for chosen in [{}, *switches(name)]]
CASES += [("lokr", {"factor": 2}), ("boft", {"factors": 3}), ("pissa", {"iterations": 3})]

BY_ROWS = [(name, chosen) for name, chosen in CASES if linear_methods()[name].by_rows]


def options_for(name: str, shape: tuple[int, int], **chosen: Any) -> dict[str, Any] | None:
    """The first sizes that this method takes on this shape, None where there are none."""
    method = linear_methods()[name]
    linear = frozen_linear(shape)
    sizes = {k: v for k, v in SIZES.items() if k in method.Options.model_fields}
    for values in product(*sizes.values()):
        options = dict(zip(sizes, values, strict=True)) | chosen
        try:
            method(linear, method.Options(**options))
        except (ShapeError, ValidationError):
            continue
        return options
    return None


def fitted(
    name: str, shape: tuple[int, int], layer: str = "layer.q_proj", **chosen: Any
) -> tuple[Any, Tensor, LinearMethod]:
    """`seated` with options that fit, or skip."""
    weight = chosen.pop("weight", None)
    options = options_for(name, shape, **chosen)
    if options is None:
        pytest.skip(f"{name} takes no weight of shape {shape}")
    return seated(name, shape, layer=layer, weight=weight, **options)


def after(method: LinearMethod, number: int) -> None:
    """Tell a method that step `number` is made."""
    type(method).after_step([method], Step(number, 10, tensors=None))  # type: ignore[arg-type]


def by_formula(name: str, method: LinearMethod, weight: Tensor, x: Tensor) -> Tensor:
    """What the method says it computes, without the operator."""
    if method.mergeable:
        return F.linear(x, method.merge(weight))
    return FORMULAS[name](method, weight, x)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("name", "chosen"), CASES, ids=str)
def test_values_and_gradients_equal_the_merged_dense_weight(name, chosen, shape, dtype):
    linear, weight, method = fitted(name, shape, **chosen)
    nudge(method)
    x = torch.randn(3, 5, linear.in_features, dtype=dtype, requires_grad=True)
    upstream = torch.randn(3, 5, linear.out_features, dtype=dtype)
    wrt = [x, *method.parameters()]

    y = method(linear, x)
    expected = by_formula(name, method, weight.double(), x.double())

    assert y.dtype == dtype
    scale = max(1.0, expected.abs().max().item())
    assert_close(y.double() / scale, expected / scale, **TOLERANCE[dtype])
    ours, theirs = grad(y, wrt, upstream), grad(expected, wrt, upstream.double())
    for one, other in zip(ours, theirs, strict=True):
        summed = (y.numel() / one.numel()) ** 0.5  # a scalar's gradient sums many rounded numbers
        scale = max(1.0, summed, other.abs().max().item())
        assert_close(one.double() / scale, other.double() / scale, **TOLERANCE[dtype])


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("name", "chosen"), CASES, ids=str)
def test_the_start_is_the_identity_before_anything_is_quantised(name, chosen, shape):
    _, _, method = fitted(name, shape, **chosen)
    dense, x = random_weight(shape), torch.randn(4, shape[1])

    frozen = method.start(dense) if method.needs_dense else dense
    method.measure(frozen)

    start = by_formula(name, method, frozen, x)
    assert_close(start, F.linear(x, dense), atol=START_NOISE.get(name, 1e-5), rtol=1e-5)


@pytest.mark.parametrize(("name", "chosen"), CASES, ids=str)
def test_the_start_is_the_identity_over_four_bits_unless_a_residual_is_frozen(name, chosen):
    linear, weight, method = fitted(name, (24, 16), **chosen)
    x = torch.randn(4, 16)

    start = method(linear, x)

    assert_close(start, by_formula(name, method, weight, x))
    if not method.needs_dense or method.start(weight) is weight:
        assert_close(
            start, F.linear(x, packed((24, 16))[1]), atol=START_NOISE.get(name, 1e-5), rtol=1e-5
        )


@pytest.mark.parametrize("zero_rows", [0, 2])
@pytest.mark.parametrize(("name", "chosen"), CASES, ids=str)
def test_the_first_step_has_finite_gradients_and_moves_something(name, chosen, zero_rows):
    weight = random_weight((24, 16), zero_rows=zero_rows)
    linear, _, method = fitted(name, (24, 16), weight=weight, **chosen)
    x = torch.randn(4, 16, requires_grad=True)

    y = method(linear, x)
    gradients = grad(y.square().sum(), [x, *method.parameters()])

    assert all(torch.isfinite(g).all() for g in (y, *gradients))
    assert any(g.abs().max() > 0 for g in gradients[1:])
    y = nudge(method)(linear, x)
    gradients = grad(y.square().sum(), [x, *method.parameters()])
    assert all(torch.isfinite(g).all() for g in (y, *gradients))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("layer", ["layer.q_proj", "layer.mlp.down_proj"])
@pytest.mark.parametrize("name", METHODS)
def test_the_count_is_that_of_its_parameters(name, layer, shape):
    linear, _, method = fitted(name, shape, layer=layer)
    options = linear_methods()[name].Options(**options_for(name, shape))

    count = linear_methods()[name].count(options, linear)

    assert count == sum(p.numel() for p in method.parameters() if p.requires_grad)


@pytest.mark.parametrize(("name", "chosen"), CASES, ids=str)
def test_the_state_round_trips(name, chosen):
    linear, weight, moved = fitted(name, (24, 16), **chosen)
    nudge(moved)
    _, _, fresh = fitted(name, (24, 16), weight=torch.ones(24, 16), **chosen)
    x = torch.randn(4, 16)

    fresh.load_state_dict(moved.state_dict())

    assert torch.equal(fresh(linear, x), moved(linear, x))
    assert torch.equal(by_formula(name, fresh, weight, x), by_formula(name, moved, weight, x))


@pytest.mark.parametrize(("name", "chosen"), CASES, ids=str)
def test_merging_keeps_the_dtype_and_leaves_the_weight_alone(name, chosen):
    _, weight, method = fitted(name, (24, 16), **chosen)
    nudge(method)
    before = weight.clone()

    if not method.mergeable:
        with pytest.raises(RecipeError, match="does not merge"):
            method.merge(weight)
        return

    assert method.merge(weight.bfloat16()).dtype == torch.bfloat16
    assert torch.equal(weight, before)


@pytest.mark.parametrize(("name", "chosen"), BY_ROWS, ids=str)
def test_a_few_rows_merge_as_all_of_them_do(name, chosen):
    _, weight, method = fitted(name, (24, 16), **chosen)
    nudge(method)

    pieces = [slice(start, start + 7) for start in range(0, 24, 7)]
    merged = torch.cat([method.merge_rows(weight[rows], rows) for rows in pieces])

    assert_close(merged, method.merge(weight), rtol=1e-6, atol=1e-6)
    assert method.merge_rows(weight[:3].bfloat16(), slice(0, 3)).dtype == torch.bfloat16


@pytest.mark.parametrize("name", METHODS)
def test_a_skeleton_on_the_meta_device_fills_as_the_loader_fills_it(name):
    linear, weight = packed((24, 16))
    options = options_for(name, (24, 16))
    linear.base.packed = torch.nn.Parameter(linear.base.packed.to("meta"), requires_grad=False)
    method = linear_methods()[name](linear, linear_methods()[name].Options(**options))
    on_meta = {tensor.device.type for tensor in method.state_dict(keep_vars=True).values()}

    with torch.no_grad():
        method.to_empty(device="cpu").reset()
        frozen = method.start(weight) if method.needs_dense else weight
        method.measure(freeze(linear, frozen))

    assert on_meta == {"meta"}
    assert torch.isfinite(method(linear, torch.randn(4, 16))).all()


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_lora_dash_after_its_switch_equals_the_merged_dense_weight(shape, dtype):
    linear, weight, method = fitted("lora_dash", shape, switch_step=3)
    nudge(method)
    x = torch.randn(6, shape[1], dtype=dtype, requires_grad=True)
    wrt = [x, *method.parameters()]

    closed = grad(method(linear, x).sum(), method.dash)[0]
    for step in (1, 2, 3, 4):
        after(method, step)
    y, expected = method(linear, x), F.linear(x.double(), method.merge(weight.double()))

    assert not closed.any()
    assert_close(y.double(), expected, **TOLERANCE[dtype])
    ours, theirs = grad(y.sum(), wrt), grad(expected.sum(), wrt)
    for one, other in zip(ours, theirs, strict=True):
        scale = max(1.0, (y.numel() / one.numel()) ** 0.5, other.abs().max().item())
        assert_close(one.double() / scale, other.double() / scale, **TOLERANCE[dtype])


def test_lora_dash_chooses_once_the_directions_that_change_most_for_their_size():
    _, weight, method = fitted("lora_dash", (24, 16), switch_step=3)
    nudge(method)
    left, values, right = torch.linalg.svd(weight, full_matrices=False)
    change = torch.diag(left.T @ method.delta(torch.float32) @ right.T).abs() / values

    after(method, 2)
    assert not method.opened.any()
    after(method, 3)
    chosen = method.chosen.clone()
    nudge(method)
    after(method, 4)

    assert set(chosen.tolist()) == set(change.topk(5).indices.tolist())
    assert torch.equal(method.chosen, chosen)
    assert set(method.evolving) <= set(dict(method.named_buffers()))


def test_pissa_leaves_less_error_in_four_bits_than_quantising_the_weight_itself():
    dense = random_weight((24, 16))
    linear, quantised = packed((24, 16))
    method = build("pissa", linear, dense, rank=8)

    start = method.merge(linear.base.dense(torch.float32))

    assert (start - dense).norm() < 0.8 * (quantised - dense).norm()


def test_dora_measures_the_weight_as_it_is_frozen():
    linear, weight, method = fitted("dora", (24, 16), weight=random_weight((24, 16)))
    x = torch.randn(4, 16)

    assert_close(method.row_squares, weight.square().sum(dim=1))
    assert torch.equal(method(linear, x), linear.base(torch.cat([x, method.lora_A]))[:4])


@pytest.mark.parametrize(
    ("name", "options", "fix"),
    [
        ("oft", {"block_size": 5}, "block_size to 2 or 4"),
        ("boft", {"block_size": 6, "factors": 2}, "block_size to 4 or 8"),
        ("boft", {"block_size": 3, "factors": 2}, "even number"),
        ("fourierft", {"frequencies": 400}, "384 or less"),
        ("pica", {"rank": 17}, "16 or less"),
        ("loha", {"rank": 17}, "16 or less"),
    ],
)
def test_options_that_do_not_fit_are_refused_with_the_layer_and_the_fix(name, options, fix):
    linear, weight = packed((24, 16), name="model.layers.3.q_proj")

    with pytest.raises(ShapeError, match=r"layers\.3\.q_proj: ") as caught:
        build(name, linear, weight, **options)

    assert fix in caught.value.fix


@pytest.mark.parametrize("rank", [1, 5])
@pytest.mark.parametrize("shape", [(40, 30), (30, 40)])
def test_a_randomised_svd_finds_the_largest_triplets(shape, rank):
    torch.manual_seed(0)
    left, _ = torch.linalg.qr(torch.randn(shape[0], 30))
    right, _ = torch.linalg.qr(torch.randn(shape[1], 30))
    weight = left @ torch.diag(0.7 ** torch.arange(30.0)) @ right.T

    exact, fast = top_singular(weight, rank), top_singular(weight, rank, iterations=4)

    for one, other in zip(exact, fast, strict=True):
        assert_close(one, other, atol=1e-5, rtol=1e-4)
    assert (exact[0].gather(0, exact[0].abs().argmax(0, keepdim=True)) > 0).all()


def test_a_large_matrix_gets_a_randomised_svd_within_its_stated_error_unless_exact_is_asked():
    torch.manual_seed(0)
    rank, smaller = 8, 1040
    weight = torch.randn(1100, smaller) / 32  # a flat spectrum, the hardest case
    exact = torch.linalg.svdvals(weight)

    left, values, right = top_singular(weight, rank)
    asked = top_singular(weight, rank, iterations=0)

    c = 1 + (rank / 7) ** 0.5 + math.e * (rank + 8) ** 0.5 * (smaller - rank) ** 0.5 / 8
    error = torch.linalg.matrix_norm(weight - left * values @ right, 2)
    assert exact[rank] <= error <= (1 + c ** (1 / 9)) * exact[rank]
    assert_close(asked[1], exact[:rank])
    assert not torch.allclose(values, exact[:rank], rtol=1e-6)


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


@pytest.mark.parametrize("name", METHODS)
def test_scales_are_never_decayed(name):
    _, _, method = fitted(name, (24, 16))
    scales = ("scale", "offset", "magnitude", "dash")

    decayed = [key for key, _ in method.named_parameters() if method.role(key).decay]

    assert not [key for key in decayed if key.startswith(scales) and "offset_" not in key]


@pytest.mark.parametrize("name", [n for n in METHODS if linear_methods()[n].mpc_patterns])
def test_a_rank_above_the_smaller_side_is_refused_with_the_layer_and_the_fix(name):
    linear, weight = packed((24, 16), name="model.layers.3.q_proj")

    with pytest.raises(ShapeError, match=r"layers\.3\.q_proj: rank 17 .*16") as caught:
        build(name, linear, weight, rank=17)

    assert "16 or less" in caught.value.fix


@settings(max_examples=60, deadline=None)
@given(
    out_features=st.integers(1, 40),
    in_features=st.integers(1, 80),
    alpha=st.floats(0.5, 64),
    case=st.sampled_from(CASES),
)
def test_any_shape_and_options_equal_the_dense_algebra(out_features, in_features, alpha, case):
    name, chosen = case
    shape = (out_features, in_features)
    options = options_for(name, shape, **chosen)
    assume(options is not None)
    if "alpha" in linear_methods()[name].Options.model_fields:
        options["alpha"] = alpha
    linear, weight, method = seated(name, shape, **options)
    nudge(method)
    x = torch.randn(2, in_features)

    expected = by_formula(name, method, weight.double(), x.double())

    scale = max(1.0, expected.abs().max().item())
    assert_close(method(linear, x).double() / scale, expected / scale, atol=2e-5, rtol=2e-5)


def test_lora_plus_gives_b_its_own_learning_rate():
    linear, weight = packed((24, 16))
    method = build("lora_plus", linear, weight, learning_rate_ratio=16)

    assert method.role("lora_B").learning_rate_scale == 16
    assert method.role("lora_A").learning_rate_scale == 1
