"""How long a rank is at work itself, whatever it waits for between."""

from typing import Self

from deepspeed.utils.timer import SynchronizedWallClockTimer
from torch import nn

from bigpeft.backbone.packed import PackedWeight


class Stopwatch:
    """Times the products with frozen weights: most of a step, and nothing that others can slow."""

    def __init__(self, model: nn.Module) -> None:
        self.count = 0
        self._timer = SynchronizedWallClockTimer.Timer("products")
        for module in model.modules():
            if isinstance(module, PackedWeight):
                module.around = self

    def __enter__(self) -> Self:
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.stop()
        self.count += 1

    def seconds(self) -> float:
        """Since the last call. Waits for an accelerator to finish what it was given."""
        return float(self._timer.elapsed()) / 1000.0
