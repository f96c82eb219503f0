"""Independent ways to the right answer."""
