"""FourierFT, an update with few frequencies (Gao et al., arXiv 2405.03003, Eqs. 2-4).

    W' = W + scaling · Re(IFFT2(S))        S (out_features, in_features), zero but at `frequencies`

The frequencies are drawn at random, by a seed and the shape, as HF peft draws them, and their
coefficients trained: that many numbers per linear, from zero, so the start is the identity. The
update is dense, but the transform is separable, so a product with it takes x to its waves, moves
some of them, and takes these back: unlike in HF peft nothing as large as W is made. Backward keeps
x and does this again.
"""

from collections.abc import Sequence
from functools import cache

import numpy as np
import torch
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from bigpeft.errors import ShapeError
from bigpeft.methods.algebra import at_least_fp32
from bigpeft.methods.base import LinearMethod, MethodOptions
from bigpeft.methods.operator import FrozenLinear
from bigpeft.methods.peft_form import NoPeftForm, PeftForm, PeftSeat


class FourierFT(LinearMethod):
    """Trained coefficients of random frequencies."""

    class Options(MethodOptions):
        """Which frequencies, and how strong."""

        frequencies: PositiveInt = Field(1000, description="trained coefficients per linear")
        scaling: PositiveFloat = Field(300, description="factor before the inverse transform")
        seed: NonNegativeInt = Field(777, description="of the frequencies, whatever run.seed is")

    family = "extension"
    source = "arXiv 2405.03003"
    moves = "a few Fourier coefficients of the change, spread over the whole matrix"
    when = "a tiny adapter that touches every entry"
    hf_peft = "FOURIERFT"

    def __init__(self, linear: FrozenLinear, options: Options) -> None:
        super().__init__()
        numbers = linear.in_features * linear.out_features
        if options.frequencies > numbers:
            raise ShapeError(
                linear.name,
                f"{options.frequencies} frequencies are more than W has numbers, {numbers}",
                f"set method.frequencies to {numbers} or less, "
                "or leave this layer out of target_modules",
            )
        self.shape = (linear.out_features, linear.in_features)
        self.scaling, self.seed = options.scaling, options.seed
        self.spectrum = nn.Parameter(torch.empty(options.frequencies, device=linear.device))
        self.places: Tensor
        places = torch.empty(options.frequencies, dtype=torch.long, device=linear.device)
        self.register_buffer("places", places)

    def reset(self) -> None:
        """Frequencies drawn, coefficients zero."""
        super().reset()
        self.places.copy_(self.drawn())

    def drawn(self) -> Tensor:
        """The places (frequencies) that the seed gives this shape."""
        rows, columns = self.shape
        return shuffled(rows * columns, len(self.places), self.seed)

    def update(self, x: Tensor, spectrum: Tensor) -> Tensor:
        """scaling · x Re(IFFT2(S))ᵀ in x.dtype, from x (rows, in_features) and the coefficients."""
        out_features, in_features = self.shape
        rows, columns = self.places // in_features, self.places % in_features
        waves = torch.fft.ifft(x.to(spectrum.dtype))
        moved = waves.new_zeros(out_features, len(x)).index_put(
            (rows,), (waves[:, columns] * spectrum).t(), accumulate=True
        )
        return (self.scaling * torch.fft.ifft(moved, dim=0).real).t().to(x.dtype)

    def forward(self, linear: FrozenLinear, x: Tensor) -> Tensor:
        """x (..., in_features) → (..., out_features) in x.dtype, bias not included."""
        y = linear.base(x)
        update = checkpoint(
            self.update,
            x.reshape(-1, x.shape[-1]),
            self.spectrum.to(at_least_fp32(x.dtype)),
            use_reentrant=False,
            preserve_rng_state=False,
        )
        return y + update.view_as(y)

    def merge(self, weight: Tensor) -> Tensor:
        """W + scaling · Re(IFFT2(S)), same dtype."""
        spectrum = self.spectrum.to(at_least_fp32(weight.dtype))
        flat = spectrum.new_zeros(weight.numel()).index_put((self.places,), spectrum)
        delta = self.scaling * torch.fft.ifft2(flat.view(self.shape)).real
        return (weight + delta).to(weight.dtype)

    def peft_forms(self, seat: PeftSeat) -> Sequence[PeftForm]:
        """FourierFT, whose files hold the seed of the frequencies instead of these."""
        if not torch.equal(self.places.cpu(), self.drawn()):
            raise NoPeftForm("has frequencies that this seed no longer gives")
        return [
            PeftForm(
                "FOURIERFT",
                {"fourierft_spectrum": self.spectrum},
                {"scaling": self.scaling, "random_loc_seed": self.seed},
                {"n_frequency": len(self.spectrum)},
            )
        ]

    @classmethod
    def count(cls, options: MethodOptions, linear: FrozenLinear) -> int:
        """frequencies."""
        assert isinstance(options, FourierFT.Options)
        return options.frequencies


_SHUFFLED_IN_FRONT = (2**32 - 1) // 20
"""From this length on torch shuffles in another way, which has to be done whole."""


@cache
def shuffled(numbers: int, first: int, seed: int) -> Tensor:
    """`torch.randperm(numbers)[:first]` of a generator with this seed, without making the rest.

    The shuffle goes from front to back, so what is in front is final; only places that have moved
    are kept. Longer ones are made whole, 4 bytes per number.
    """
    if numbers >= _SHUFFLED_IN_FRONT:
        generator = torch.Generator().manual_seed(seed)
        return torch.randperm(numbers, generator=generator, dtype=torch.int32)[:first].long()
    drawn = np.random.RandomState(seed % 2**32).randint(0, 2**32, first, dtype=np.uint32)
    moved: dict[int, int] = {}
    found = []
    for here, number in enumerate(drawn.tolist()):
        there = here + number % (numbers - here)
        found.append(moved.get(there, there))
        moved[there] = moved.get(here, here)
    return torch.tensor(found)
