"""How many packed bytes a rank holds: its shard always, whole weights only for a moment."""

from collections.abc import Iterator
from contextlib import contextmanager

from deepspeed.runtime.zero.partition_parameters import ZeroParamStatus
from torch import Tensor, nn

from bigpeft.backbone.packed import PackedWeight


class PackedMeter:
    """Counts packed bytes of one rank; `watch_if` records the peak of gathered ones.

    Parameters are remembered here: reaching for one through its module would make ZeRO-3 gather it.
    """

    def __init__(self, model: nn.Module) -> None:
        self._weights = [module for module in model.modules() if isinstance(module, PackedWeight)]
        self._packed = [
            (weight.packed, weight.codec.nbytes(weight.shape)) for weight in self._weights
        ]
        self.gathered_peak = 0

    @property
    def total(self) -> int:
        """Packed bytes of the whole backbone."""
        return sum(nbytes for _, nbytes in self._packed)

    @property
    def shard(self) -> int:
        """Packed bytes that this rank keeps, those of hpZ's second copy among them."""
        return sum(part.numel() for packed, _ in self._packed for part in _parts(packed))

    def gathered(self) -> int:
        """Bytes of packed weights that are whole on this rank now, or on their way."""
        absent = ZeroParamStatus.NOT_AVAILABLE
        return sum(n for packed, n in self._packed if getattr(packed, "ds_status", None) != absent)

    @contextmanager
    def watch_if(self, wanted: bool) -> Iterator[None]:
        """Look at every read of a packed weight, forward and backward; costs a walk each time."""
        for weight in self._weights:
            weight.on_read = self._look if wanted else None
        try:
            yield
        finally:
            for weight in self._weights:
                weight.on_read = None

    def _look(self) -> None:
        self.gathered_peak = max(self.gathered_peak, self.gathered())


def _parts(packed: nn.Parameter) -> list[Tensor]:
    second = getattr(packed, "ds_secondary_tensor", None)
    return [getattr(packed, "ds_tensor", packed), *([] if second is None else [second])]
