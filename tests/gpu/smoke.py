"""What a machine with a GPU should run first: about two minutes, real kernels, one verdict.

    python tests/gpu/smoke.py [--ranks N]

Checks that packed bytes are the same on the GPU as on the CPU, that every method computes there
what its merged weight says, and that the debug recipe trains in bf16 under ZeRO-3.
Without a GPU it says so and leaves with 0.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch.nn import functional as F

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from bigpeft.methods import linear_methods  # noqa: E402
from bigpeft.quant import CodecOptions, codecs, make_codec  # noqa: E402
from tests.oracles.dense import build, nudge, packed  # noqa: E402


def codecs_agree() -> str:
    """Codes made on the GPU are those made on the CPU, and decode to the same numbers."""
    weight = torch.randn(512, 1024)
    for name in codecs():
        codec = make_codec(name, CodecOptions())
        here, there = codec.encode(weight), codec.encode(weight.cuda())
        differing = (here != there.cpu()).sum().item()
        assert differing <= here.numel() // 10_000, f"{name}: {differing} bytes differ"
        one = codec.decode(here, (512, 1024), torch.float32)
        other = codec.decode(here.cuda(), (512, 1024), torch.float32).cpu()
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-6)
    return f"{len(codecs())} codecs agree with the CPU"


def methods_agree() -> str:
    """Forward equals the product with the merged weight, on the GPU."""
    for name in linear_methods():
        linear, weight = packed((256, 192))
        method = nudge(build(name, linear, weight)).cuda()
        linear = linear.cuda()
        x = torch.randn(16, 192, device="cuda")
        expected = F.linear(x.double(), method.merge(weight.cuda().double()))
        torch.testing.assert_close(method(linear, x).double(), expected, atol=1e-3, rtol=1e-3)
    return f"{len(linear_methods())} methods equal their merged weight"


def trains(ranks: int) -> str:
    """The debug recipe in bf16 under ZeRO-3."""
    with tempfile.TemporaryDirectory() as folder:
        command = ["deepspeed", "--num_gpus", str(ranks), "launch/train.py"]
        command += ["--recipe", "recipes/debug.yaml", f"run.folder={folder}/run"]
        command += ["train.precision=bf16", "train.steps=20", f"batch.global_size={4 * ranks}"]
        started = time.monotonic()
        subprocess.run(command, cwd=ROOT, check=True)
        summary = json.loads((Path(folder) / "run/summary.json").read_text())
    assert summary["loss_last"] < summary["loss_first"]
    return (
        f"{ranks} ranks trained in {time.monotonic() - started:.0f} s, "
        f"loss {summary['loss_first']:.3f} → {summary['loss_last']:.3f}"
    )


def main() -> None:
    """Run every check; the first that fails raises."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ranks", type=int, default=max(1, torch.cuda.device_count()))
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("no GPU here: nothing checked")  # noqa: T201
        return
    print(torch.cuda.get_device_name())  # noqa: T201
    for line in (codecs_agree(), methods_agree(), trains(options.ranks)):
        print(line)  # noqa: T201
    print("the GPU path works")  # noqa: T201


if __name__ == "__main__":
    main()
