"""The plan's skeleton becomes a model: starts drawn, weights streamed in, every part cut."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from bigpeft.backbone import (
    Fingerprint,
    Loader,
    PackedMeter,
    Stopwatch,
    WeightSource,
    through_cache,
)
from bigpeft.methods import LinearMethod, Method
from bigpeft.placement import Trained, start, starters, trained
from bigpeft.plan import Plan, codec_of
from bigpeft.train.engine import make_partition, make_readers


@dataclass(frozen=True)
class Backbone:
    """A loaded model. `trained` is in a stable order; `base` says which weights it stands on.

    `started_from` is what methods that start from W have seen: the dense weights, or the image of
    them that a packed checkpoint holds.
    """

    meter: PackedMeter
    stopwatch: Stopwatch
    trained: list[Trained]
    base: Fingerprint
    started_from: Literal["dense", "image"]

    def remarks(self) -> list[str]:
        """What users should know about it."""
        if self.started_from == "dense":
            return []
        return ["the method starts from what the packed weights decode to, not from dense weights"]


def open_backbone(plan: Plan, say: Callable[[str], None]) -> WeightSource:
    """The weights that the plan wants, through the recipe's cache.

    Raises WeightError or FileError; to be called by every rank: one packs, the others wait outside
    any collective.
    """
    source, cache = plan.open_weights(), plan.recipe.model.cache
    codec = codec_of(plan.recipe)
    packs = source.exact and codec.quantises and not plan.recipe.model.random
    if cache is None or plan.folder is None or not packs:
        return source
    return through_cache(plan.model, source, plan.folder, Path(cache), codec, say)


def load_backbone(
    plan: Plan,
    source: WeightSource,
    device: torch.device,
    moved: Callable[[], None] = lambda: None,
) -> Backbone:
    """Fill `plan.model` in place; `moved` is called whenever some of it is."""
    start(plan.seated, plan.recipe.run.seed, device, plan.dtype)
    starts = starters(plan.model, plan.seated)
    partition, readers = make_partition(plan), make_readers(plan)
    loader = Loader(source, partition, device, plan.dtype, starts, readers)
    base = loader.fill(plan.model, moved)
    plan.model.train()
    torch.manual_seed(plan.recipe.run.seed * 1_000_003 + plan.world.rank)
    return Backbone(
        meter=PackedMeter(plan.model),
        stopwatch=Stopwatch(plan.model),
        trained=trained(plan.model, plan.seated),
        base=base,
        started_from=seen_by(starts.values(), source),
    )


def seen_by(starting: Iterable[Method], source: WeightSource) -> Literal["dense", "image"]:
    """What methods that start from W see in this source."""
    return "dense" if source.exact or not _look_at_dense(starting) else "image"


def _look_at_dense(methods: Iterable[Method]) -> bool:
    return any(isinstance(m, LinearMethod) and m.starts_from_dense for m in methods)
