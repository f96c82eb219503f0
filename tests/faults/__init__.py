"""Faults of machines: processes that are killed, files that are damaged. Real ones."""
