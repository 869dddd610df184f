"""What the records say of speed: ratios of programs timed in turns, against their targets."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from benchmarks.delay import speed as simulation
from benchmarks.delay.timed import event_loops, pushes
from benchmarks.harness.reports import (
    CLOSE,
    MET,
    MISSED,
    by_setting,
    numeric,
    reached,
    turns,
    values,
    where,
)
from benchmarks.judgement.finding import (
    FAILS,
    HOLDS,
    INCOMPLETE,
    PARTLY,
    UNDECIDED,
    Finding,
    Measured,
)
from benchmarks.latent.reports import authors_search
from benchmarks.latent.reports import speed as latent
from benchmarks.path_space import speed as path_space

STEP, CLUSTER, SEARCH = "step in path space", "simulated cluster", "latent search"
"""The clauses of the claim."""


class Target(NamedTuple):
    """A ratio and what it was meant to be."""

    clause: str
    text: str
    """What was measured, with the ratio."""
    outcome: str
    miss: float
    """By which factor it is missed; below 1 if it is met."""


def speed(measured: Measured) -> Finding:
    """Ratios of programs timed in turns, against their targets.

    A program's repetitions are its statistics: where the 95% interval of its ratio over the turns
    covers the target, the ratio is too close to it to tell.
    """
    targets = [*_steps(measured), *_simulations(measured), *_searches(measured)]
    if not targets:
        return INCOMPLETE
    found = [target.outcome for target in targets]
    met, missed = found.count(MET), found.count(MISSED)
    verdict = (
        HOLDS if met == len(found) else PARTLY if met else FAILS if 2 * missed >= len(found)
        else UNDECIDED
    )  # fmt: skip
    worst = max(targets, key=lambda target: target.miss)
    names = dict.fromkeys(target.clause for target in targets)
    clauses = [_counted(name, [t for t in targets if t.clause == name]) for name in names]
    headline = f"targets met: {', '.join(clauses)}"
    headline += f"; {'worst' if worst.miss > 1 else 'nearest'}: {worst.text}"
    listed = "\n".join(f"- {target.text}: {target.outcome}" for target in targets)
    return Finding(verdict, headline, f"{headline[0].upper()}{headline[1:]}.\n\n{listed}")


def _counted(clause: str, targets: Sequence[Target]) -> str:
    """How many targets of a clause are met, and how many too close to tell."""
    found = [target.outcome for target in targets]
    close = f" ({found.count(CLOSE)} too close to tell)" if CLOSE in found else ""
    return f"{clause} {found.count(MET)} of {len(found)}{close}"


def _target(
    clause: str, what: str, ratio: float, of: str, target: float, over: np.ndarray | None = None, *,
    at_most: bool = False,
) -> Target:  # fmt: skip
    """`what` is told behind the clause, and `of` says what the ratio is to.

    `over` are its values in every turn, where they are kept.
    """
    miss = ratio / target if at_most else target / ratio
    outcome = reached(ratio, target, over, at_most=at_most)
    # Where little is asked for, what counts is the second decimal.
    shown = f"{ratio:.2f}" if target < 1.5 else f"{ratio:.1f}"
    text = f"{clause}{what} {shown} {of} (target {target:g})"
    return Target(clause, text, outcome, float(miss))


def _steps(measured: Measured) -> Iterator[Target]:
    """Of every network and batch; how long it compiles is told on the experiment's own page."""
    timed = [r for r in measured.get("gsgd_speed", ()) if "ratio" in r.metrics]
    for run in where(timed, path_space.GSGD):
        named = [f"{name.removesuffix('_size')} {value}" for name, value in run.setting.items()]
        yield _target(
            STEP, f", {', '.join(named).removeprefix('network ')},", run.metrics["ratio"],
            "of SGD's", path_space.TARGET, turns(run, where(timed, path_space.SGD, **run.setting)),
            at_most=True,
        )  # fmt: skip


def _simulations(measured: Measured) -> Iterator[Target]:
    records = measured.get("dcasgd_speed", ())
    waves = where(records, simulation.WAVES, rule="ASGD", log=False)
    wide = [r for r in waves if numeric(r, "workers") >= 8]
    for network, runs in by_setting(wide, "network").items():
        worst = min(runs, key=lambda r: r.metrics["ratio"])
        batch = worst.setting.get("batch_size")
        plain = where(records, simulation.SYNCHRONOUS, network=network, batch_size=batch)
        yield _target(
            CLUSTER, f", {network},", worst.metrics["ratio"],
            "of synchronous throughput at worst", simulation.TARGET,
            turns(plain[0], [worst]) if plain else None,
        )  # fmt: skip
    if looped := where(records, event_loops.TORCH_LOOP, rule="ASGD"):
        worst = min(looped, key=lambda r: r.metrics["simulator_ratio"])
        ours = where(records, event_loops.SIMULATOR, **{
            key: worst.setting[key] for key in ("network", "width", "workers", "rule")
        })  # fmt: skip
        yield _target(
            CLUSTER, "", worst.metrics["simulator_ratio"],
            "times the throughput of an event loop in PyTorch at worst", event_loops.TARGET,
            turns(worst, ours),
        )  # fmt: skip
    if pushed := where(records, pushes.PUSH):
        yield _target(
            CLUSTER, ", push to a real server", max(values(pushed, "ratio")),
            "of the bare calls' time", pushes.TARGET, at_most=True,
        )  # fmt: skip


def _searches(measured: Measured) -> Iterator[Target]:
    searches = where(measured.get("lacim_speed", ()), task=latent.SEARCH)
    for decoder, runs in by_setting(searches, "decoder").items():
        if ratios := latent.ratios(runs):
            loop, ours = where(runs, latent.LOOP), where(runs, latent.OURS)
            at_once = latent.ratios(runs, latent.AT_ONCE)
            beside = f", {min(at_once):.1f} times one of all starts at once" if at_once else ""
            target = _target(
                SEARCH, f", {decoder},", min(ratios), f"times a loop over batches{beside}",
                latent.TARGET, turns(loop[0], ours),
            )  # fmt: skip
            short, _ = latent.beside_every_start(runs)
            if not latent.as_good(runs):
                # However fast, it does not do what the loop does.
                target = target._replace(
                    text=f"{target.text}, but short by {short:.3f} nats (at most {latent.SHORT:g})",
                    outcome=MISSED,
                    miss=max(target.miss, short / latent.SHORT),
                )
            yield target
    beside = where(measured.get("lacim_speed", ()), task=authors_search.BESIDE_AUTHORS)
    for decoder, runs in by_setting(beside, "decoder").items():
        if ratios := authors_search.ratios(runs):
            theirs, ours = (
                where(runs, way) for way in (authors_search.AUTHORS, authors_search.ENOUGH)
            )
            default = authors_search.of_default(runs)
            yield _target(
                SEARCH, f", {decoder}, to the authors' objective,", min(ratios),
                f"times their loop in PyTorch, {default:.1f} by default to a better one",
                authors_search.TARGET, turns(theirs[0], ours),
            )  # fmt: skip
