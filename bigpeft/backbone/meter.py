"""How many packed bytes a rank holds: its shard always, whole weights only for a moment."""

from collections.abc import Iterator
from contextlib import contextmanager

from deepspeed.runtime.zero.partition_parameters import ZeroParamStatus
from torch import nn

from bigpeft.backbone.packed import PackedWeight


class PackedMeter:
    """Counts packed bytes of one rank; `watch_if` records the peak of gathered ones."""

    def __init__(self, model: nn.Module) -> None:
        self._weights = [module for module in model.modules() if isinstance(module, PackedWeight)]
        self.gathered_peak = 0

    @property
    def total(self) -> int:
        """Packed bytes of the whole backbone."""
        return sum(w.codec.nbytes(w.shape) for w in self._weights)

    @property
    def shard(self) -> int:
        """Packed bytes that this rank keeps."""
        tensors = (getattr(w.packed, "ds_tensor", w.packed) for w in self._weights)
        return sum(tensor.numel() for tensor in tensors)

    def gathered(self) -> int:
        """Bytes of packed weights that are whole on this rank now."""
        return sum(
            w.codec.nbytes(w.shape)
            for w in self._weights
            if getattr(w.packed, "ds_status", ZeroParamStatus.AVAILABLE)
            is not ZeroParamStatus.NOT_AVAILABLE
        )

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
