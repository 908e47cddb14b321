"""Results of many runs: their records and predictions as tables, figures and a report. Knows no torch."""

from ptuning.results.analysis import Results, read_results
from ptuning.results.collect import Collected, LeftOut, collect
from ptuning.results.report import write_report
from ptuning.results.summary import mark_shown, summarise, write_table

__all__ = [
    "Collected",
    "LeftOut",
    "Results",
    "collect",
    "mark_shown",
    "read_results",
    "summarise",
    "write_report",
    "write_table",
]
