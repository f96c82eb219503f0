"""Copies of a model that are written to disk: dense, packed, or as bitsandbytes has them."""
