"""Bytes on one rank by phase and kind."""

from bigpeft.plan.forecast.facts import Facts
from bigpeft.plan.forecast.setting import Setting

PHASES = ("load", "forward", "backward", "step")
Bytes = dict[str, int]


def bytes_by_phase(facts: Facts, setting: Setting, bucket: int) -> dict[str, Bytes]:
    """Phase → kind → bytes; `bucket` is the number of gradients that are reduced together.

    Kinds that stay from the first step to the last come first. ZeRO-3 gathers weight by weight
    until a block is there, so one block and the next weight are alive, or an end of the model
    beside one: the head in the last block, the embedding in the first one of a backward pass, which
    asks for it to make layers live again. At the loss the logits are there, with their gradients
    from the backward pass on, and nothing is decoded.
    """
    f, size = facts, facts.itemsize
    held = held_by_kind(facts, setting, bucket)
    blocks, at_an_end, ends = _gathered(facts, setting)
    activations, micro = f.activations, setting.micro_size
    kept = micro * activations.kept(f.layers, setting.checkpointing)
    again = micro * activations.layer if setting.checkpointing else 0
    passing = 2 * micro * activations.stream
    last = micro * activations.kept(1, setting.checkpointing)
    update = 0 if setting.offload else -(-f.trained * 4 // _cut(setting.ranks, setting.stage >= 1))
    decoded = {"decoded": f.largest * size}
    at_loss = {"gathered": ends, "activations": kept, "logits": micro * activations.logits}
    before_gradients = at_loss | {"logits": at_loss["logits"] * 2 // 3}
    in_last = decoded | {"gathered": at_an_end, "activations": kept}
    back = decoded | {"gathered": blocks, "activations": kept + again + passing}
    back_in_first = decoded | {"gathered": at_an_end, "activations": last + again + passing}
    loading = {kind: held[kind] for kind in ("packed", "dense", "trained", "buffers")}
    return {
        "load": _while_loading(facts, setting, loading),
        "forward": held | _largest(in_last, before_gradients),
        "backward": held | _largest(back, at_loss, *[back_in_first] * setting.checkpointing),
        "step": held | {"update": 2 * update if setting.stage else update},
    }


def _gathered(facts: Facts, setting: Setting) -> tuple[int, int, int]:
    """Bytes of a block and the next weight, of a block and an end of the model, and of the end."""
    if not setting.gathers:
        return 0, 0, 0
    block = facts.block.bytes(facts.itemsize)
    ends = max(facts.embedding, facts.head) * facts.itemsize
    following = max((t.kept for t in facts.tensors if t.is_packed), default=0)
    return block + following, block + ends, ends


def _largest(*candidates: Bytes) -> Bytes:
    return max(candidates, key=lambda kinds: sum(kinds.values()))


def held_by_kind(facts: Facts, setting: Setting, bucket: int) -> Bytes:
    """What a rank keeps from the first step to the last.

    ZeRO-3 cuts frozen weights over the group, hpZ once more over another one, gradients and masters
    over the world, and keeps a cut beside every parameter that it leaves whole. Masters and two
    moments are fp32.
    """
    f, size, world = facts, facts.itemsize, setting.ranks
    zero3 = setting.stage == 3
    cut = _cut(world, setting.stage >= 1)
    masters = 2 if setting.stage == 0 and size == 4 else 3
    optimizer = -(-f.trained * 4 * masters // cut)
    gradients = -(-f.trained * size // (world if setting.stage >= 2 else 1))
    cut_kept = -(-f.kept * size // setting.group) if zero3 and setting.group > 1 else 0
    here = not setting.weights_on_host
    cut_trained = -(-f.trained * size // world) if zero3 else 0
    return {
        "packed": sum(-(-f.packed // cut) for cut in setting.copies) * here,
        "dense": sum(-(-f.dense * size // cut) for cut in setting.copies) * here
        + f.kept * size
        + cut_kept,
        "trained": f.trained * size + cut_trained,
        "buffers": f.buffers,
        "gradients": 0 if setting.offload else gradients,
        "optimizer": 0 if setting.offload else optimizer,
        "bucket": bucket * size if setting.stage else 0,
    }


def _cut(world: int, wanted: bool) -> int:
    return world if wanted else 1


def _share(size: int, setting: Setting) -> int:
    return sum(size // cut for cut in setting.copies)


def _while_loading(facts: Facts, setting: Setting, whole: Bytes) -> Bytes:
    """At its largest moment: what has come so far, and tensors on their way, large ones first and
    one per rank in each round. While a rank receives the first of a round and cuts it, its own
    waits to be sent, and that of the next round is read. Adapters are cut last.
    """
    tensors = facts.tensors
    count = setting.ranks
    rounds = [list(tensors[i : i + count]) for i in range(0, len(tensors), count)]
    came, most, here = 0, (0, facts.reading(tensors[0])), not setting.weights_on_host
    for number, round_ in enumerate(rounds, start=1):
        coming = rounds[number] if number < len(rounds) else []
        waiting = round_[0].kept + (round_[-1].kept if len(round_) > 1 else 0)
        being_cut = _share(round_[0].kept, setting) if setting.stage == 3 else 0
        ahead = max(map(facts.reading, coming), default=0)
        most = max(most, (came, waiting + being_cut + ahead), key=sum)
        came += _share(sum(tensor.kept for tensor in round_), setting) * here
        most = max(most, (came, ahead), key=sum)
    share = min(1.0, most[0] / max(came, 1))
    kinds = {kind: round(whole[kind] * share) for kind in ("packed", "dense")}
    uncut = {"trained": facts.trained * facts.itemsize}
    return whole | kinds | uncut | {"loading": most[1]}
