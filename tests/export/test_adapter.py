"""Oracle: the tensors that were saved, and a stock model with the merged weights."""

import json

import pytest
import torch
from safetensors.torch import save_file

from bigpeft.errors import FileError
from bigpeft.export import read_adapter


def saved(folder, version=1):
    tensors = {"layer.q_proj.lora_A": torch.randn(2, 3)}
    save_file(tensors, folder / "adapter.safetensors")
    (folder / "adapter.json").write_text(json.dumps({"version": version, "method": {}}))
    return tensors


def test_an_adapter_is_read_back_as_it_was_saved(tmp_path):
    tensors = saved(tmp_path)

    read, described = read_adapter(tmp_path)

    assert torch.equal(read["layer.q_proj.lora_A"], tensors["layer.q_proj.lora_A"])
    assert described["version"] == 1


def test_whole_numbers_stay_whole(tmp_path):
    saved(tmp_path)
    places = torch.tensor([2**24 + 1, 2**31 + 1])
    save_file({"layer.q_proj.places": places}, tmp_path / "adapter.safetensors")

    assert torch.equal(read_adapter(tmp_path)[0]["layer.q_proj.places"], places)


@pytest.mark.parametrize("name", ["adapter.json", "adapter.safetensors"])
def test_half_an_adapter_is_refused_and_named(name, tmp_path):
    saved(tmp_path)
    path = tmp_path / name
    path.write_bytes(path.read_bytes()[:20])

    with pytest.raises(FileError, match="is no adapter"):
        read_adapter(tmp_path)


def test_a_format_from_the_future_is_refused(tmp_path):
    saved(tmp_path, version=99)

    with pytest.raises(FileError, match="format version 99"):
        read_adapter(tmp_path)
