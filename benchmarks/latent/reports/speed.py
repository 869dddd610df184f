"""Tables and figures of the speed of training and latent search, from their records alone."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.harness.figures import dots_figure
from benchmarks.harness.reports import by_setting, where
from benchmarks.latent.reports import authors_search
from benchmarks.latent.reports.authors_search import BESIDE_AUTHORS, OURS
from common.results.records import Record
from common.results.tables import group, markdown, metric, number

TARGET = 5.0
"""The ratio that the search is meant to reach on CPU."""

TRAINING, SEARCH = "training", "latent search"
ALL_STARTS = "compiled, every start to its end"
LOOP, AT_ONCE = "per-batch loop", "per-batch loop, starts at once"
SHORT, SAME = 0.01, 0.995
"""By how many nats the search may fall short of every start taken to its end, and the least share
of images for which both must find the same label."""
PRODUCT = "product of matrices"


def tables(records: Sequence[Record]) -> str:
    """Throughputs and their ratios, task by task and network by network."""
    parts = []
    for task, of_task in by_setting(records, "task").items():
        networks = by_setting(of_task, "decoder")
        if task == BESIDE_AUTHORS:
            parts.append(f"{task.capitalize()}:\n\n{authors_search.table(networks)}")
            continue
        parts.append(f"{task.capitalize()}:\n\n{_throughputs(task, networks)}")
        if task == SEARCH:
            parts += [f"- {_verdict(name, runs)}" for name, runs in networks.items()]
            parts.append(_compiled(networks))
    return "\n\n".join(parts)


def _throughputs(task: str, networks: dict[str, list[Record]]) -> str:
    rows = []
    for name, runs in networks.items():
        for way in (OURS, ALL_STARTS, LOOP, AT_ONCE) if task == SEARCH else (OURS, LOOP):
            speeds = ("images_per_second", "images_per_cpu_second")
            cells = ["", ""] if way == OURS else [_range(ratios(runs, way, s)) for s in speeds]
            share = _share(runs, way)
            images = f"{_mean(runs, way, 'images_per_second'):,.0f}"
            rows.append([name, way, images, *cells, f"{100 * share:.0f}", f"{1 / share:.1f}"])
    header = [
        "decoder", "way", "images/s", f"{OURS} is faster by, seconds", "by, CPU seconds",
        "% of the product's rate", "times that rate leaves",
    ]  # fmt: skip
    return markdown(header, rows)


def _compiled(networks: dict[str, list[Record]]) -> str:
    rows = []
    for name, runs in networks.items():
        ours = where(runs, OURS)
        row = [name, *(f"{_mean(runs, way, 'first_call_seconds'):.1f}" for way in (OURS, LOOP))]
        row.append(number(metric(ours, "programs_later"), digits=0))
        row += [number(metric(ours, m), digits=1) for m in ("megabytes", "megabytes_whole")]
        rows.append(row)
    header = [
        "decoder", f"first call s, {OURS}", LOOP, "programs compiled in a later evaluation",
        "MB of a chunk's search", "of all images at once",
    ]  # fmt: skip
    return markdown(header, rows)


def _verdict(name: str, records: Sequence[Record]) -> str:
    every, (short, same) = ratios(records), beside_every_start(records)
    result = (
        f"objective short by {short:.4f} nats (at most {SHORT:g}), "
        f"same label for {100 * same:.1f}% (at least {100 * SAME:g})"
    )
    text = f"{name}: {np.median(every):.1f} times the loop (target {TARGET:g}); {result}: "
    if min(every) >= TARGET and as_good(records):
        return text + "met."
    share = 100 * _share(records, LOOP)
    return f"{text}missed; the loop itself reaches {share:.0f}% of the product's rate."


def beside_every_start(records: Sequence[Record]) -> tuple[float, float]:
    """Nats that a search falls short of every start taken to its end, and share of same labels."""
    ours = where(records, OURS)
    return metric(ours, "objective_short").mean, metric(ours, "same_labels").mean


def as_good(records: Sequence[Record]) -> bool:
    """Whether a search answers as every start taken to its end does; if not, its ratio is void."""
    short, same = beside_every_start(records)
    return short <= SHORT and same >= SAME


def _mean(records: Sequence[Record], way: str, name: str) -> float:
    return metric(where(records, way), name).mean


def _share(records: Sequence[Record], way: str) -> float:
    """Of the product's rate, each by the processor's seconds."""
    name = "gflops_per_cpu_second"
    return _mean(records, way, name) / _mean(records, PRODUCT, name)


def _range(ratios: Sequence[float]) -> str:
    """The median, and the range where there is more than one."""
    if len(ratios) == 1:
        return f"{ratios[0]:.2f}"
    return f"{np.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


def ratios(
    records: Sequence[Record], way: str = LOOP, speed: str = "images_per_second"
) -> list[float]:
    """The compiled way's throughput over another's, a seed each, of one task and network."""
    ours, theirs = (
        {record.seed: record.metrics[speed] for record in where(records, method)}
        for method in (OURS, way)
    )
    return [ours[seed] / theirs[seed] for seed in ours.keys() & theirs.keys()]


CAPTIONS = {
    "ratio.png": "Images a second of the compiled program over those of the loop over batches, "
    "for each task and decoder, a dot a seed; at the line both are equally fast. The larger "
    "the decoder, the less a loop adds to its arithmetic."
}


def plots(records: Sequence[Record], out: Path) -> list[Path]:
    """The ratios of every task and network, a dot a seed."""
    looped = [r for r in records if r.setting["task"] != BESIDE_AUTHORS]
    contests = group(looped, lambda r: f"{r.setting['task']}, {r.setting['decoder']}")
    rows = {"": {name: ratios(runs) for name, runs in contests.items()}}
    label = "images a second over the loop's"
    return [dots_figure(out / "ratio.png", rows, label=label, reference=1.0)]
