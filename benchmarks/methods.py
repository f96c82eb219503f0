"""Every method on one packed linear: what a step costs beside the frozen linear and beside LoRA.

    python benchmarks/methods.py [--methods dora lora] [--rounds 3] [--dtype bf16]

A step is forward and backward: CPU seconds of this process, wall time on an accelerator. In each
round a method is timed next to the frozen linear and LoRA, in changing order, and the ratio is
taken within this trio; methods that an aim judges get JUDGED_ROUNDS times the rounds. Prints
medians, writes benchmarks/results/methods.json and exits with 1 when an aim is missed.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from bigpeft.backbone import PackedLinear
from bigpeft.methods import LinearMethod, linear_methods
from bigpeft.methods.scaling import Scaling
from bigpeft.quant import CodecOptions, make_codec

RESULT = Path(__file__).parent / "results" / "methods.json"
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
FROZEN, LORA = "frozen", "lora"
DORA_OVER_LORA, SCALING_OVER_FROZEN = 1.25, 1.05
JUDGED_ROUNDS = 4
Module = Callable[[Tensor], Tensor]


class Created(TorchDispatchMode):
    """Sees every tensor that an operator gives; `largest` has the most numbers in memory."""

    def __init__(self) -> None:
        super().__init__()
        self.largest = 0
        self._paused = False

    @contextmanager
    def paused(self) -> Iterator[None]:
        """What is made meanwhile does not count."""
        before, self._paused = self._paused, True
        try:
            yield
        finally:
            self._paused = before

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = func(*args, **(kwargs or {}))
        if not self._paused:
            for tensor in tree_leaves(given):
                if isinstance(tensor, Tensor):
                    numbers = tensor.untyped_storage().nbytes() // tensor.itemsize
                    self.largest = max(self.largest, numbers)
        return given


class Apart(nn.Module):
    """The base product, forward and backward, in whose course nothing counts."""

    def __init__(self, base: nn.Module, created: Created) -> None:
        super().__init__()
        self.base, self.created = base, created

    def forward(self, x: Tensor) -> Tensor:
        return _ApartProduct.apply(x, self)  # type: ignore[no-any-return]


class _ApartProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, apart: Apart) -> Tensor:
        ctx.apart = apart
        with apart.created.paused(), torch.enable_grad():
            ctx.x = x.detach().requires_grad_()
            ctx.y = apart.base(ctx.x)
        return ctx.y.detach()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        with ctx.apart.created.paused():
            return torch.autograd.grad(ctx.y, ctx.x, grads)[0], None


def largest_created(method: nn.Module, linear: PackedLinear, x: Tensor) -> int:
    """Numbers in the largest tensor that a step makes outside of the base product."""
    created, base = Created(), linear.base
    linear.base = Apart(base, created)  # type: ignore[assignment]
    try:
        with created:
            step(lambda rows: method(linear, rows), x, list(method.parameters()))
    finally:
        linear.base = base
    return created.largest


def step(product: Module, x: Tensor, trained: list[nn.Parameter]) -> None:
    """Forward, and backward to x and what is trained."""
    y = product(x)
    torch.autograd.grad(y, [x, *trained], torch.ones_like(y))


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """Wall time until the device has done this work; on a CPU the time that this process had it."""
    if device.type == "cpu":
        begun = time.process_time()
        work()
        return time.process_time() - begun
    torch.cuda.synchronize()
    begun = time.perf_counter()
    work()
    torch.cuda.synchronize()
    return time.perf_counter() - begun


def packed_linear(features: int, device: torch.device) -> tuple[PackedLinear, Tensor]:
    """NF4 codes of a random W (features, features), and W."""
    torch.manual_seed(0)
    weight = torch.randn(features, features, device=device) / features**0.5
    codec = make_codec("nf4", CodecOptions())
    linear = PackedLinear("q_proj", nn.Linear(features, features, False, device="meta"), codec)
    freeze(linear, weight)
    return linear, weight


def freeze(linear: PackedLinear, weight: Tensor) -> None:
    """Put W into the linear."""
    linear.base.packed = nn.Parameter(linear.base.codec.encode(weight), requires_grad=False)


def started(name: str, linear: PackedLinear, weight: Tensor, dtype: torch.dtype) -> LinearMethod:
    """The method with its default options, off its start; the linear goes on holding W."""
    cls = linear_methods()[name]
    method = cls(linear, cls.Options())  # type: ignore[call-arg]
    method.reset()
    if method.needs_dense:
        method.start(weight)
        method.measure(linear.base.dense(torch.float32))
    for parameter in method.parameters():
        parameter.data = (parameter.data + 1e-3 * torch.randn_like(parameter)).to(dtype)
    return method


def measure(options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Figures of every method; a ratio is a list with one entry per round."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = DTYPES[options.dtype]
    linear, weight = packed_linear(options.features, device)
    x = torch.randn(options.tokens, options.features, device=device, dtype=dtype)
    x.requires_grad_()
    figures: dict[str, dict[str, Any]] = {}
    steps: dict[str, Callable[[], None]] = {FROZEN: lambda: step(linear.base, x, [])}
    for name in dict.fromkeys([LORA, *options.methods]):
        begun = time.perf_counter()
        method = started(name, linear, weight, dtype)
        start_seconds = time.perf_counter() - begun
        steps[name] = lambda m=method: step(lambda rows: m(linear, rows), x, list(m.parameters()))
        figures[name] = {
            "trained": sum(p.numel() for p in method.parameters()),
            "largest_created": largest_created(method, linear, x),
            "start_seconds": start_seconds,
            "step_seconds": [],
            "over_frozen": [],
            "over_lora": [],
        }
    for number in range(JUDGED_ROUNDS * options.rounds):
        for name, found in figures.items():
            if number >= options.rounds and not judged(name):
                continue
            trio = list(dict.fromkeys([FROZEN, LORA, name]))
            trio = trio[number % len(trio) :] + trio[: number % len(trio)]
            took = {one: seconds(steps[one], device) for one in trio}
            found["step_seconds"].append(took[name])
            found["over_frozen"].append(took[name] / took[FROZEN])
            found["over_lora"].append(took[name] / took[LORA])
    return figures


def judged(name: str) -> bool:
    """Whether there is an aim for what a step of this method costs."""
    return name == "dora" or issubclass(linear_methods()[name], Scaling)


def missed(medians: dict[str, dict[str, Any]], features: int) -> list[str]:
    """The aims that these figures do not reach."""
    found = []
    for name, figure in medians.items():
        if judged(name):
            other, aim = (LORA, DORA_OVER_LORA) if name == "dora" else (FROZEN, SCALING_OVER_FROZEN)
            if (over := figure[f"over_{other}"]) > aim:
                found.append(f"{name}: {over:.3f} × {other}, aim {aim}")
        if figure["largest_created"] >= features**2:
            found.append(f"{name}: makes a tensor as large as W")
    return found


def show(medians: dict[str, dict[str, Any]], title: str) -> None:
    """The table, by family and cost."""
    columns = ["over frozen", "over LoRA", "step, s", "trained", "largest made", "start, s"]
    table = Table("method", "family", title=title)
    for column in columns:
        table.add_column(column, justify="right")
    families = {name: linear_methods()[name].family for name in medians}
    for name in sorted(medians, key=lambda n: (families[n], medians[n]["over_frozen"])):
        f = medians[name]
        ratios = [f"{f[key]:.3f}" for key in ("over_frozen", "over_lora", "step_seconds")]
        sizes = [f"{f[key]:,}" for key in ("trained", "largest_created")]
        table.add_row(name, families[name], *ratios, *sizes, f"{f['start_seconds']:.1f}")
    Console(width=110).print(table)


def main() -> None:
    """Measure, print, write, judge."""
    parser, names = argparse.ArgumentParser(description=__doc__), sorted(linear_methods())
    parser.add_argument("--methods", nargs="+", choices=names, default=names)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--features", type=int, default=4096, help="sides of W")
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--dtype", choices=DTYPES, default="fp32")
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    runs = measure(options)
    medians = {
        name: {k: statistics.median(v) if isinstance(v, list) else v for k, v in found.items()}
        for name, found in runs.items()
    }
    size = {key: getattr(options, key) for key in ("features", "tokens", "dtype", "rounds")}
    show(medians, ", ".join(f"{key} {value}" for key, value in size.items()))
    machine = {"cpu": platform.processor() or platform.machine(), "cores": os.cpu_count()}
    machine |= {"threads": torch.get_num_threads(), "torch": torch.__version__}
    result = {"machine": machine, "size": size, "medians": medians, "runs": runs}
    options.out.parent.mkdir(exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    sys.exit("\n".join(missed(medians, options.features)) or None)


if __name__ == "__main__":
    main()
