"""Extension: add a learned subspace to that of W (arXiv 2407.05417, section IV)."""
