"""Bytes on one rank by phase and kind."""

from bigpeft.plan.forecast.facts import Facts
from bigpeft.plan.forecast.setting import Setting

PHASES = ("load", "forward", "backward", "step")
Bytes = dict[str, int]


def bytes_by_phase(facts: Facts, setting: Setting, bucket: int) -> dict[str, Bytes]:
    """Phase → kind → bytes; `bucket` is the number of gradients that are reduced together.

    Kinds that stay from the first step to the last come first. At the loss the logits are there
    and nothing is decoded; in backward one layer lives again under checkpointing.
    """
    f, size = facts, facts.itemsize
    held = held_by_kind(facts, setting, bucket)
    kept = setting.micro_size * f.activations.kept(f.layers, setting.checkpointing)
    logits = setting.micro_size * f.activations.logits
    again = setting.micro_size * f.activations.layer if setting.checkpointing else 0
    block = f.block.bytes(size) if setting.gathers else 0
    blocks = 3 * block  # one in use, the next, and the buffer through which that came
    ends = max(f.embedding, f.head) * size if setting.gathers else 0
    decoded = f.largest * size
    backbone = ("packed", "dense", "trained", "buffers")
    passing = setting.micro_size * f.activations.stream
    update = 0 if setting.offload else -(-f.trained * 4 // _cut(setting.ranks, setting.stage >= 1))
    in_blocks = {"gathered": blocks, "decoded": decoded}
    at_head = {"gathered": max(ends, block), "logits": logits}
    return {
        "load": _while_loading(facts, setting, {kind: held[kind] for kind in backbone}),
        "forward": held | {"activations": kept} | _larger(in_blocks, at_head),
        "backward": held
        | _larger(
            {
                "gathered": max(blocks, 2 * block + ends) if setting.checkpointing else blocks,
                "decoded": decoded,
                "activations": kept + again + 2 * passing,
            },
            at_head | {"activations": kept},
        ),
        "step": held | {"update": 2 * update if setting.stage else update},
    }


def _larger(one: Bytes, other: Bytes) -> Bytes:
    return max(one, other, key=lambda kinds: sum(kinds.values()))


def held_by_kind(facts: Facts, setting: Setting, bucket: int) -> Bytes:
    """What a rank keeps from the first step to the last.

    ZeRO-3 cuts frozen weights over the group, gradients and masters over the world, and keeps a cut
    beside every parameter that it leaves whole. Masters and two moments are fp32.
    """
    f, size, world = facts, facts.itemsize, setting.ranks
    zero3 = setting.stage == 3
    frozen = setting.group if zero3 else 1
    cut = _cut(world, setting.stage >= 1)
    masters = 2 if setting.stage == 0 and size == 4 else 3
    optimizer = -(-f.trained * 4 * masters // cut)
    gradients = -(-f.trained * size // (world if setting.stage >= 2 else 1))
    cut_kept = -(-f.kept * size // frozen) if zero3 and frozen > 1 else 0
    here = not setting.weights_on_host
    cut_trained = -(-f.trained * size // world) if zero3 and world > 1 else 0
    return {
        "packed": -(-f.packed // frozen) * here,
        "dense": -(-f.dense * size // frozen) * here + f.kept * size + cut_kept,
        "trained": f.trained * size + cut_trained,
        "buffers": f.buffers,
        "gradients": 0 if setting.offload else gradients,
        "optimizer": 0 if setting.offload else optimizer,
        "bucket": bucket * size if setting.stage else 0,
    }


def _cut(world: int, wanted: bool) -> int:
    return world if wanted else 1


def _while_loading(facts: Facts, setting: Setting, whole: Bytes) -> Bytes:
    """At its largest moment: what has come so far, and tensors on their way, large ones first and
    one per rank in each round. While a rank receives the first of a round and cuts it, its own
    waits to be sent, and that of the next round is read. Adapters are cut last.
    """
    cut = setting.group if setting.stage == 3 else 1
    tensors = facts.tensors
    count = setting.ranks
    rounds = [list(tensors[i : i + count]) for i in range(0, len(tensors), count)]
    came, most = 0, (0, facts.reading(tensors[0]))
    for number, round_ in enumerate(rounds, start=1):
        coming = rounds[number] if number < len(rounds) else []
        waiting = round_[0].kept + (round_[-1].kept if len(round_) > 1 else 0)
        being_cut = round_[0].kept // cut if setting.stage == 3 else 0
        ahead = max(map(facts.reading, coming), default=0)
        most = max(most, (came, waiting + being_cut + ahead), key=sum)
        came += sum(tensor.kept for tensor in round_) // cut * (not setting.weights_on_host)
        most = max(most, (came, ahead), key=sum)
    share = min(1.0, most[0] / max(came, 1))
    kinds = {kind: round(whole[kind] * share) for kind in ("packed", "dense")}
    uncut = {"trained": facts.trained * facts.itemsize}
    return whole | kinds | uncut | {"loading": most[1]}
