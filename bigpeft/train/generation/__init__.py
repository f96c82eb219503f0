"""Answers of a model whose weights are packed and sharded: every rank takes part in every pass."""

from bigpeft.train.generation.generator import Generator
from bigpeft.train.generation.sampling import Sampling

__all__ = ["Generator", "Sampling"]
