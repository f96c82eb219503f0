"""Oracle: the storages behind every uint8 tensor that Python knows on a rank, counted by hand.

Under ZeRO-3 a rank may hold its shard of the packed backbone and, between forward and backward,
one block more. Whatever DeepSpeed gathers into, whatever autograd keeps, counts.
"""

import gc
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from bigpeft.backbone.packed import PackedWeight
from bigpeft.quant import CodecOptions, make_codec
from bigpeft.train.logits import TargetLogits
from tests.train.runs import summary, train_here
from tests.worlds import world

SHAPES = {(128, 128), (64, 128), (352, 128), (128, 352)}  # of the debug recipe's frozen linears
EVERY = 9  # a walk over all objects at each read would take a minute
LONGEST = 56  # tokens of a row: no activation has the shape of a weight
OVERRIDES = [
    "batch.global_size=2",
    "train.steps=2",
    f"data.max_length={LONGEST}",
    "data.long_rows=truncate",
    "eval=null",
]


def packed_storages() -> dict[int, torch.UntypedStorage]:
    """Address → storage of every uint8 tensor alive, random states apart."""
    random_state = torch.get_rng_state().nbytes
    found = [
        item.untyped_storage()
        for item in gc.get_objects()
        if issubclass(type(item), Tensor)
        and item.dtype == torch.uint8
        and item.device.type == "cpu"
    ]
    return {s.data_ptr(): s for s in found if s.nbytes() not in (0, random_state)}


def count_here(folder: Path, overrides: list[str]) -> dict[str, Any]:
    """Train on this rank and count packed bytes between the passes and at every read.

    The counting is put around bigpeft's own functions, of which nothing is replaced.
    """
    gc.collect()
    earlier = packed_storages()  # of other tests' models; kept, so that no address is used again
    gc.freeze()  # no walk need see these objects again
    between: list[int] = []
    reading: list[int] = []
    reads = itertools.count()
    saved_weights: set[tuple[int, ...]] = set()
    loss_sum, dense = TargetLogits.loss_sum, PackedWeight.dense

    def alive() -> int:
        return sum(s.nbytes() for at, s in packed_storages().items() if at not in earlier)

    def count_between(self: TargetLogits) -> Tensor:
        gc.collect()
        between.append(alive())
        return loss_sum(self)

    def count_reading(self: PackedWeight, dtype: torch.dtype) -> Tensor:
        if next(reads) % EVERY == 0:
            reading.append(alive())
        return dense(self, dtype)

    def note(tensor: Tensor) -> Tensor:
        if tuple(tensor.shape) in SHAPES or tensor.dtype == torch.uint8:
            saved_weights.add(tuple(tensor.shape))
        return tensor

    TargetLogits.loss_sum, PackedWeight.dense = count_between, count_reading
    try:
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            train_here(folder, overrides)
    finally:
        TargetLogits.loss_sum, PackedWeight.dense = loss_sum, dense
        gc.unfreeze()
    return {"between": between, "reading": reading, "saved_weights": saved_weights}


@pytest.fixture(scope="module")
def counted(
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[..., tuple[list[dict[str, Any]], dict[str, Any]]]:
    """What two ranks counted, and the summary of that run; each set of overrides trained once."""
    done: dict[tuple[str, ...], Any] = {}

    def of(*more: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        if more not in done:
            folder = tmp_path_factory.mktemp("run")
            done[more] = world(2).call(count_here, folder, [*OVERRIDES, *more]), summary(folder)
        return done[more]

    return of


@pytest.fixture(scope="module")
def packed() -> list[int]:
    """Packed bytes of every block, by the codec's own arithmetic on the recipe's shapes."""
    codec = make_codec("nf4", CodecOptions())
    shapes = [(128, 128), (64, 128), (64, 128), (128, 128), *[(352, 128)] * 2, (128, 352)]
    return [sum(codec.nbytes(shape) for shape in shapes)] * 4


CHECKPOINTING = ["train.activation_checkpointing=false", "train.activation_checkpointing=true"]


@pytest.mark.parametrize("checkpointing", CHECKPOINTING)
def test_between_the_passes_a_rank_holds_its_shard_and_one_block(checkpointing, counted, packed):
    ranks, _ = counted(checkpointing)

    for rank in ranks:
        assert len(rank["between"]) == 2
        assert max(rank["between"]) <= sum(packed) / 2 + packed[0]


@pytest.mark.parametrize("checkpointing", CHECKPOINTING)
def test_while_a_weight_is_read_a_rank_holds_its_shard_and_three_blocks(
    checkpointing, counted, packed
):
    """The block in use, the one that is fetched ahead, and buffers not yet let go."""
    ranks, _ = counted(checkpointing)

    for rank in ranks:
        assert len(rank["reading"]) > 10
        assert max(rank["reading"]) <= sum(packed) / 2 + 3 * packed[0]


@pytest.mark.parametrize("checkpointing", CHECKPOINTING)
def test_autograd_keeps_no_weight_for_the_backward_pass(checkpointing, counted):
    ranks, _ = counted(checkpointing)

    assert [rank["saved_weights"] for rank in ranks] == [set(), set()]


@pytest.mark.parametrize("checkpointing", CHECKPOINTING)
def test_the_summary_tells_what_is_there(checkpointing, counted, packed):
    ranks, told = counted(checkpointing)

    kept = max(max(rank["between"]) for rank in ranks) - told["packed_bytes_shard"]
    assert told["packed_bytes_total"] == sum(packed)
    assert told["packed_bytes_shard"] == sum(packed) / 2
    assert kept <= told["packed_bytes_gathered_peak"] < 2 * packed[0]


def test_without_zero_3_every_rank_holds_all_packed_bytes(counted, packed):
    """The count sees bytes where they are: otherwise the tests above would prove nothing."""
    ranks, told = counted("sharding.fragment=zero2")

    assert [set(rank["between"]) for rank in ranks] == [{sum(packed)}] * 2
    assert told["packed_bytes_shard"] == told["packed_bytes_total"] == sum(packed)
