"""What the records say of speed: ratios of programs timed in turns, against their targets."""

from collections.abc import Iterator

from benchmarks.delay import speed as simulation
from benchmarks.delay.timed import pushes
from benchmarks.harness.reports import by_setting, met, numeric, values, where
from benchmarks.judgement.verdicts import FAILS, HOLDS, PARTLY, Finding, Measured
from benchmarks.latent.reports import speed as latent
from benchmarks.path_space import speed as path_space


def speed(measured: Measured) -> Finding:
    """Ratios of programs timed in turns, against their targets."""
    lines = [*_steps(measured), *_simulations(measured), *_searches(measured)]
    reached = [verdict == "met" for _, verdict in lines]
    verdict = HOLDS if all(reached) else PARTLY if any(reached) else FAILS
    headline = f"{sum(reached)} of {len(reached)} targets met"
    listed = "; ".join(f"{text}: {verdict}" for text, verdict in lines)
    return Finding(verdict, headline, f"{headline}: {listed}.")


def _steps(measured: Measured) -> Iterator[tuple[str, str]]:
    timed = [r for r in measured.get("gsgd_speed", ()) if "ratio" in r.metrics]
    for network, runs in by_setting(where(timed, path_space.GSGD), "network").items():
        worst, target = max(values(runs, "ratio")), path_space.TARGET
        yield (
            f"step in path space, {network}, {worst:.2f} of SGD's (target {target:g})",
            met(worst, target, at_most=True),
        )
        compiled, target = max(values(runs, "compile_ratio")), path_space.COMPILE_TARGET
        yield (
            f"its compilation {compiled:.1f} (target {target:g})",
            met(compiled, target, at_most=True),
        )


def _simulations(measured: Measured) -> Iterator[tuple[str, str]]:
    waves = where(measured.get("dcasgd_speed", ()), simulation.WAVES, rule="ASGD", log=False)
    wide, target = [r for r in waves if numeric(r, "workers") >= 8], simulation.TARGET
    for network, runs in by_setting(wide, "network").items():
        worst = min(values(runs, "ratio"))
        yield (
            f"simulated cluster, {network}, {worst:.2f} of synchronous throughput at worst "
            f"(target {target:g})",
            met(worst, target),
        )
    if pushed := where(measured.get("dcasgd_speed", ()), pushes.PUSH):
        worst, target = max(values(pushed, "ratio")), pushes.TARGET
        yield (
            f"push to a real server {worst:.2f} of the bare calls' time (target {target:g})",
            met(worst, target, at_most=True),
        )


def _searches(measured: Measured) -> Iterator[tuple[str, str]]:
    searches = where(measured.get("lacim_speed", ()), task=latent.SEARCH)
    for decoder, runs in by_setting(searches, "decoder").items():
        worst, target = min(latent.ratios(runs)), latent.TARGET
        yield (
            f"latent search, {decoder}, {worst:.1f} times a loop over batches (target {target:g})",
            met(worst, target),
        )
