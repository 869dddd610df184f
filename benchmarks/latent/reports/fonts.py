"""Tables and figures of methods against the number of training fonts, from records alone."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from benchmarks.harness.figures import doubling, small_multiples
from benchmarks.harness.reports import best_by_method, by_setting, numeric, paired, values, where
from benchmarks.latent.reports.domains import diversity_rows
from common.results.plots import plot_spread
from common.results.records import Record
from common.results.tables import markdown, metric, number, percent

ERM, POOLED, LACIM, CORRELATED = "ERM", "Pool-LaCIM", "LaCIM", "LaCIM, correlated"
NEVER, PCA = "ERM, never tied", "principal components"
CONDITIONS = {
    "validation": "as in training",
    "turned": "tie turned",
    "new_fonts": "new fonts",
    "test": "new fonts, tie turned",
}
"""What methods are asked, by the name of the accuracy in records."""

_RECOVERED = {
    "mcc": "MCC of v",
    "mcc_tied": "MCC of v, images as in training",
    "style_in_v": "a linear map of all of v",
    "style_in_s": "a linear map of all of s",
}
_DETAIL = {
    "active_s": "active units of s",
    "active_v": "active units of v",
    "kl": "KL, nats",
    "bound": "bound, nats",
}

CAPTIONS = {
    "fonts.png": "Against the number of training fonts, from as many images: accuracy in new "
    "fonts with the tie between style and letter turned about, in new fonts, and with the tie "
    "turned; and the MCC of the style's four numbers. Mean and one standard deviation over seeds. "
    "Where curves lie on one another, more fonts help the methods alike; ERM that was never misled "
    "shows what fonts and network allow.",
}

Counts = Mapping[int, Mapping[str, Sequence[Record]]]
"""By number of fonts, rising, and method: one record a seed."""


def chosen(records: Sequence[Record]) -> Counts:
    """Every method with its search as chosen, for each number of fonts by itself."""
    counts = dict(sorted(by_setting(records, "num_domains").items()))
    return {
        m: best_by_method([r for r in runs if r.method != PCA], "choice_accuracy")
        for m, runs in counts.items()
    }


def recovered(records: Sequence[Record]) -> Counts:
    """Every method with what its encoder finds, and the principal components beside them."""
    counts = dict(sorted(by_setting(records, "num_domains").items()))
    methods = list(dict.fromkeys(r.method for r in records if "mcc" in r.metrics))
    return {
        m: {
            method: found
            for method in methods
            if (found := [r for r in where(runs, method) if "mcc" in r.metrics])
        }
        for m, runs in counts.items()
    }


def tables(records: Sequence[Record]) -> str:
    """Accuracy in each condition by number of fonts; what v recovers; how diverse the fonts are."""
    asked, found = chosen(records), recovered(records)
    header = ["training fonts", *map(str, asked)]
    parts = []
    for name, title in reversed(CONDITIONS.items()):
        rows = list(_rows(asked, f"{name}_accuracy", percent))
        parts.append(f"Accuracy, %, {title}:\n\n{markdown(header, rows)}")
    parts.append("\n".join(f"- {line}" for line in _lines(records, asked)))
    for name, title in _RECOVERED.items():
        rows = list(_rows(found, name, number))
        parts.append(f"The style's four numbers from {title}:\n\n{markdown(header, rows)}")
    parts.append(markdown(header, [*_diversity(found), *_details(found)]))
    return "\n\n".join(parts)


def _rows(counts: Counts, name: str, cell) -> Iterator[list[str]]:
    """A row for each method that has the metric anywhere, "-" where it was not run."""
    methods = dict.fromkeys(method for of in counts.values() for method in of)
    for method in methods:
        runs = [of.get(method, ()) for of in counts.values()]
        if any(name in record.metrics for of in runs for record in of):
            yield [method, *(cell(metric(of, name)) if of else "-" for of in runs)]


def _lines(records: Sequence[Record], asked: Counts) -> Iterator[str]:
    """What more fonts are worth, to whom, and whether searches were chosen."""
    most, few = max(asked), min((m for m in asked if m > 1), default=max(asked))
    ours, erm = asked[most].get(LACIM, ()), asked[most].get(ERM, ())
    name = "test_accuracy"
    if ours and erm and few < most:
        for method in (ERM, LACIM):
            gain = percent(paired(asked[most][method], asked[few][method], name))
            yield f"{most} fonts in the place of {few}, new fonts, tie turned: {method} {gain}"
        yield f"{LACIM} over {ERM} from {most} fonts: {percent(paired(ours, erm, name))}"
    searched = [
        f"{method} from {m}"
        for m, of in asked.items()
        for method, runs in of.items()
        if runs[0].setting.get("search_steps")
    ]
    tried = sorted({numeric(record, "search_steps") for record in records} - {0.0})
    if tried:
        steps = " and ".join(f"{steps:g}" for steps in tried)
        yield f"latent search of {steps} steps chosen for: {'; '.join(searched) or 'none'}"


def _diversity(found: Counts) -> Iterator[list[str]]:
    for suffix, title in (("", "variances"), ("_correlated", "covariances")):
        known = [of.get(PCA, ()) for of in found.values()]
        needed = metric(known[0], f"needed{suffix}").mean
        yield from diversity_rows(
            known, suffix, f"rank of {needed - 1:.0f}, priors with {title}",
            f"condition number, priors with {title}",
        )  # fmt: skip


def _details(found: Counts) -> Iterator[list[str]]:
    for method in (LACIM, CORRELATED, POOLED):
        runs = [of.get(method, ()) for of in found.values()]
        for name, title in _DETAIL.items() if any(runs) else ():
            cells = [number(metric(of, name), digits=1) if of else "-" for of in runs]
            yield [f"{title}, {method}", *cells]


def plots(records: Sequence[Record], out: Path) -> list[Path]:
    """Accuracy out of domain, and the MCC, against the number of fonts."""
    asked, found, path = chosen(records), recovered(records), out / "fonts.png"
    panels = {
        "test": "new fonts, tie turned", "new_fonts": "new fonts", "turned": "tie turned",
        "mcc": "style's MCC",
    }  # fmt: skip
    methods = list(dict.fromkeys(m for of in (*asked.values(), *found.values()) for m in of))
    with small_multiples(
        path, [""], list(panels),
        labels=("training fonts", lambda _: "test accuracy, %; MCC x 100"),
        title=lambda _, name: panels[name], panel=(3.3, 3.0),
    ) as drawn:  # fmt: skip
        for (_, name), axes in drawn.items():
            counts, key = (found, "mcc") if name == "mcc" else (asked, f"{name}_accuracy")
            for style, method in enumerate(methods):
                x = [m for m, of in counts.items() if of.get(method)]
                rows = [values(counts[m][method], key) for m in x]
                if rows and len({len(row) for row in rows}) == 1:
                    scores = 100 * np.asarray(rows).T
                    plot_spread(axes, x, scores, label=method, style=style, marker=True)
            doubling(axes, list(counts))
    return [path]
