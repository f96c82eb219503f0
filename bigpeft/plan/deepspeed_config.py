"""The DeepSpeed configuration is a result: a fragment of ds_configs/, filled from the plan.

A fragment holds ZeRO and offload keys only: batch, precision, optimizer and clipping belong to the
recipe.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bigpeft.backbone.partition import HPZ
from bigpeft.errors import FileError, RecipeError
from bigpeft.plan.fragment_rules import check_fragment

_SHIPPED = Path(__file__).resolve().parents[2] / "ds_configs"


@dataclass(frozen=True)
class Holes:
    """The numbers behind `auto` in a fragment, in elements of parameters; `node` in ranks, or 1
    where there is one node alone.
    """

    persistence_threshold: int
    block: int
    bucket: int
    node: int

    def values(self) -> dict[str, int]:
        """Weights are fetched ahead up to a block; one is kept where forward and backward touch.

        The reuse distance counts what is passed on the way there and back: two blocks keep one.
        """
        return {
            "reduce_bucket_size": self.bucket,
            "stage3_param_persistence_threshold": self.persistence_threshold,
            "stage3_max_live_parameters": self.block,
            "stage3_max_reuse_distance": 2 * self.block,
            "stage3_prefetch_bucket_size": self.block,
            HPZ: self.node,
        }


@dataclass(frozen=True)
class Fragment:
    """A checked ds_configs/ file."""

    name: str
    content: dict[str, Any]

    @property
    def stage(self) -> int:
        """The ZeRO stage."""
        return int(self.content["zero_optimization"].get("stage", 0))


def read_fragment(name: str) -> Fragment:
    """The fragment of this name (a file of ds_configs/), or at this path.

    Raises RecipeError for a name that is not there, a key that the recipe owns or a refused one.
    """
    path = next((p for p in _candidates(name) if p.is_file()), None)
    if path is None:
        names = sorted(p.stem for p in _SHIPPED.glob("*.json"))
        raise RecipeError(
            "sharding.fragment",
            f"{name!r} is neither a fragment of ds_configs/ nor a file",
            f"write one of {', '.join(names)}, or the path of a JSON file",
        )
    try:
        content = json.loads(path.read_text())
    except ValueError as error:
        raise FileError(str(path), f"is not JSON ({error})", "mend the file") from error
    check_fragment(path, content)
    return Fragment(name, content)


def _candidates(name: str) -> list[Path]:
    return [Path(name), Path("ds_configs") / f"{name}.json", _SHIPPED / f"{name}.json"]


def complete(
    fragment: Fragment,
    holes: Holes,
    *,
    micro_size: int,
    accumulation_steps: int,
    world_size: int,
    precision: str,
    clip: float | None,
) -> dict[str, Any]:
    """The whole DeepSpeed configuration, nothing hidden: it is written into the run folder."""
    zero = dict(fragment.content["zero_optimization"])
    for key, value in holes.values().items():
        if zero.get(key) == "auto":
            zero[key] = value
    return fragment.content | {
        "train_batch_size": micro_size * accumulation_steps * world_size,
        "train_micro_batch_size_per_gpu": micro_size,
        "gradient_accumulation_steps": accumulation_steps,
        "gradient_clipping": clip or 0.0,
        "bf16": {"enabled": precision == "bf16"},
        "fp16": {"enabled": precision == "fp16", "loss_scale": 0, "initial_scale_power": 16},
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 10**9,
    }
