"""Refusals of options that a layer cannot take, each naming the layer and the fix."""

from bigpeft.errors import ShapeError
from bigpeft.methods.operator import FrozenLinear


def refuse_rank_above_sides(linear: FrozenLinear, rank: int) -> None:
    """Raise ShapeError for a rank above the smaller side of W."""
    smaller = min(linear.in_features, linear.out_features)
    if rank > smaller:
        raise ShapeError(
            linear.name,
            f"rank {rank} is above min(in_features, out_features) = {smaller}",
            f"set method.rank to {smaller} or less, or leave this layer out of target_modules",
        )


def refuse_uneven_blocks(linear: FrozenLinear, block: int, step: int) -> None:
    """Raise ShapeError unless in_features is a multiple of `step`, what blocks of `block` need."""
    features = linear.in_features
    if features % step == 0:
        return
    per_block = step // block
    sizes = [n for n in range(2, features + 1) if features % (n * per_block) == 0]
    sizes = [n for n in sizes if per_block == 1 or n % 2 == 0]
    nearest = sorted(sorted(sizes, key=lambda n: abs(n - block))[:2])
    why = f"in_features {features} is no multiple of {step}, which block_size {block} needs"
    fix = "leave this layer out of target_modules"
    if nearest:
        fix = f"set method.block_size to {' or '.join(map(str, nearest))}, or {fix}"
    raise ShapeError(linear.name, why, fix)
