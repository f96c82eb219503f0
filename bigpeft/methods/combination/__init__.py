"""Combination: reconstruct and extend at once (arXiv 2407.05417, section V)."""
