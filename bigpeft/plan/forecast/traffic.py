"""Bytes that an optimizer step moves, inside a node and between nodes.

Collectives are counted as rings, as NCCL and gloo make them: gathering B bytes over g ranks brings
B · (g − 1)/g to each, reducing and scattering as much, an all-reduce both.
"""

from dataclasses import dataclass

from bigpeft.plan.forecast.facts import Facts
from bigpeft.plan.forecast.setting import Setting


@dataclass(frozen=True)
class Traffic:
    """Bytes per step: `inside` over the link from a neighbour in the node, `between_nodes` over the
    network into a node. A ring crosses each border once, so both may carry the same collective.
    """

    gathers: int
    gradients: int
    inside: int
    between_nodes: int


def traffic_of(facts: Facts, setting: Setting) -> Traffic:
    """Two passes over the backbone for every micro-batch where it is cut; adapters' gradients are
    reduced by every micro-batch (ZeRO-2 and 3) or once, and their new values gathered once.
    """
    group = setting.copies[-1]  # from hpZ's second copy alone: frozen weights never change
    gathers = setting.accumulation * _ring(_passed(facts), group) if group > 1 else 0
    size = facts.trained * facts.itemsize
    times = setting.accumulation if setting.stage >= 2 else 1
    gradients = (times + 1) * _ring(size, setting.ranks)
    crossing = setting.nodes > 1
    spread = crossing and group > setting.gpus_per_node
    between = gradients * crossing + gathers * spread
    inside = gathers + gradients if setting.gpus_per_node > 1 else 0
    return Traffic(gathers, gradients, inside, between)


def _passed(facts: Facts) -> int:
    """Bytes of the frozen weights that one micro-batch asks for: blocks and head forward and
    backward, the embedding forward only. Recomputation shares the backward pass's gather.
    """
    size = facts.itemsize
    both = facts.packed + (facts.dense - (0 if facts.tied else facts.embedding)) * size
    return 2 * both + facts.embedding * size


def _ring(size: int, ranks: int) -> int:
    return size * (ranks - 1) // ranks
