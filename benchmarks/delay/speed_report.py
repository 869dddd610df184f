"""The tables and verdicts of dcasgd_speed, made from records only."""

from collections.abc import Iterator, Sequence

import numpy as np

from benchmarks.delay.timed import event_loops, pushes
from benchmarks.harness.reports import by_setting, joined, met, numeric, values, where
from common.results.records import Record
from common.results.tables import markdown

SYNCHRONOUS, SLOTS, WAVES, COPYING = "synchronous SGD", "slots", "wavefront", "copying"
COUNTED = "compiled step"
"""Not timed: its bytes are counted."""
TARGET, OVERHEAD, COPIES, FIRST_CALL = 0.95, 0.03, 3, 2.0
"""Ratio for waves on CPU; DC-ASGD over ASGD; copies of the parameters beside M snapshots;
compiling, over compiling plain SGD."""


def tables(records: Sequence[Record]) -> str:
    """Ratios of throughputs for every network, batch size, engine and number of workers."""
    real = [r for r in records if r.method in (pushes.PUSH, pushes.BARE)]
    loops = where(records, network=event_loops.NETWORK)
    sections, apart = [], real + loops
    for network, of_network in by_setting(
        [r for r in records if r not in apart], "network"
    ).items():
        plain = where(of_network, rule="ASGD", log=False)
        workers = sorted(by_setting(plain, "workers"))
        rows = []
        for batch, runs in sorted(by_setting(of_network, "batch_size").items()):
            rate = np.median(values(where(runs, SYNCHRONOUS), "gradients_per_second"))
            rows.append([f"{batch}", SYNCHRONOUS, *[f"{rate:,.0f}/s"] * len(workers)])
            for engine in (SLOTS, WAVES):
                cells = [f"{ratio_of(plain, batch, engine, m):.2f}" for m in workers]
                rows.append([f"{batch}", engine, *cells])
        header = ["batch", "gradients/s", *(f"M = {m}" for m in workers)]
        sections.append(f"**{network}**, of synchronous SGD's throughput:")
        sections += [markdown(header, rows), " ".join(_verdicts(of_network, plain))]
        sections += _moved(of_network)
    if loops:
        sections.append(event_loops.table(loops))
    return joined(*sections, *([pushes.table(real)] if real else []))


def ratio_of(records: Sequence[Record], batch_size: int, engine: str, workers: int) -> float:
    """The throughput of an engine over the baseline's."""
    runs = where(records, engine, batch_size=batch_size, workers=workers)
    return float(np.median(values(runs, "ratio")))


def _verdicts(records: Sequence[Record], plain: Sequence[Record]) -> Iterator[str]:
    """The targets, met or missed, and by how much."""
    on_cpu = records[0].origin.get("provenance", {}).get("device", {}).get("platform", "cpu")
    target = TARGET if on_cpu == "cpu" else 1.0
    wide = [r for r in where(plain, WAVES) if numeric(r, "workers") >= 8]
    if wide:
        places = {(r.setting["batch_size"], r.setting["workers"]) for r in wide}
        worst = min(ratio_of(plain, int(b or 0), WAVES, int(m or 0)) for b, m in places)
        yield (
            f"Waves, 8 workers and more: {worst:.2f} at worst (target {target:g}: "
            f"{met(worst, target)})."
        )
        if worst < target:
            yield from _lost(records, wide)
    if costs := _slower(where(records, rule="DC-ASGD-c"), plain):
        yield (
            f"DC-ASGD over ASGD: {100 * max(costs):+.1f}% at most (target {100 * OVERHEAD:g}%: "
            f"{'met' if max(costs) < OVERHEAD else 'missed'})."
        )
    if costs := _slower(where(records, log=True), plain):
        yield f"Logging the distances: {100 * max(costs):+.1f}% at most."
    for engine in (SLOTS, WAVES):
        sized = [r for r in where(plain, engine) if "copies" in r.metrics]
        if sized:
            most = max(r.metrics["copies"] - numeric(r, "workers") for r in sized)
            verdict = f" (target {COPIES}: {met(most, COPIES + 0.05, at_most=True)})"
            yield (
                f"Memory, {engine}: M + {most:.2f} copies of the parameters at most"
                f"{verdict if engine == SLOTS else ''}."
            )


def _slower(records: Sequence[Record], plain: Sequence[Record]) -> list[float]:
    """By what share each run is slower than the plain one that differs from it in nothing else."""
    return [
        base.metrics["ratio"] / run.metrics["ratio"] - 1
        for run in records
        for base in where(
            plain, run.method, **{k: run.setting[k] for k in ("batch_size", "workers")}
        )
        if base.seed == run.seed
    ]


def _lost(records: Sequence[Record], wide: Sequence[Record]) -> Iterator[str]:
    """The time that the slowest waves lose a step, in copies of the weights among as many slots."""
    worst = min(wide, key=lambda r: r.metrics["ratio"])
    workers, batch = worst.setting["workers"], worst.setting["batch_size"]
    same = [r for r in where(records, batch_size=batch) if r.seed == worst.seed]
    copies = where(same, COPYING, workers=workers)
    if not copies:
        return  # of records from before copies were timed
    (plain,) = where(same, SYNCHRONOUS)
    step = 1 / plain.metrics["gradients_per_second"]
    lost = step / worst.metrics["ratio"] - step
    copy = step / copies[0].metrics["ratio"]
    yield (
        f"There, at M = {workers} and batch {batch}, a step takes {1e6 * lost:.0f} µs more "
        f"than a synchronous one's {1e6 * step:.0f}: {lost / copy:.1f} copies of the weights among "
        f"{workers} slots, {1e6 * copy:.0f} µs each, of which a simulated step needs one."
    )


def _moved(records: Sequence[Record]) -> list[str]:
    """What a step moves in memory, counted from compiled programs: why targets are missed."""
    counted = where(records, COUNTED)
    if not counted:
        return []
    rows = []
    for batch, runs in sorted(by_setting(counted, "batch_size").items()):
        base = runs[0].metrics["moved"]
        for run in runs:
            moved = run.metrics["moved"]
            cells = [f"{moved:.1f}", f"{moved - base:+.1f}", f"{base / moved:.2f}"]
            rows.append([f"{batch}", f"{run.setting['step']}", *cells])
    compiling = [r.metrics["compile_ratio"] for r in counted if "compile_ratio" in r.metrics]
    return [
        "Bytes that the operations of one compiled step read and write, as XLA counts them, in "
        "copies of the weights; the last column is what would be left of plain SGD's throughput "
        "if these bytes alone took time:",
        markdown(["batch", "step", "copies", "more", "bound"], rows),
        "Of what a step by slots moves more, two copies cannot be spared: the new weights are read "
        "once more, and written into the worker's slot. The others bring the snapshot out of its "
        "slot, since XLA's products on CPU read whole arrays. Compensation reads the snapshot "
        "once more than the gradient does. A distance is a difference written, squared, and added "
        "up by a product with ones, as XLA on CPU takes a plain sum one number after another; it "
        "is off by default. To trace and compile a run by slots takes "
        f"{max(compiling):.1f} times what plain SGD takes at most (target {FIRST_CALL:g}: "
        f"{met(max(compiling), FIRST_CALL, at_most=True)}): around the same gradient it holds "
        "slots, the counting of staleness, and the log.",
    ]
