"""Is anything lost, doubled or changed when `python -m benchmarks` is killed at random moments?

A small experiment is run by its command line, `python -m benchmarks NAME --preset smoke --resume`,
as a user runs it. It is killed by SIGKILL, which no process can catch, when it has computed for a
number of seconds drawn uniformly between none and what the whole run takes, imports and plots
included; then the same command goes on, until one gets to its end; folder after folder, until there
were as many kills as asked for.

After every kill the folder is read as a user would find it: records and manifest must be whole, and
hold every stage that they held before. At the end, records, tables and plots are compared with
those of a run that was left alone: records but for their times, files to the byte.

Linux alone says how long another process has computed.

Cost on one core: smoke 1 minute; day (25 kills a seed) 2 minutes a seed; full (100 kills a seed)
7 minutes a seed.
Command: python -m benchmarks killed_commands --preset day --seeds 8
"""

import dataclasses
import functools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from matplotlib.ticker import MaxNLocator

from benchmarks.harness.registry import Context
from benchmarks.harness.reports import values
from common.progress import Bar
from common.results.plots import figure
from common.results.records import Record, json_ready, last_run, read_records
from common.results.tables import markdown
from common.seeds import host_generator, streams

_ROOT = Path(__file__).resolve().parents[2]


@dataclasses.dataclass(frozen=True)
class Settings:
    """What the experiment depends on."""

    experiment: str = "gsgd_architectures"
    """Whose command is killed: of its own, three stages of a second."""
    kills: int = 25
    """Of each seed, at least."""


PRESETS = {
    "smoke": Settings(kills=3),
    "cpu": Settings(kills=8),
    "day": Settings(),
    "full": Settings(kills=100),
}


class Ended(NamedTuple):
    """What became of a folder whose run was killed until it got through."""

    moments: list[float]
    """Seconds computed at each kill."""
    finished: list[int]
    """Stages that the folder held after each kill."""
    lost: int
    """Stages that it held after one kill and not after the next, or not at the end."""
    torn: int
    """Kills that left an unfinished last line, which the next process cut off."""
    strays: int
    """Files at the end that an undisturbed run does not leave."""


def run(settings: Settings, context: Context) -> Iterator[Record]:
    """Yields a record for each seed.

    Args:
        settings: the experiment's.
        context: seeds, progress.
    """
    with tempfile.TemporaryDirectory() as scratch:
        for seed in context.seeds:
            with context.progress.task(f"seed {seed}", total=settings.kills) as bar:
                stage = functools.partial(_killed_often, settings, seed, Path(scratch), bar)
                yield from context.stages.of(f"seed {seed}", stage)


def _killed_often(settings: Settings, seed: int, scratch: Path, bar: Bar) -> Iterator[Record]:
    started = time.perf_counter()
    rng = host_generator(streams(seed).delay)
    command = [
        sys.executable, "-m", "benchmarks", settings.experiment, "--preset", "smoke", "--seeds",
        "1", "--resume",
    ]  # fmt: skip
    env = {"JAX_COMPILATION_CACHE_DIR": str(scratch / "compiled")} | os.environ
    whole = scratch / f"seed {seed}, whole"
    if not (scratch / "compiled").exists():  # what is compiled first, all others find
        until_killed([*command, "--out", str(scratch / "first")], env, float("inf"))
    took = until_killed([*command, "--out", str(whole)], env, float("inf"))
    assert took is not None
    ends: list[Ended] = []
    differing: Counter[str] = Counter()
    while sum(len(ended.moments) for ended in ends) < settings.kills:
        out = scratch / f"seed {seed}, killed"
        going_on = [*command, "--out", str(out)]
        ends.append(until_it_ends(going_on, env, out, lambda: rng.uniform(0.0, took), bar))
        differing.update(differences(out, whole))
        shutil.rmtree(out)
    shutil.rmtree(whole)
    finished = [count for ended in ends for count in ended.finished]
    moments = [moment for ended in ends for moment in ended.moments]
    yield Record(
        method=settings.experiment,
        setting={},
        seed=seed,
        metrics={
            "kills": float(len(moments)),
            "runs": float(len(ends)),
            "before_any_stage": float(sum(count == 0 for count in finished)),
            "torn": float(sum(ended.torn for ended in ends)),
            "stages_lost": float(sum(ended.lost for ended in ends)),
            "strays": float(sum(ended.strays for ended in ends)),
            **{name: float(differing[name]) for name in DIFFERENCES},
        },
        curve={"seconds": moments, "stages": finished},
        wall_time=time.perf_counter() - started,
    )


class CommandFailedError(RuntimeError):
    """A command that ended by itself, and not well; the message is what it said."""


def until_killed(command: Sequence[str], env: dict[str, str], seconds: float) -> float | None:
    """Kills a command once it has computed for so many seconds.

    Args:
        command: a program and its arguments.
        env: its environment.
        seconds: of all its cores together; infinity lets it be.

    Returns:
        None if it was killed; the seconds that it computed where it ended before.

    Raises:
        CommandFailedError: if it ended with a status that is not 0.
    """
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(command, cwd=_ROOT, env=env, stdout=said, stderr=said)
        try:
            spent = 0.0
            while process.poll() is None:
                spent = _computed(process.pid)
                if spent >= seconds:
                    process.kill()
                    break
                time.sleep(0.005)
            status = process.wait()
        except BaseException:
            process.kill()
            process.wait()
            raise
        if spent >= seconds and status < 0:
            return None
        if status:
            said.seek(0)
            raise CommandFailedError(said.read().decode(errors="replace"))
        return spent


def _computed(pid: int) -> float:
    """The seconds that a child has computed, its system calls included."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def until_it_ends(
    command: Sequence[str], env: dict[str, str], out: Path, moment: Callable[[], float], bar: Bar
) -> Ended:
    """Begins a command, kills it, and begins it again, until it ends by itself.

    Args:
        command: an experiment's, that goes on with what `out` holds.
        env: its environment.
        out: its folder for results, which it makes.
        moment: the seconds after which to kill it next.
        bar: advanced by 1 a kill.

    Raises:
        CommandFailedError: if it fails by itself.
        ValueError: if a kill leaves a record or a manifest that cannot be read.
    """
    moments, finished, lost, torn = [], [], 0, 0
    before: set[str] = set()
    while True:
        seconds = moment()
        ended = until_killed(command, env, seconds)
        now, cut = _stages(out)
        lost += len(before - now)
        before = now
        if ended is not None:
            break
        moments.append(seconds)
        finished.append(len(now))
        torn += cut
        bar.advance(1)
    left = {"records.jsonl", *json.loads((out / "manifest.json").read_bytes())["files"]}
    strays = {path.name for path in out.iterdir()} - left - {"manifest.json"}
    return Ended(moments, finished, lost, torn, len(strays))


def _stages(out: Path) -> tuple[set[str], bool]:
    """The finished stages that a folder has, and whether its last line is torn."""
    manifest, records = out / "manifest.json", out / "records.jsonl"
    if not manifest.exists():
        return set(), False
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        kept = read_records(records)
    last = json.loads(manifest.read_bytes())
    own = [record for record in kept if record.origin["run"] == last["run"]]
    whole = {
        stage["name"]
        for stage in last["stages"]
        if len(own[stage["first"] :][: stage["records"]]) == stage["records"]
    }
    return whole, bool(told)


DIFFERENCES = ("records_lost", "records_doubled", "records_changed", "files_changed")


def differences(out: Path, whole: Path) -> Counter[str]:
    """How a run's folder differs from that of a run which was left alone.

    Args:
        out: the folder of the one.
        whole: the folder of the other.

    Returns:
        By the names in `DIFFERENCES`: records that are missing, are there more than once, or hold
        other figures; tables and plots with other bytes.
    """
    found, wanted = (_figures(folder / "records.jsonl") for folder in (out, whole))
    counts = Counter(name for name, _ in found)
    once = dict(found)
    pairs = [(once[name], figures) for name, figures in wanted if name in once]
    files = [path.name for path in whole.iterdir() if path.suffix in (".md", ".png")]
    return Counter(
        records_lost=sum(name not in counts for name, _ in wanted),
        records_doubled=sum(count - 1 for count in counts.values()) + len(
            counts.keys() - dict(wanted).keys()
        ),
        records_changed=sum(ours != theirs for ours, theirs in pairs),
        files_changed=sum(
            not (out / name).exists() or (out / name).read_bytes() != (whole / name).read_bytes()
            for name in files
        ),
    )  # fmt: skip


def _figures(path: Path) -> list[tuple[str, str]]:
    """What each record of the last run is of, and its figures, as JSON; its time is left out."""
    return [
        (
            json.dumps(json_ready([record.method, record.setting, record.seed])),
            json.dumps(json_ready([record.metrics, record.curve])),
        )
        for record in last_run(read_records(path))
    ]


def tables(records: Sequence[Record]) -> str:
    """Kills and what they did, as Markdown.

    Args:
        records: of this experiment.
    """
    names = ("kills", "runs", "before_any_stage", "torn", "stages_lost", *DIFFERENCES, "strays")
    total = {name: int(sum(values(records, name))) for name in names}
    harm = sum(total[name] for name in ("stages_lost", "strays", *DIFFERENCES))
    verdict = (
        f"{total['kills']} kills of {total['runs']} runs of {records[0].method}: "
        + ("nothing was lost, doubled, changed or left behind." if not harm else f"{harm} faults.")
    )  # fmt: skip
    header = [
        "killed and gone on with", "runs", "kills before a stage was done", "last lines torn",
        "stages lost", "records lost", "records doubled", "records changed", "files changed",
        "files left behind",
    ]  # fmt: skip
    return f"{verdict}\n\n{markdown(header, [[str(total[name]) for name in names]])}"


CAPTIONS = {
    "kills.png": "Every kill: how long the process had computed, and how many stages its folder "
    "held then, those of the processes before it included. A colour is a seed; points are set "
    "apart at random in height.",
}


def plots(records: Sequence[Record], out: Path) -> list[Path]:
    """When processes were killed, and what their folders held.

    Args:
        records: of this experiment.
        out: the folder.
    """
    path = out / "kills.png"
    with figure(path) as panels:
        axes = panels[0, 0]
        for record in records:
            rng = host_generator(streams(record.seed).noise)
            stages = [count + rng.uniform(-0.2, 0.2) for count in record.curve["stages"]]
            axes.plot(record.curve["seconds"], stages, ".", label=f"seed {record.seed}")
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set(xlabel="seconds computed when killed", ylabel="stages kept")
    return [path]
