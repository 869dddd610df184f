"""Killed at random moments and gone on with, does a run end where one that nothing stopped ends?

A small training run of each method (G-Adam in path space, DC-ASGD-a on a simulated cluster of eight
workers, LaCIM) is a process of its own that saves a checkpoint after every four steps. It is killed
by SIGKILL, which no process can catch, at a moment drawn uniformly, and begun again, until it gets
to its end; run after run, until there were as many kills as asked for. All it ends with, weights,
the optimiser's state, every worker's snapshot, is compared to the bit with the same from a run that
was left alone.

A checkpoint that a kill has cut short lies unfinished in the run's folder: how many were found
there tells how often a kill came while one was written.

Cost on one core: cpu 4 minutes; full (over 200 kills, no accelerator needed) 21 minutes.
Command: python -m benchmarks preemption --preset full --seeds 3
"""

import dataclasses
import functools
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.ticker import MaxNLocator

from benchmarks.harness.figures import small_multiples
from benchmarks.harness.registry import Context
from benchmarks.harness.reports import by_method, values
from benchmarks.soak.preempted_run import RUNS, STEPS_AN_EPOCH
from common.progress import Bar
from common.results.records import Record
from common.results.tables import markdown
from common.seeds import host_generator, streams

_ROOT = Path(__file__).resolve().parents[2]


@dataclasses.dataclass(frozen=True)
class Settings:
    """What the experiment depends on."""

    methods: tuple[str, ...] = tuple(RUNS)
    kills: int = 1
    """Of each method and seed, at least."""
    epochs: int = 8
    """Of each run, of 16 steps."""
    within: float = 4.0
    """Seconds from a process's being ready to its end, at most; more where a machine is so slow
    that nothing gets done."""


PRESETS = {
    "smoke": Settings(methods=("DC-ASGD",)),
    "cpu": Settings(),
    "full": Settings(kills=24, epochs=40),
}  # fmt: skip


class Ended(NamedTuple):
    """What became of a run that was killed until it got through."""

    steps: list[int]
    """The newest checkpoint's, at each kill."""
    torn: int
    """Checkpoints that were found unfinished after a kill."""
    leaves: list[np.ndarray]
    """Of the state at the end."""


def run(settings: Settings, context: Context) -> Iterator[Record]:
    """Yields a record for each method and seed."""
    with tempfile.TemporaryDirectory() as scratch:
        for seed in context.seeds:
            for method in settings.methods:
                name = f"{method}, seed {seed}"
                with context.progress.task(name, total=settings.kills) as bar:
                    yield from context.stages.of(
                        name,
                        functools.partial(
                            _killed_often, method, seed, settings, Path(scratch), bar
                        ),
                    )


def _killed_often(
    method: str, seed: int, settings: Settings, scratch: Path, bar: Bar
) -> Iterator[Record]:
    started = time.perf_counter()
    moments = host_generator(streams(seed).delay)
    runs: list[Ended] = []

    def once(name: str, within: float | None) -> Ended:
        command = [
            sys.executable, "-m", "benchmarks.soak.preempted_run", method, str(seed),
            str(settings.epochs),
        ]  # fmt: skip
        folder = scratch / f"{method}, seed {seed}, {name}"
        ended = until_it_ends(command, folder, moments, within, bar)
        shutil.rmtree(folder)
        return ended

    wanted = once("whole", None)
    while sum(len(ended.steps) for ended in runs) < settings.kills:
        runs.append(once(f"killed {len(runs)}", settings.within))
    steps = [ended.steps for ended in runs]
    yield Record(
        method=method,
        setting={"steps": settings.epochs * STEPS_AN_EPOCH},
        seed=seed,
        metrics={
            "kills": float(sum(map(len, steps))),
            "runs": float(len(runs)),
            "torn": float(sum(ended.torn for ended in runs)),
            "differing_bits": float(max(differing_bits(e.leaves, wanted.leaves) for e in runs)),
            "divergence": max(largest_difference(e.leaves, wanted.leaves) for e in runs),
        },
        curve={"kill": [*range(1, 1 + len(steps[0]))], "step": [*steps[0]]},
        wall_time=time.perf_counter() - started,
    )


def until_it_ends(
    command: Sequence[str], folder: Path, moments: np.random.Generator, within: float | None,
    bar: Bar,
) -> Ended:  # fmt: skip
    """Begins a program, kills it, and begins it again, until it ends by itself.

    The program is given a folder, made here; it prints a line when it is ready, saves checkpoints
    by number in FOLDER/checkpoints and leaves FOLDER/final.npz. It is killed at a moment uniformly
    distributed over so many seconds, `within`, from its being ready; None lets it be. The bar is
    advanced by 1 a kill.

    Raises:
        RuntimeError: if the program fails by itself; it holds what the program said.
    """
    checkpoints = folder / "checkpoints"
    checkpoints.mkdir(parents=True)
    steps, unfinished = [], set()
    while True:
        process = subprocess.Popen(
            [*command, str(folder)], cwd=_ROOT, env=_compiled_once(folder.parent) | os.environ,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        try:
            assert process.stdout is not None
            ready = process.stdout.readline()
            timeout = None if within is None or not ready else moments.uniform(0.0, within)
            _, said = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
        except BaseException:
            process.kill()
            raise
        else:
            break
        names = {entry.name for entry in checkpoints.iterdir()}
        unfinished |= {name for name in names if not name.isdigit()}
        steps.append(max((int(name) for name in names if name.isdigit()), default=0))
        bar.advance(1)
        if within is not None and len(steps) % 5 == 0 and len(set(steps[-5:])) == 1:
            within *= 1.5
    if process.returncode:
        raise RuntimeError(f"the run failed by itself: {said.decode(errors='replace')}")
    with np.load(folder / "final.npz", allow_pickle=False) as final:
        return Ended(steps, len(unfinished), [final[name] for name in final.files])


def _compiled_once(folder: Path) -> dict[str, str]:
    """Lets a program find what the one before it compiled, or most kills would come before work.

    The environment may name another place.
    """
    return {
        "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }


def differing_bits(leaves: Sequence[np.ndarray], wanted: Sequence[np.ndarray]) -> int:
    """How many bits tell two states apart, whose leaves have the same shapes and dtypes."""

    def raw(leaf: np.ndarray) -> np.ndarray:
        return np.frombuffer(leaf.tobytes(), np.uint8)

    pairs = zip(leaves, wanted, strict=True)
    return int(sum(np.bitwise_count(raw(a) ^ raw(b)).sum() for a, b in pairs))


def largest_difference(leaves: Sequence[np.ndarray], wanted: Sequence[np.ndarray]) -> float:
    """The largest absolute difference of two states' entries."""
    pairs = zip(leaves, wanted, strict=True)
    return max(float(np.abs(a.astype(float) - b.astype(float)).max(initial=0.0)) for a, b in pairs)


def tables(records: Sequence[Record]) -> str:
    """Kills and divergences of each method, as Markdown."""
    rows = []
    for method, runs in by_method(records).items():
        counts = [
            f"{sum(values(runs, name)):g}" for name in ("runs", "kills", "torn", "differing_bits")
        ]
        divergence = max(values(runs, "divergence"))
        rows.append([method, str(runs[0].setting["steps"]), *counts, f"{divergence:g}"])
    kills = int(sum(values(records, "kills")))
    same = sum(not record.metrics["differing_bits"] for record in records)
    verdict = (
        f"{kills} kills; the end of {same} in {len(records)} (method, seed) is that of the run "
        "which was left alone, to the bit."
    )
    header = [
        "method", "steps a run", "runs", "kills and resumes", "checkpoints found unfinished",
        "bits that differ", "largest difference",
    ]  # fmt: skip
    return f"{verdict}\n\n{markdown(header, rows)}"


CAPTIONS = {
    "progress.png": "Steps kept in the newest checkpoint at each kill, of every seed's first run. "
    "Every line climbs to the end: no kill throws a run back."
}


def plots(records: Sequence[Record], out: Path) -> list[Path]:
    """How far each method's runs had got at each kill, of every seed's first run."""
    path, methods = out / "progress.png", by_method(records)
    with small_multiples(
        path, [""], list(methods), labels=("kills", "steps kept"), title=lambda _, method: method
    ) as panels:
        for (_, method), axes in panels.items():
            for record in methods[method]:
                kills = [0, *record.curve["kill"], len(record.curve["kill"]) + 1]
                steps = [0, *record.curve["step"], record.setting["steps"]]
                axes.step(kills, steps, where="post", marker=".", label=f"seed {record.seed}")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return [path]
