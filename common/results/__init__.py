"""Results: records of runs, where they came from, and the figures made from them.

`plots` is imported by itself, since it loads matplotlib, which a run that only writes records need
not do.
"""

from common.results.calibration import detection_auroc, expected_calibration_error
from common.results.comparison import CONFIDENCE, Difference, interval, paired_difference
from common.results.origin import device, git_commit, now, provenance, versions
from common.results.power import LEVEL, POWER, holm, p_value, smallest_visible, told_apart
from common.results.records import (
    Record,
    RecordWriter,
    Scalar,
    last_run,
    parse_record,
    json_ready,
    read_records,
)
from common.results.selection import best_setting, latin_hypercube
from common.results.summaries import read_summary, write_summary
from common.results.tables import Summary, group, markdown, metric, number, percent, summarise

__all__ = [
    "Record",
    "Scalar",
    "RecordWriter",
    "read_records",
    "last_run",
    "parse_record",
    "json_ready",
    "provenance",
    "git_commit",
    "versions",
    "device",
    "now",
    "write_summary",
    "read_summary",
    "summarise",
    "Summary",
    "group",
    "metric",
    "percent",
    "number",
    "markdown",
    "best_setting",
    "latin_hypercube",
    "paired_difference",
    "interval",
    "Difference",
    "CONFIDENCE",
    "p_value",
    "holm",
    "told_apart",
    "smallest_visible",
    "LEVEL",
    "POWER",
    "expected_calibration_error",
    "detection_auroc",
]
