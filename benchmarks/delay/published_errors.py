"""Published test errors beside those of the records: how far a preset is from the paper."""

from collections.abc import Mapping, Sequence

from common.results.records import Record
from common.results.selection import best_setting
from common.results.tables import group, markdown, percent, summarise

Published = Mapping[tuple[str, int], float]
"""(method, workers) -> test error in percent."""


def published_table(records: Sequence[Record], published: Published, *, source: str) -> str:
    """A row for each published figure whose method and number of workers were run.

    Args:
        records: of one experiment; settings hold workers, metrics validation_ and test_accuracy.
        published: the figures.
        source: where they are from, and under which settings they were found.

    Returns:
        Markdown; empty if nothing that was published was run.
    """
    runs = group(records, lambda r: (r.method, int(r.setting["workers"] or 0)))
    rows = []
    for (method, workers), error in published.items():
        if (method, workers) not in runs:
            continue
        chosen = best_setting(runs[method, workers])
        ours = summarise(1.0 - r.metrics["test_accuracy"] for r in chosen)
        rows.append([method, str(workers), f"{error:.2f}", percent(ours)])
    if not rows:
        return ""
    header = ["method", "workers", "published error %", "here, at the tuned step"]
    return f"**Beside the published errors** ({source}):\n\n{markdown(header, rows)}"
