"""Oracle: the kernel's own peak of resident memory, against the bytes a rank is to keep."""

from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from bigpeft.backbone import (
    Loader,
    PackedMeter,
    SafetensorsFolder,
    ZeroThree,
    build_skeleton,
    freeze_linears,
    read_config,
)
from bigpeft.quant import CodecOptions, make_codec
from tests.worlds import world

WIDE = {
    "vocab_size": 512,
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "num_hidden_layers": 3,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
}
ZERO = {
    "train_batch_size": 2,
    "train_micro_batch_size_per_gpu": 1,
    "zero_optimization": {"stage": 3},
}


@pytest.fixture(scope="module")
def wide_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wide")
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **WIDE))
    model.save_pretrained(folder, max_shard_size="300MB")
    return folder


def status(key: str) -> int:
    """Bytes of one line of /proc/self/status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))


def load_on_this_rank(folder: Path) -> dict[str, int]:
    source = SafetensorsFolder(folder)
    model = build_skeleton(read_config(folder, None, None, False))
    freeze_linears(model, make_codec("nf4", CodecOptions()))
    loader = Loader(source, ZeroThree(ZERO, None), torch.device("cpu"), torch.float32, {})
    before = status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts anew

    loader.fill(model)

    dense = sum(p.ds_numel * 4 for p in model.parameters() if p.dtype.is_floating_point)
    return {
        "grown": status("VmHWM") - before,
        "read": source.bytes_read,
        "shard": PackedMeter(model).shard,
        "dense": dense,
    }


def test_a_rank_holds_its_shard_and_three_tensors_while_loading(wide_model):
    files = sum(f.stat().st_size for f in wide_model.glob("*.safetensors"))
    largest = 4 * WIDE["hidden_size"] * WIDE["intermediate_size"]
    world(2).call(load_on_this_rank, wide_model)  # libraries grow at their first use

    ranks = world(2).call(load_on_this_rank, wide_model)

    for rank in ranks:
        assert rank["grown"] <= rank["shard"] + rank["dense"] + 3 * largest
        assert rank["grown"] < files / 3


def test_two_ranks_together_read_every_byte_once(wide_model):
    ranks = world(2).call(load_on_this_rank, wide_model)

    tensors = sum(
        4 * torch.Size(shape).numel() for shape in SafetensorsFolder(wide_model).shapes().values()
    )
    assert sum(rank["read"] for rank in ranks) == tensors
    assert all(rank["read"] <= 0.55 * tensors for rank in ranks)
