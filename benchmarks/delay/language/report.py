"""Tables and figures of delayed language models, made from records only."""

import functools
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.delay.language import reading, rules, verdict
from benchmarks.delay.language.settings import PROFILE
from benchmarks.harness.figures import dots_figure, small_multiples
from benchmarks.harness.reports import at_edge, by_method, by_setting, joined, numeric
from common.results.comparison import interval
from common.results.plots import plot_spread
from common.results.records import Record
from common.results.tables import markdown, metric, number

GAPS, DELAYS, TEXT = (
    "delayed_language_gaps.png",
    "delayed_language_delays.png",
    "delayed_language_text.png",
)
CAPTIONS = {
    GAPS: "Test loss above that of the same optimiser without delay, at equal steps (the line: no "
    "loss), with every part of the network equally late; dots are seeds, the mark their mean with "
    "one standard deviation. A rule is worth its cost only if it is left of nothing at a step of "
    "its own.",
    DELAYS: "The same gap against the staleness, without a rule; mean and one standard deviation "
    "over seeds. Much of what one step for all shows as the harm of delay, a smaller step undoes.",
    TEXT: "Text read, over what the same optimiser reads without delay to the same validation loss "
    "(the line: as much); dots are seeds, the mark their mean with one standard deviation. At 2, "
    "half the text would have done without delay; what is too high for the curves has no mark.",
}


def tables(records: Sequence[Record]) -> str:
    """The verdicts, then a table for each delay: both optimisers with every row."""
    found = "\n".join(map(_finding, verdict.findings(records)[:-1]))
    left = f"What is not closed: {verdict.target(records).why}."
    sections = [f"{verdict.headline(records)}. {left}", found]
    for delay, runs in by_setting(records, "delay").items():
        if delay != "0":
            name = "The profile of a pipeline" if delay == PROFILE else f"Staleness {delay}"
            least, largest = (
                f"{metric(runs, f'{which}_staleness').mean:.0f}" for which in ("least", "largest")
            )
            late = least if least == largest else f"{least} to {largest}"
            sections += [
                f"**{name}**: gradients {late} steps late.",
                _table(records, str(delay)),
            ]
    return joined(*sections, _note(records), _missing(records))


def _finding(one: verdict.Judged) -> str:
    """A line on one finding."""
    if one.word == verdict.UNMEASURED:
        return f"- **{one.name}: {one.word}.** Published: {one.theirs}."
    return (
        f"- **{one.name}: {one.word}.** Here: {one.ours}. Published: {one.theirs}. Different here: "
        f"{one.why}."
    )


def _table(records: Sequence[Record], delay: str) -> str:
    header = [
        "row", "step", "lambda", "test loss", "gap", "times the text", "of the tuned gap closed",
        "copies",
    ]  # fmt: skip
    lines = []
    for optimiser in by_setting(records, "optimiser"):
        base = reading.undelayed(records, optimiser)
        nothing = reading.tuned(records, optimiser, rules.NOTHING, delay)
        line = functools.partial(_line, base=base)
        lines.append(line(f"{optimiser}, no delay", base, nothing=[], copies=""))
        for row in reading.rows(records, optimiser, delay):
            copies = _copies(row.runs[0].method, delay)
            against = [] if row.runs[0].method == rules.NOTHING else nothing
            lines.append(line(f"{optimiser}, {row.name}", row.runs, nothing=against, copies=copies))
    return markdown(header, lines)


def _line(
    name: str, runs: Sequence[Record], *, base: Sequence[Record], nothing: Sequence[Record],
    copies: str,
) -> list[str]:  # fmt: skip
    above = reading.gap(runs, base)
    share = reading.share_closed(runs, nothing, base) if nothing else None
    return [
        name,
        f"{numeric(runs[0], 'learning_rate'):g}",
        f"{numeric(runs[0], 'lambda'):g}" if "lambda" in runs[0].setting else "",
        number(metric(runs, "test_loss")),
        f"{above.mean:.3f}" + (f" ± {above.half_width:.3f}" if above.n > 1 else ""),
        _times(runs, base),
        "" if share is None else verdict.percent(share),
        copies,
    ]


def _times(runs: Sequence[Record], base: Sequence[Record]) -> str:
    """Mean and interval of the seeds' ratios; the base itself has none."""
    if list(runs) == list(base):
        return ""
    ratios = _finite(runs, base)
    if not ratios:
        return f"over {len(base[0].curve['tokens'])}"
    found = interval(ratios)
    return f"{found.mean:.2f}" + (f" ± {found.half_width:.2f}" if found.n > 1 else "")


def _copies(rule: str, delay: str) -> str:
    if rule == rules.FEEDBACK:
        return "each leaf's delay" if delay == PROFILE else delay
    return f"{rules.COPIES[rule]:g}"


def _note(records: Sequence[Record]) -> str:
    """How the figures came about, in words."""
    seeds = len({record.seed for record in records})
    steps = sorted({numeric(record, "learning_rate") for record in records})
    grid = ", ".join(f"{step:g}" for step in steps)
    text = records[0].setting["text"]
    return (
        f"Losses are nats a byte. Steps of one grid for all rows ({grid}), and lambdas, are chosen "
        f"by the validation loss of the first seed; all {seeds} seeds are told at them. ± is half "
        "of a 95% interval over seeds (of test losses: one standard deviation). Times the text: "
        "all that a row reads, over what the same optimiser reads without delay to the same "
        "validation loss, seed by seed (the token tax of the public runs, 1.33 with the profile). "
        f"The text begins its SHA-256 with {text}. Copies of the weights are those that a rule "
        "keeps beside the optimiser's and the snapshots." + _edge(records, steps)
    )


def _edge(records: Sequence[Record], steps: Sequence[float]) -> str:
    """Says for which optimisers the best step without delay is the grid's last or first."""
    edges = [
        optimiser
        for optimiser in by_setting(records, "optimiser")
        if at_edge(numeric(reading.undelayed(records, optimiser)[0], "learning_rate"), steps)
    ]
    if not edges:
        return ""
    return f" The best step without delay is at the edge of the grid for {' and '.join(edges)}."


def _missing(records: Sequence[Record]) -> str:
    """The cases that the settings ask for and a stopped run did not come to."""
    asked = records[0].origin.get("configuration", {})
    run = {(r.setting["optimiser"], r.method, r.setting["delay"]) for r in records}
    missing = [
        f"{optimiser}, {rule}, {delay}"
        for optimiser in asked.get("optimisers", ())
        for delay in (*map(str, asked["main_delays"]), PROFILE)
        for rule in (asked["extra_rules"] if delay == PROFILE else asked["rows"])
        if (optimiser, rule, delay) not in run
    ]
    if not missing:
        return ""
    return f"The run was stopped before all was done. Not run: {'; '.join(missing)}."


def plots(records: Sequence[Record], out: Path) -> list[Path]:
    """Gaps of all rows, the gap against the delay, and what delays cost in text."""
    delay = _shown(records)
    panels: dict[str, dict[str, dict[str, list[float]]]] = {"gap": {}, "text": {}}
    for optimiser in by_setting(records, "optimiser"):
        base = reading.undelayed(records, optimiser)
        title = f"{optimiser}, staleness {delay}"
        rows = reading.rows(records, optimiser, delay)
        panels["gap"][title] = {row.name: _gaps(row.runs, base) for row in rows}
        panels["text"][title] = {row.name: _finite(row.runs, base) for row in rows}
    gap, text = "test loss above no delay's", "text, over no delay's for the same loss"
    return [
        dots_figure(out / GAPS, panels["gap"], label=gap, reference=0),
        _plot_delays(records, out / DELAYS),
        dots_figure(
            out / TEXT, panels["text"], label=text, reference=1,
            absent=f"over {len(records[0].curve['tokens'])}",
        ),
    ]  # fmt: skip


def _finite(runs: Sequence[Record], base: Sequence[Record]) -> list[float]:
    """Ratios of text by seed; none where one is beyond what the curves can tell."""
    ratios = list(reading.text_ratios(runs, base).values())
    return ratios if all(map(math.isfinite, ratios)) else []


def _shown(records: Sequence[Record]) -> str:
    """The uniform delay with the most rows; of equal ones the verdict's, or the first."""
    rows = {
        delay: len(by_method(runs))
        for delay, runs in by_setting(records, "delay").items()
        if delay not in ("0", PROFILE)
    }
    most = [delay for delay in rows if rows[delay] == max(rows.values())]
    return verdict.DELAY if verdict.DELAY in most else most[0]


def _plot_delays(records: Sequence[Record], path: Path) -> Path:
    optimisers = list(by_setting(records, "optimiser"))
    delays = [delay for delay in by_setting(records, "delay") if delay != PROFILE]
    with small_multiples(
        path, [""], optimisers, labels=("staleness", "test loss above no delay's"),
        title=lambda _, optimiser: optimiser, panel=(4.8, 3.0),
    ) as panels:  # fmt: skip
        for (_, optimiser), axes in panels.items():
            base = reading.undelayed(records, optimiser)
            rows = [reading.rows(records, optimiser, delay) for delay in delays]
            for style, name in enumerate((reading.SAME_STEP, reading.SMALLER_STEP)):
                runs = [next((row.runs for row in of if row.name == name), []) for of in rows]
                columns = np.array([_gaps(each, base) for each in runs]).T
                ticks = [int(delay) for delay in delays]
                plot_spread(axes, ticks, columns, label=name, style=style, marker=True)
    return path


def _gaps(runs: Sequence[Record], base: Sequence[Record]) -> list[float]:
    """Of each seed of `base`; NaN where there is no run."""
    found = {run.seed: run.metrics["test_loss"] for run in runs}
    return [found.get(run.seed, math.nan) - run.metrics["test_loss"] for run in base]
