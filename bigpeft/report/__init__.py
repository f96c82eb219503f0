"""What a run did, for people: one page per run, and runs side by side. Reads result files only."""

from bigpeft.report.compare import Comparison, compare_runs, write_comparison
from bigpeft.report.page import PAGE, write_report

__all__ = ["PAGE", "Comparison", "compare_runs", "write_comparison", "write_report"]
