"""Reconstruction: rescale or rotate what W already spans (arXiv 2407.05417, section III)."""
