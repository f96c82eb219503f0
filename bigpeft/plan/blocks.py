"""The model's blocks, and what they mean for DeepSpeed's gathering."""

from torch import nn

_BUCKET = 2**25


def largest_block(model: nn.Module) -> int:
    """Elements of the largest repeated block (decoder layer), frozen bytes and trained numbers."""
    stacks = [m for m in model.modules() if isinstance(m, nn.ModuleList) and len(m)]
    blocks = [sum(p.numel() for p in block.parameters()) for stack in stacks for block in stack]
    return max(blocks, default=sum(p.numel() for p in model.parameters()))


def reduce_bucket(trained: list[int]) -> int:
    """Elements that are reduced together; DeepSpeed's own 5e8 would take more memory than adapters.

    A larger parameter is reduced by itself, and needs no bucket.
    """
    return max(1, min(sum(trained), _BUCKET))


def persistence_threshold(model: nn.Module, trained: list[int], packed: list[int]) -> int:
    """Elements up to which a parameter stays gathered: adapters and norms, never packed bytes.

    Where an adapter is larger than the smallest packed weight no threshold separates them; then
    this one stays below the packed weights, and the engine marks the adapters themselves.
    """
    small = [p.numel() for p in model.parameters() if p.dim() == 1 and p.is_floating_point()]
    wanted = max(trained + small, default=0)
    return min(wanted, min(packed, default=wanted + 1) - 1)
