"""The table of sources found from 40 segments, from its records alone."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from benchmarks.harness.reports import met, paired, where
from common.results.records import Record
from common.results.tables import markdown, metric, number

SEGMENTS = "none"
"""In place of the confounder, in the settings of these records."""
POOLED, LACIM = "Pool-LaCIM", "LaCIM"
HEADS = "LaCIM, a head a domain"
"""The encoder of the authors' code, beside the one that is LaCIM's by default."""
ICA, PCA, SEEN = "linear ICA", "PCA", "x as it is"
LINEAR = (ICA, PCA, SEEN)
"""What no network is needed for."""
METHODS = (LACIM, HEADS, POOLED, *LINEAR)


def segment_table(records: Sequence[Record]) -> str:
    """The bound and the MCC of every method; every seed's; and what was to be reached."""
    seeds = sorted({record.seed for record in records})
    rows = []
    for method in METHODS:
        runs = sorted(where(records, method), key=lambda record: record.seed)
        known = any("bound" in record.metrics for record in runs)
        bound = number(metric(runs, "bound")) if known else "-"
        each = [f"{record.metrics['mcc']:.3f}" for record in runs]
        rows.append([method, bound, number(metric(runs, "mcc")), *each])
    ours = where(records, LACIM)
    lines = [
        f"{what}: {number(over)} (in {sum(d >= 0 for d in each)} of {len(each)} seeds at least 0: "
        f"{met(min(each), 0.0)})"
        for what, name, base in (
            ("bound over Pool-LaCIM, nats", "bound", POOLED),
            *((f"MCC over {base}", "mcc", base) for base in LINEAR),
            ("MCC over a head a domain", "mcc", HEADS),
        )
        for over in [paired(ours, where(records, base), name)]
        for each in [_differences(ours, where(records, base), name)]
    ]  # fmt: skip
    count = ours[0].setting["num_domains"]
    header = ["method", "bound, nats", "MCC", *(f"seed {seed}" for seed in seeds)]
    return (
        f"Two sources whose spread alone changes between {count} segments (iVAE's generator), no "
        f"labels; MCC over all segments together:\n\n{markdown(header, rows)}\n\n"
        + "\n".join(f"- {line}" for line in lines)
    )


class Found(NamedTuple):
    """What the records say of sources in segments."""

    text: str
    all_met: bool


def segments(records: Sequence[Record]) -> Found | None:
    """In a sentence: the bound beside Pool-LaCIM's, the MCC beside linear ones; None if not run."""
    own = where(records, confounder=SEGMENTS)
    ours = where(own, LACIM)
    bound = _differences(ours, where(own, POOLED), "bound")
    over = [_differences(ours, where(own, base), "mcc") for base in LINEAR]
    if not bound or not all(over):
        return None
    mcc = [min(each) for each in zip(*over, strict=True)]
    linear = ", ".join(f"{base} {metric(where(own, base), 'mcc').mean:.2f}" for base in LINEAR)
    text = (
        f"without labels, from {ours[0].setting['num_domains']} domains, MCC "
        f"{metric(ours, 'mcc').mean:.2f} ({linear}; above them all in "
        f"{sum(d > 0 for d in mcc)} of {len(mcc)} seeds), the bound {np.mean(bound):+.2f} nats "
        f"over Pool-LaCIM's (at least as high in {sum(d >= 0 for d in bound)})"
    )
    return Found(text, min(bound) >= 0 and min(mcc) > 0)


def _differences(ours: Sequence[Record], base: Sequence[Record], name: str) -> list[float]:
    other = {record.seed: record.metrics[name] for record in base}
    return [record.metrics[name] - other[record.seed] for record in ours if record.seed in other]
