"""Tables and figures of what is identified from how many domains, from records alone."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.harness.figures import doubling, small_multiples
from benchmarks.harness.reports import by_setting, where
from benchmarks.latent.reports.domains import diversity_rows
from benchmarks.latent.reports.segments import LACIM, POOLED, SEGMENTS, segment_table
from common.results.comparison import Difference, interval, paired_difference
from common.results.plots import COLOURS, plot_spread
from common.results.power import smallest_visible, told_apart
from common.results.records import Record
from common.results.tables import markdown, metric, number

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
_DETAIL = {
    "active_s": "active units of s",
    "active_v": "active units of v",
    "kl": "KL, nats",
    "bound": "bound, nats",
    "accuracy": "accuracy of p(y given s)",
    "diverged_starts": "starts that diverged",
}

CAPTIONS = {
    f"mcc_{kind}.png": "How well latents are found against the number of domains: mean and one "
    "standard deviation over seeds, of LaCIM, of Pool-LaCIM, and of the control that separates s "
    "from v and is otherwise turned at random. Broken lines: means of the ceiling and of controls "
    "that find nothing. The three bands overlap."
    for kind in ("continuous", "discrete")
}


def tables(records: Sequence[Record]) -> str:
    """Every MCC of s and of v by method and number of domains; verdicts; diversity and collapse."""
    kinds = by_setting(records, "confounder")
    return "\n\n".join(
        segment_table(runs) if kind == SEGMENTS else f"C {kind}.\n\n{_kind(runs)}"
        for kind, runs in kinds.items()
    )


def structural(records: Sequence[Record]) -> list[Record]:
    """The records but those of sources in segments."""
    return [record for record in records if record.setting["confounder"] != SEGMENTS]


Counts = Mapping[int, Sequence[Record]]
"""The records of each number of domains, rising."""


def _counts(records: Sequence[Record]) -> Counts:
    return dict(sorted(by_setting(records, "num_domains").items()))


def _kind(records: Sequence[Record]) -> str:
    counts = _counts(records)
    header = ["domains", *map(str, counts)]
    parts = [
        f"MCC, {title}:\n\n{markdown(header, list(_scores(counts, score)))}"
        for score, title in _SCORES.items()
    ]
    parts.append("\n".join(f"- {line}" for line in _verdicts(counts)))
    parts.append(markdown(header, [*_diversity(counts), *_details(counts)]))
    return "\n\n".join(parts)


def _scores(counts: Counts, score: str) -> Iterator[list[str]]:
    for block in ("s", "v"):
        for method in METHODS:
            runs = [where(records, method) for records in counts.values()]
            name = f"{block}_{score}"
            if any(name in r.metrics for r in next((r for r in runs if r), [])[:1]):
                yield [f"{block}: {method}", *(number(metric(r, name)) for r in runs)]


def _diversity(counts: Counts) -> Iterator[list[str]]:
    for block in ("s", "v"):
        known = [where(records, INVERSE) for records in counts.values()]
        yield from diversity_rows(
            known, f"_{block}", f"rank of the differences, {block}", f"condition number, {block}"
        )


def _details(counts: Counts) -> Iterator[list[str]]:
    for method in (LACIM, POOLED):
        for name, title in _DETAIL.items():
            digits = 3 if name == "accuracy" else 1
            summaries = [metric(where(records, method), name) for records in counts.values()]
            yield [f"{title}, {method}", *(number(each, digits=digits) for each in summaries)]


OVER_TARGET, OVER_BLIND, OVER_OTHERS, FROM_MORE = "target", "blind", "others", "more domains"


class Gain(NamedTuple):
    """One of the differences of MCC within domains that the verdict on the claim looks at."""

    kind: str
    """Of s over the target; of a block over what separates s from v and finds no dimension within
    them; of s over pooled data, or fewer domains; of s from more domains over the target."""
    name: str
    """The block, what is compared with, or the number of domains."""
    over_seeds: Difference
    hoped: float | None = None
    """The least gain worth having, where that is asked."""

    @property
    def text(self) -> str:
        """In words."""
        return {
            OVER_TARGET: f"s over the target {TARGET:g}",
            OVER_BLIND: f"{self.name} over separating s from v alone ({TURNED})",
            OVER_OTHERS: f"s over {self.name} (hoped for {MARGIN:g})",
            FROM_MORE: f"s from {self.name} domains over the target",
        }[self.kind]


def gains(counts: Counts, m: int) -> Iterator[Gain]:
    """Of LaCIM from m domains, and from more.

    Args:
        counts: records by number of domains.
        m: the least number that suffices.
    """
    ours = where(counts[m], LACIM)
    yield Gain(OVER_TARGET, "s", _over_target(ours))
    turned = where(counts[m], TURNED)
    for block in ("s", "v"):
        yield Gain(OVER_BLIND, block, paired_difference(ours, turned, f"{block}_within"))
    beside = {POOLED: where(counts[m], POOLED)}
    if fewer := [k for k in counts if 1 < k < m]:
        beside[f"{fewer[-1]} domains"] = where(counts[fewer[-1]], LACIM)
    for name, runs in beside.items():
        yield Gain(OVER_OTHERS, name, paired_difference(ours, runs, "s_within"), MARGIN)
    for more, records in counts.items():
        if more > m and (runs := where(records, LACIM)):
            yield Gain(FROM_MORE, f"{more:g}", _over_target(runs))


def _over_target(runs: Sequence[Record]) -> Difference:
    return interval(r.metrics["s_within"] - TARGET for r in runs)


def said(gain: Gain, sign: int) -> str:
    """Whether a difference is shown or, where a gain was hoped for, that gain excluded."""
    if sign:
        return "shown to be above" if sign > 0 else "shown to be below"
    over, hoped = gain.over_seeds, gain.hoped
    if hoped is None or smallest_visible(over) > hoped or over.mean + over.half_width >= hoped:
        return "not told apart"
    return "not as much as hoped"


def least_sufficient(counts: Counts) -> int | None:
    """The least number of domains with full rank that LaCIM was run with; None if there is none."""
    enough = (
        m
        for m, records in counts.items()
        if where(records, LACIM) and m >= metric(where(records, INVERSE), "needed_s").mean
    )
    return next(enough, None)


def _verdicts(counts: Counts) -> Iterator[str]:
    """What is tested at the least number of domains with full rank; and how many runs diverged."""
    m = least_sufficient(counts)
    if m is not None:
        mcc = number(metric(where(counts[m], LACIM), "s_within"))
        yield (
            f"{m} domains, s: LaCIM {mcc}; of the differences below, seed by seed, ± is half of a "
            "95% interval, and what is shown is corrected for their number"
        )
        found = [gain for gain in gains(counts, m) if gain.over_seeds.n]
        signs = told_apart([gain.over_seeds for gain in found])
        for gain, sign in zip(found, signs, strict=True):
            over = gain.over_seeds
            yield f"{gain.text}: {over.mean:+.3f} ± {over.half_width:.3f}, {said(gain, sign)}"
    every = [record for records in counts.values() for record in records]
    diverged = [
        f"{method} {metric(runs, 's_within').failed}"
        for method in (LACIM, POOLED)
        if (runs := where(every, method))
    ]
    yield "runs that diverged: " + ", ".join(diverged)


def plots(records: Sequence[Record], out: Path) -> list[Path]:
    """MCC of s and v within domains, and of s pooled, against the number of domains."""
    titles = {
        "s_within": "s, within domains",
        "v_within": "v, within domains",
        "s_pooled": "s, pooled",
    }
    paths = []
    for kind, runs in by_setting(structural(records), "confounder").items():
        counts, path = _counts(runs), out / f"mcc_{kind}.png"
        with small_multiples(
            path, [""], list(titles), labels=("domains", "MCC on held-out data"),
            title=lambda _, name: titles[name], panel=(3.8, 3.0),
        ) as panels:  # fmt: skip
            for (_, name), axes in panels.items():
                for style, method in enumerate((LACIM, POOLED, TURNED, INVERSE, MEAN, S_AS_V)):
                    rows = [
                        [r.metrics.get(name, np.nan) for r in where(each, method)]
                        for each in counts.values()
                    ]
                    if len({len(row) for row in rows}) > 1 or not np.isfinite(rows).any():
                        continue
                    x, scores = list(counts), np.asarray(rows).T
                    if style < 3:
                        plot_spread(axes, x, scores, label=method, style=style, marker=True)
                    else:
                        mean = np.nanmean(scores, axis=0)
                        axes.plot(x, mean, "--", color=COLOURS[style], label=method)
                if name == "s_within":
                    axes.axhline(TARGET, color="black", linestyle=":", linewidth=1.0)
                axes.set(ylim=(-0.05, 1.05))
                doubling(axes, list(counts))
        paths.append(path)
    return paths
