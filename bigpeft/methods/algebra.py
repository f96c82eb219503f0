"""Mathematics that methods share."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

_OVERSAMPLING = 8


def at_least_fp32(dtype: torch.dtype) -> torch.dtype:
    """bf16 and fp16 → fp32; fp32 and fp64 stay."""
    return torch.promote_types(dtype, torch.float32)


def widen(tensor: Tensor) -> Tensor:
    """At least fp32: bf16 and fp16 are promoted, fp64 stays fp64."""
    return tensor.to(at_least_fp32(tensor.dtype))


def scale_features(x: Tensor, offset: Tensor) -> Tensor:
    """X ⊙ (1 + offset) in x.dtype; x (..., n), offset (n), computed in the wider of the two."""
    return _ScaleFeatures.apply(x, offset)  # type: ignore[no-any-return]


class _ScaleFeatures(torch.autograd.Function):
    """Its backward makes half the passes over x that the derivative of addcmul makes."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, offset: Tensor) -> Tensor:
        ctx.save_for_backward(x, offset)
        return torch.addcmul(x, x, offset).to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None]:
        (grad,), (x, offset) = grads, ctx.saved_tensors
        of_x = of_offset = None
        if ctx.needs_input_grad[0]:
            of_x = torch.addcmul(grad, grad, offset).to(x.dtype)
        if ctx.needs_input_grad[1]:
            wide = torch.promote_types(x.dtype, offset.dtype)
            of_offset = (grad * x.to(wide)).sum_to_size(offset.shape).to(offset.dtype)
        return of_x, of_offset


def down_up(x: Tensor, down: Tensor, up: Tensor) -> Tensor:
    """Up · down · x in x.dtype; x (..., i), down (rank, i), up (o, rank) → (..., o)."""
    return F.linear(F.linear(x, down.to(x.dtype)), up.to(x.dtype))


EXACT_UP_TO = 1024
ITERATIONS = 4


def top_singular(
    weight: Tensor, rank: int, iterations: int | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """The `rank` largest singular triplets of W (o, i): U (o, rank), σ (rank), Vᵀ (rank, i).

    `iterations` 0 is the exact decomposition; more take a randomised range finder with as many
    power iterations (Halko et al., arXiv 0909.4061, algorithm 4.4), whose random numbers are always
    the same. None is exact up to a smaller side of 1024 and takes 4 iterations beyond. The largest
    entry of each column of U is positive, so that ranks agree.

    With q iterations the spectral norm of W - U Σ Vᵀ is expected to be at most
    (1 + c^(1 / (2q + 1))) · σ_(r+1), c = 1 + √(r/7) + e √(r+8) √(min(o, i) - r) / 8, by corollary
    10.10 and theorem 9.3 there; the least possible is σ_(r+1).
    """
    if iterations is None:
        iterations = 0 if min(weight.shape) <= EXACT_UP_TO else ITERATIONS
    if iterations == 0 or rank + _OVERSAMPLING >= min(weight.shape):
        u, values, vt = torch.linalg.svd(weight, full_matrices=False)
    else:
        generator = torch.Generator().manual_seed(0)
        probe = torch.randn(weight.shape[1], rank + _OVERSAMPLING, generator=generator)
        q = _orthonormal(weight @ probe.to(weight))
        for _ in range(iterations):
            q = _orthonormal(weight @ _orthonormal(weight.t() @ q))
        u, values, vt = torch.linalg.svd(q.t() @ weight, full_matrices=False)
        u = q @ u
    return _with_fixed_signs(u[:, :rank], values[:rank], vt[:rank])


def bottom_singular(weight: Tensor, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """The `rank` smallest singular triplets of W, in the shapes of `top_singular`."""
    u, values, vt = torch.linalg.svd(weight, full_matrices=False)
    return _with_fixed_signs(u[:, -rank:], values[-rank:], vt[-rank:])


def _orthonormal(columns: Tensor) -> Tensor:
    return torch.linalg.qr(columns).Q


def _with_fixed_signs(u: Tensor, values: Tensor, vt: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    largest = u.gather(0, u.abs().argmax(dim=0, keepdim=True))
    signs = torch.where(largest < 0, -1.0, 1.0).to(u)
    return u * signs, values, vt * signs.t()


def skew(upper: Tensor, size: int) -> Tensor:
    """Entries above the diagonal (..., size · (size - 1) / 2) → skew matrices (..., size, size)."""
    rows, columns = torch.triu_indices(size, size, 1, device=upper.device)
    matrix = upper.new_zeros(*upper.shape[:-1], size, size)
    matrix[..., rows, columns] = upper
    return matrix - matrix.mT


def cayley(matrix: Tensor) -> Tensor:
    """(I - Q)(I + Q)⁻¹, orthogonal for skew Q (..., k, k); exactly I at Q = 0. Wants fp32."""
    eye = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    return torch.linalg.solve(eye + matrix, eye - matrix, left=False)


def rotate_blocks(x: Tensor, blocks: Tensor) -> Tensor:
    """X · diag(R_1 … R_m) in x.dtype; x (..., m · k), blocks (m, k, k)."""
    parts = x.unflatten(-1, blocks.shape[:2])
    return torch.einsum("...mk,mkc->...mc", parts, blocks.to(x.dtype)).flatten(-2)
