"""What a run did, for people: one page per run, and runs side by side. Reads result files only."""

from bigpeft.report.page import PAGE, write_report

__all__ = ["PAGE", "write_report"]
