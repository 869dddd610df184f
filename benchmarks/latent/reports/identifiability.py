"""Tables and plots of what is identified from how many domains, from records alone."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from common.results.plots import figure, plot_spread
from common.results.records import Record
from common.results.tables import group, markdown, metric, number, summarise

POOLED, LACIM = "Pool-LaCIM", "LaCIM"
INVERSE, TURNED = "inverse mixing", "inverse mixing, turned"
MEAN, S_AS_V = "domain mean", "s scored as v"
METHODS = (LACIM, POOLED, INVERSE, TURNED, MEAN, S_AS_V)
TARGET, MARGIN = 0.85, 0.10
"""Of s within domains, where there are as many domains as are needed; and above Pool-LaCIM."""
_SCORES = {
    "within": "Pearson, within domains",
    "within_curved": "cubic of each, within domains",
    "within_block": "quadratic of the block, within domains",
    "pooled": "Pearson, pooled",
    "pooled_curved": "cubic of each, pooled",
}


def tables(records: Sequence[Record]) -> str:
    """Every MCC of s and of v by method and number of domains; verdicts; diversity and collapse.

    Args:
        records: of one experiment.

    Returns:
        Markdown.
    """
    kinds = group(records, lambda r: str(r.setting["confounder"]))
    return "\n\n".join(f"C {kind}.\n\n{_kind(own)}" for kind, own in kinds.items())


def _counts(records: Sequence[Record]) -> dict[int, list[Record]]:
    return dict(sorted(group(records, lambda r: int(r.setting["num_domains"] or 0)).items()))


def _of(records: Sequence[Record], method: str) -> list[Record]:
    return [record for record in records if record.method == method]


def _kind(records: Sequence[Record]) -> str:
    counts = _counts(records)
    header = ["domains", *map(str, counts)]
    parts = []
    for score, title in _SCORES.items():
        rows = []
        for block in ("s", "v"):
            for method in METHODS:
                if _of(records, method) and f"{block}_{score}" in _of(records, method)[0].metrics:
                    own = [metric(_of(r, method), f"{block}_{score}") for r in counts.values()]
                    rows.append([f"{block}: {method}", *map(number, own)])
        parts.append(f"MCC, {title}:\n\n{markdown(header, rows)}")
    parts.append("\n".join(f"- {line}" for line in _verdicts(counts)))
    rows = []
    for block in ("s", "v"):
        known = [_of(own, INVERSE) for own in counts.values()]
        rank = [number(metric(own, f"rank_{block}"), digits=0) for own in known]
        rows.append([f"rank of the differences, {block}", *rank])
        condition = [_finite(own, f"condition_{block}") for own in known]
        rows.append([f"condition number, {block}", *condition])
    for method in (LACIM, POOLED):
        for name, title in _DETAIL.items():
            own = [metric(_of(r, method), name) for r in counts.values()]
            digits = 3 if name == "accuracy" else 1
            rows.append([f"{title}, {method}", *(number(each, digits=digits) for each in own)])
    parts.append(markdown(header, rows))
    return "\n\n".join(parts)


_DETAIL = {
    "active_s": "active units of s",
    "active_v": "active units of v",
    "kl": "KL, nats",
    "bound": "bound, nats",
    "accuracy": "accuracy of p(y given s)",
    "diverged_starts": "starts that diverged",
}


def _finite(records: Sequence[Record], name: str) -> str:
    """A condition number; none where the rank is not full, which is no divergence."""
    summary = metric(records, name)
    return number(summary, digits=1) if summary.n else "-"


def _verdicts(counts: dict[int, list[Record]]) -> list[str]:
    """Of the least number of domains with full rank, by s within domains."""
    lines = []
    enough = [
        m
        for m, own in counts.items()
        if m >= metric(_of(own, INVERSE), "needed_s").mean and _of(own, LACIM)
    ]
    if enough:
        m = enough[0]
        found = metric(_of(counts[m], LACIM), "s_within")
        lines.append(
            f"{m} domains, s: LaCIM {number(found)} (target {TARGET:g}: {_met(found.mean, TARGET)})"
        )
        over = summarise(_difference(counts[m], LACIM, counts[m], POOLED))
        lines.append(
            f"above Pool-LaCIM by {number(over)} (target {MARGIN:g}: {_met(over.mean, MARGIN)})"
        )
        fewer = [k for k in counts if 1 < k < m]
        if fewer:
            more = summarise(_difference(counts[m], LACIM, counts[fewer[-1]], LACIM))
            lines.append(
                f"above {fewer[-1]} domains by {number(more)} (target 0: {_met(more.mean, 0.0)})"
            )
    diverged = {
        method: sum(not np.isfinite(r.metrics["s_within"]) for r in own)
        for method in (LACIM, POOLED)
        if (own := [r for every in counts.values() for r in _of(every, method)])
    }
    lines.append("runs that diverged: " + ", ".join(f"{m} {n}" for m, n in diverged.items()))
    return lines


def _met(value: float, target: float) -> str:
    return "met" if value >= target else "missed"


def _difference(
    records: Sequence[Record], method: str, others: Sequence[Record], other: str
) -> list[float]:
    """Seed by seed."""
    one, two = (
        {r.seed: r.metrics["s_within"] for r in _of(own, name)}
        for own, name in ((records, method), (others, other))
    )
    return [one[seed] - two[seed] for seed in one]


def plots(records: Sequence[Record], out: Path) -> list[Path]:
    """MCC of s and v within domains, and of s pooled, against the number of domains.

    Args:
        records: of one experiment.
        out: the folder.

    Returns:
        The files written, one for each kind of C.
    """
    paths = []
    for kind, own in group(records, lambda r: str(r.setting["confounder"])).items():
        counts = _counts(own)
        path = out / f"mcc_{kind}.png"
        panels_of = {
            "s_within": "s, within domains",
            "v_within": "v, within domains",
            "s_pooled": "s, pooled",
        }
        with figure(path, columns=3, panel=(4.2, 3.6)) as panels:
            for axes, (name, title) in zip(panels[0], panels_of.items(), strict=True):
                for style, method in enumerate(METHODS):
                    values = [
                        [r.metrics.get(name, np.nan) for r in _of(every, method)]
                        for every in counts.values()
                    ]
                    if len({len(v) for v in values}) == 1 and np.isfinite(values).any():
                        array = np.asarray(values).T
                        plot_spread(
                            axes, list(counts), array, label=method, style=style, marker=True
                        )
                if name == "s_within":
                    axes.axhline(TARGET, color="black", linestyle=":", linewidth=1.0)
                axes.set(title=title, xlabel="domains", ylim=(-0.05, 1.05), xticks=list(counts))
            panels[0, 0].set_ylabel("MCC on held-out data")
            panels[0, 1].legend(fontsize=8)
        paths.append(path)
    return paths
