"""What a method decides while it trains survives a stop. Oracle: the unbroken run."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.train.runs import column, final_state, run

STEPS = [
    "model.layers=1",
    "train.steps=6",
    "checkpoint.every=3",
    "optimizer.learning_rate=2e-2",
    "eval=null",
]
METHODS = {
    "lora_dash": "method={name: lora_dash, rank: 4, switch_step: 2}",
    "adalora": "method={name: adalora, rank: 4, target_rank: 2, interval: 1, final_share: 0}",
    "flexlora": "method={name: flexlora, rank: 2, interval: 1, warmup_share: 0, exchanges: 3}",
}
STAGES = {"stage 2": ["sharding.fragment=zero2"], "stage 3": []}


def decided(folder: Path, step: int) -> dict[str, Tensor]:
    """Evolving buffers of the checkpoint of this step."""
    return load_file(folder / "checkpoints" / f"step-{step:06d}" / "state.safetensors")


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("name", METHODS)
def test_what_is_decided_before_a_stop_holds_after_it(name, stage, tmp_path):
    unbroken, stopped = tmp_path / "unbroken", tmp_path / "stopped"
    options = [METHODS[name], *STEPS, *STAGES[stage]]

    expected = final_state(2, unbroken, *options)
    run(2, stopped, *options, "train.stop_after=3")
    state = final_state(2, stopped, *options, "checkpoint.resume=auto")

    for key in ("step", "loss", "grad_norm"):
        assert column(stopped, key) == column(unbroken, key)
    for key, value in expected.items():
        assert np.array_equal(state[key], value), key
    for key, value in decided(unbroken, 6).items():
        assert torch.equal(decided(stopped, 6)[key], value), key


@pytest.mark.parametrize("name", ["adalora", "flexlora"])
def test_these_runs_stop_in_the_midst_of_decisions(name, tmp_path):
    folder = run(2, tmp_path, METHODS[name], *STEPS)

    early, late = (
        torch.cat([v for k, v in decided(folder, step).items() if k.endswith("mask")])
        for step in (3, 6)
    )

    assert not early.all()
    assert not torch.equal(early, late)
    if name == "flexlora":
        first_open = torch.tensor([1.0, 1.0, 0.0, 0.0]).repeat(len(early) // 4)
        assert not torch.equal(early, first_open)
