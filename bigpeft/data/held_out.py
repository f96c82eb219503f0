"""Which rows of a source are held out: one of every 1 / share, chosen by a seed."""

import hashlib
from dataclasses import dataclass
from fractions import Fraction


@dataclass(frozen=True)
class Part:
    """The held-out rows of a source, or the others.

    The rows are cut into blocks of 1 / `share` rows, and `seed` chooses one of each: a function of
    a row's number alone, the same on every rank and in a file that is read only once.
    """

    share: float
    seed: int
    held_out: bool

    def has(self, number: int) -> bool:
        """Whether row `number` (from 0) belongs to this part."""
        return _is_held_out(number, Fraction(str(self.share)), self.seed) == self.held_out

    @property
    def others(self) -> "Part":
        """The part that holds every row that this one does not."""
        return Part(self.share, self.seed, not self.held_out)


def _is_held_out(number: int, share: Fraction, seed: int) -> bool:
    block = number * share.numerator // share.denominator
    first, behind = (-(-edge * share.denominator // share.numerator) for edge in (block, block + 1))
    digest = hashlib.blake2b(f"{seed} {block}".encode(), digest_size=8).digest()
    return number == first + int.from_bytes(digest) % (behind - first)
