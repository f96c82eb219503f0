"""Oracle: the papers' formulas, on the dense weight, for methods that HF peft does not have."""

import pytest
import torch
from torch.testing import assert_close

from tests.oracles.dense import nudge, seated

SHAPE, RANK = (24, 16), 4


def triplets(weight, kept=slice(RANK)):
    """U, σ, Vᵀ with the sign that makes the largest entry of each column of U positive."""
    u, values, vt = torch.linalg.svd(weight, full_matrices=False)
    signs = u.gather(0, u.abs().argmax(0, keepdim=True)).sign()
    return (u * signs)[:, kept], values[kept], (vt * signs.T)[kept]


def cayley(matrix):
    q = (matrix - matrix.T) / 2
    eye = torch.eye(len(q))
    return (eye - q) @ torch.linalg.inv(eye + q)


def trilora(m, weight):
    return weight + 2.5 * m.lora_B @ torch.diag(m.core) @ m.lora_A


def flora(m, weight):
    return weight + 2.5 * m.lora_B @ m.core @ m.lora_A


def moslora(m, weight):
    return weight + 2.5 * m.lora_B @ m.mixer @ m.lora_A


def lora_fa(m, weight):
    return weight + 2.5 * m.lora_B @ m.lora_A


def map_(m, weight):
    length, update = weight.norm(), m.lora_B @ m.lora_A
    alpha, beta = length * (1 + m.scale_base), 1 + m.scale_update
    return alpha * weight / length + beta * update / (update.norm() + 1e-6)


def lora_xs(m, weight):
    u, values, vt = triplets(weight)
    return weight + 2.5 * u @ m.core @ torch.diag(values) @ vt


def spectral_additive(m, weight):
    u, values, vt = triplets(weight)
    rest = weight - u @ torch.diag(values) @ vt
    return (u + m.offset_left) @ torch.diag(values) @ (vt + m.offset_right) + rest


def spectral_rotational(m, weight):
    u, values, vt = triplets(weight)
    rest = weight - u @ torch.diag(values) @ vt
    turned = cayley(m.turn_left) @ torch.diag((1 + m.scale) * values) @ cayley(m.turn_right).T
    return u @ turned @ vt + rest


def pica(m, weight):
    return weight + m.up @ triplets(weight)[2]


def sam_parser(m, weight):
    u, values, vt = triplets(weight, slice(None))
    return u @ torch.diag(values + m.offset) @ vt


def svdiff(m, weight):
    u, values, vt = triplets(weight, slice(None))
    return u @ torch.diag(torch.relu(values + m.offset)) @ vt


def milora(m, weight):
    u, values, vt = triplets(weight, slice(-RANK, None))
    return weight - u @ torch.diag(values) @ vt + m.lora_B @ m.lora_A


@pytest.mark.parametrize(
    ("formula", "options"),
    [
        (trilora, {"rank": RANK, "alpha": 10}),
        (flora, {"rank": RANK, "alpha": 10}),
        (moslora, {"rank": RANK, "alpha": 10}),
        (lora_fa, {"rank": RANK, "alpha": 10}),
        (map_, {"rank": RANK}),
        (lora_xs, {"rank": RANK, "alpha": 10}),
        (spectral_additive, {"rank": RANK}),
        (spectral_rotational, {"rank": RANK}),
        (pica, {"rank": RANK}),
        (sam_parser, {}),
        (svdiff, {}),
        (milora, {"rank": RANK}),
    ],
)
def test_the_weight_is_that_of_the_paper(formula, options):
    name = formula.__name__.rstrip("_")
    linear, weight, method = seated(name, SHAPE, **options)
    nudge(method, size=0.5)
    wrt = list(method.parameters())
    x, upstream = torch.randn(5, SHAPE[1]), torch.randn(5, SHAPE[0])

    y, expected = method(linear, x), x @ formula(method, weight).T

    assert_close(y, expected, atol=1e-4, rtol=1e-4)
    ours = torch.autograd.grad(y, wrt, upstream)
    theirs = torch.autograd.grad(expected, wrt, upstream)
    for one, other in zip(ours, theirs, strict=True):
        scale = other.abs().max()
        assert_close(one / scale, other / scale, atol=1e-4, rtol=1e-3)


def test_a_singular_value_of_svdiff_stops_at_zero():
    linear, weight, method = seated("svdiff", SHAPE)
    torch.nn.init.constant_(method.offset, -100)

    assert_close(method.merge(weight), torch.zeros(SHAPE), atol=1e-4, rtol=0)
    assert_close(method(linear, torch.randn(3, 16)), torch.zeros(3, 24), atol=1e-4, rtol=0)


def test_lora_fa_trains_nothing_but_b():
    _, _, method = seated("lora_fa", SHAPE, rank=RANK)

    assert [name for name, _ in method.named_parameters()] == ["lora_B"]
    assert "lora_A" in method.state_dict()
