"""Oracle: the bytes of every broadcast of a load, counted at torch.distributed on each rank."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from transformers import AutoConfig, AutoModelForCausalLM

from bigpeft.backbone import (
    Loader,
    PackedMeter,
    Readers,
    ReadersOfNodes,
    SafetensorsFolder,
    Whole,
    ZeroThree,
    build_skeleton,
    freeze_linears,
    group_across_nodes,
    node_group,
    read_config,
)
from bigpeft.quant import CodecOptions, make_codec
from tests.worlds import world

SHAPE = {
    "vocab_size": 512,
    "hidden_size": 128,
    "intermediate_size": 352,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
ZERO = {"train_micro_batch_size_per_gpu": 1, "zero_optimization": {"stage": 3}}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **SHAPE)).save_pretrained(folder)
    return folder


def count_here(folder: Path, per_node: int) -> dict[str, Any]:
    """Load with the backbone shared by each node of `per_node` ranks; bytes of this rank."""
    rank, count = dist.get_rank(), dist.get_world_size()
    group = node_group(per_node)
    neighbours = list(range(rank - rank % per_node, rank - rank % per_node + per_node))
    counted = {"given": 0, "received": 0, "packed_received": 0, "packed_given": 0, "elsewhere": 0}
    broadcast = dist.broadcast

    def counting(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        used = kwargs.get("group")
        way = "given" if dist.get_rank(used) == kwargs["group_src"] else "received"
        counted[way] += tensor.nbytes
        if tensor.dtype == torch.uint8:
            counted[f"packed_{way}"] += tensor.nbytes
        if used is not None and dist.get_process_group_ranks(used) != neighbours:
            counted["elsewhere"] += tensor.nbytes
        return broadcast(tensor, *args, **kwargs)

    source = SafetensorsFolder(folder)
    model = build_skeleton(read_config(folder, None, None, False))
    freeze_linears(model, make_codec("nf4", CodecOptions()))
    partition = ZeroThree({**ZERO, "train_batch_size": count}, group)
    readers = Readers(rank % per_node, per_node, group)
    loader = Loader(source, partition, torch.device("cpu"), torch.float32, {}, readers)
    dist.broadcast = counting
    try:
        loader.fill(model)
    finally:
        dist.broadcast = broadcast
    dense = [p for p in model.parameters() if p.is_floating_point()]
    meter = PackedMeter(model)
    return counted | {
        "read": source.bytes_read,
        "packed": meter.total,
        "shard": meter.shard,
        "dense": sum(p.ds_numel * p.element_size() for p in dense),
    }


def load_together_here(folder: Path, per_node: int) -> tuple[int, int, bool]:
    """Bytes that came to this rank from other nodes, all bytes of the model, and whether it is what
    one rank reads alone.
    """
    rank, count = dist.get_rank(), dist.get_world_size()
    inside, across = node_group(per_node), group_across_nodes(per_node)
    came = [0]
    broadcast = dist.broadcast

    def counting(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        if kwargs["group"] is across and dist.get_rank(across) != kwargs["group_src"]:
            came[0] += tensor.nbytes
        return broadcast(tensor, *args, **kwargs)

    def loaded(readers: Readers) -> dict[str, torch.Tensor]:
        model = build_skeleton(read_config(folder, None, None, False))
        freeze_linears(model, make_codec("nf4", CodecOptions()))
        source = SafetensorsFolder(folder)
        Loader(source, Whole(), torch.device("cpu"), torch.float32, {}, readers).fill(model)
        return dict(model.named_parameters())

    dist.broadcast = counting
    try:
        ours = loaded(ReadersOfNodes(rank, count, inside, across))
    finally:
        dist.broadcast = broadcast
    alone = loaded(Readers(0, 1))
    size = sum(p.numel() * p.element_size() for p in alone.values())
    return came[0], size, all(torch.equal(ours[name], value) for name, value in alone.items())


def test_where_all_ranks_share_the_reading_each_byte_comes_once_to_the_other_node(files):
    counted = world(4).call(load_together_here, files, 2)

    came, sizes, same = zip(*counted, strict=True)
    assert all(same)
    assert sum(came) == sizes[0]


@pytest.mark.parametrize(("ranks", "per_node"), [(2, 2), (4, 2)])
def test_every_byte_is_read_once_by_a_node_and_sent_once_to_each_of_its_other_ranks(
    files, ranks, per_node
):
    counted = world(ranks).call(count_here, files, per_node)

    written = sum(
        4 * torch.Size(shape).numel() for shape in SafetensorsFolder(files).shapes().values()
    )
    for first in range(0, ranks, per_node):
        node = counted[first : first + per_node]
        packed, dense = node[0]["packed"], node[0]["dense"]
        assert sum(rank["read"] for rank in node) == written
        assert sum(rank["packed_given"] for rank in node) == packed
        assert sum(rank["packed_received"] for rank in node) == (per_node - 1) * packed
        assert sum(rank["given"] for rank in node) == packed + dense
        for rank in node:
            assert rank["given"] + rank["received"] == packed + dense
            assert rank["elsewhere"] == 0
        assert sum(rank["shard"] for rank in node) == packed
