"""One recorded row computed anew, beside what was recorded: `python -m benchmarks again`.

A record says all that it takes: experiment, settings, seeds, commit. Of the stages of its
experiment (`benchmarks.harness.stages`) the one that it came from is run, at those settings.
"""

import dataclasses
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.harness import registry
from benchmarks.harness.registry import Context
from benchmarks.harness.stages import Stages
from common.files import inside
from common.progress import Progress
from common.results.origin import provenance, shortened
from common.results.records import Record, json_ready, last_run, read_records
from common.results.summaries import read_summary

SPREADS = 2.0
"""A figure agrees if it is within so many standard deviations over the recorded seeds."""
RELATIVE, ROUNDING = 0.1, 1e-6
"""Where one seed is all there is, and no spread: within this share of it; and in any case."""

_SHARED = list(reversed(registry.PRESET_NAMES))
_OF_THE_MACHINE = re.compile(
    r"(?<!simulated_)seconds(?!_to_target)|per_(cpu_)?second|gflops|^time$"
    r"|^((compile|simulator)_)?ratio$|^first_quartile$"
)
"""Names of times, of speeds, and of ratios between them; a simulated clock is no machine's."""


class RowError(ValueError):
    """A row that cannot be computed anew; the message says why."""


class Figure(NamedTuple):
    """One figure of a row, then and now."""

    name: str
    recorded: float
    again: float
    allowed: float
    """The largest difference at which the two agree; infinite for what is the machine's own: times,
    speeds, and their ratios."""

    @property
    def agrees(self) -> bool:
        """Whether they do; figures that are not finite agree with each other.

        Records have one word for infinity and for what is not a number, and both are read as NaN.
        """
        neither = not (math.isfinite(self.recorded) or math.isfinite(self.again))
        if math.isinf(self.allowed) or neither:
            return True
        return abs(self.again - self.recorded) <= self.allowed


class Again(NamedTuple):
    """What came of it."""

    record: Record
    stage: str
    figures: list[Figure]


def recorded(source: str, evidence: Path, preset: str | None = None) -> list[Record]:
    """The records that a row is chosen from.

    Args:
        source: the name of an experiment, for its evidence; a file of records, "records.jsonl" or
            a summary; or a folder that holds one.
        evidence: where summaries are kept, one folder an experiment.
        preset: whose summary, where a folder has several; None for the largest.

    Raises:
        RowError: if there are none, or a preset is named where there is no choice of them.
        ValueError: if a file does not hold records.
    """
    known = source in registry.NAMES
    path = inside(evidence, source) if known else Path(source)
    if preset is not None and (path.is_file() or (path / "records.jsonl").is_file()):
        raise RowError(
            f"--preset says which summary of an experiment is meant, and {path} holds one run; "
            "leave it out."
        )
    if path.is_dir():
        of = registry.presets_of(path.name) if path.name in registry.NAMES else _SHARED
        presets = [preset] if preset else of
        tried = [path / "records.jsonl", *(path / f"{name}.jsonl" for name in presets)]
        path = next((file for file in tried if file.is_file()), path / tried[-1].name)
    if not path.is_file():
        raise RowError(
            f"rows are of a file of records or of an experiment's evidence, and there is none at "
            f"{path}; name a file, a folder, or an experiment that has been measured."
        )
    whole = path.name == "records.jsonl"
    records = last_run(read_records(path)) if whole else read_summary(path)
    if not records:
        raise RowError(f"{path} holds no finished record; let its run finish one.")
    return records


def row(records: Sequence[Record], number: int) -> Record:
    """The row of a number, counted from 1.

    Raises:
        RowError: if there is no such row.
    """
    if not 1 <= number <= len(records):
        raise RowError(f"--row must be between 1 and {len(records)}, got {number}.")
    return records[number - 1]


def again(
    records: Sequence[Record], number: int, *, data_dir: Path | None, progress: Progress,
    begin: Callable[[str], None] = lambda stage: None,
) -> Again:  # fmt: skip
    """Runs the stage of one row anew, at its recorded settings.

    Args:
        records: of one run, or of several with methods of their own, in the order written.
        number: of the row, counted from 1.
        data_dir: where prepared data sets are.
        progress: where bars are drawn.
        begin: told of each stage before it is run.

    Raises:
        RowError: if there is no such row, this code has other settings, or no stage yields it.
        UnknownNameError: if the experiment or its preset is not known.
    """
    wanted = row(records, number)
    origin = wanted.origin
    try:
        name, _recorded = str(origin["benchmark"]), origin["preset"]
        configuration, seeds = origin["configuration"], tuple(int(s) for s in origin["seeds"])
    except (KeyError, TypeError, ValueError) as error:
        raise RowError(
            f"a row needs to say its experiment, preset, settings and seeds ({error!r} is missing "
            "or damaged); take one that `python -m benchmarks` wrote."
        ) from error
    experiment = registry.load(name)
    template = registry.preset(experiment, registry.preset_of(name, origin))
    settings = _settings(template, configuration, origin)
    context = Context(seeds=seeds, data_dir=data_dir, progress=progress)

    def run(stages: Stages) -> Iterator[Record]:
        return experiment.run(settings, context._replace(stages=stages))

    names = _Listed(records)
    for _ in run(names):
        pass
    # Of the run that it came from: a summary may be of several.
    own = [r for r in records if r.origin.get("run") == origin.get("run")]
    before = sum(r.origin.get("run") == origin.get("run") for r in records[: number - 1])
    for stage in ranked(names.all, wanted, before / len(own)):
        begin(stage)
        for found in run(_Only(records, stage)):
            if _same(found, wanted):
                return Again(wanted, stage, compared(wanted, found, records))
    raise RowError(f"no stage of {name} yields {described(wanted)} any more.")


def differences(origin: Mapping[str, Any]) -> list[str]:
    """In what this process differs from the one that recorded: commit, versions, device."""
    then, now = origin.get("provenance", {}), json_ready(provenance())
    keys = {"git_commit": "commit", "versions": "versions", "device": "device"}
    return [
        f"{word}: recorded {then.get(key)}, here {now[key]}"
        for key, word in keys.items()
        if then.get(key) != now[key]
    ]


def compared(old: Record, new: Record, records: Iterable[Record]) -> list[Figure]:
    """Each figure of a row beside the new one, with what the spread over seeds allows."""
    alike = [r for r in records if (r.method, r.setting) == (old.method, old.setting)]
    figures = []
    for name, value in old.metrics.items():
        spread = np.asarray([r.metrics.get(name, math.nan) for r in alike], float)
        spread = spread[np.isfinite(spread)]
        allowed = SPREADS * float(spread.std(ddof=1)) if len(spread) > 1 else RELATIVE * abs(value)
        allowed = max(allowed, ROUNDING * abs(value)) if math.isfinite(value) else 0.0
        if _OF_THE_MACHINE.search(name):
            allowed = math.inf
        figures.append(Figure(name, value, new.metrics.get(name, math.nan), allowed))
    return figures


def described(record: Record) -> str:
    """A row in words."""
    setting = ", ".join(f"{name} {value}" for name, value in record.setting.items())
    return f"{record.method}{f' ({setting})' if setting else ''}, seed {record.seed}"


def ranked(stages: Sequence[str], record: Record, place: float) -> list[str]:
    """Stages, those that a record likeliest came from first: by what their names say, and order.

    Args:
        stages: names, in the order in which they are run.
        record: the one that is looked for.
        place: of the record among all, from 0 to 1.
    """
    values = [f"{v:g}" if isinstance(v, float) else str(v) for v in record.setting.values()]

    def merit(numbered: tuple[int, str]) -> tuple[int, float]:
        number, name = numbered
        said = 4 * _says(name, record.method) + 2 * _says(name, f"seed {record.seed}")
        said += sum(_says(name, value) for value in values)
        return -said, abs((number + 0.5) / len(stages) - place)

    return [name for _, name in sorted(enumerate(stages), key=merit)]


def _says(name: str, word: str) -> bool:
    return re.search(rf"(?<![\w.-]){re.escape(word)}(?![\w.-])", name) is not None


def _same(found: Record, wanted: Record) -> bool:
    return (found.method, json_ready(found.setting), found.seed) == (
        wanted.method, json_ready(wanted.setting), wanted.seed,
    )  # fmt: skip


def _settings(template: Any, configuration: Any, origin: Mapping[str, Any]) -> Any:
    """The settings that were recorded, as the preset of today with what differed put in."""
    today = json_ready(dataclasses.asdict(template))
    if today == configuration:
        return template
    commit = shortened(str(origin.get("provenance", {}).get("git_commit")))
    differing = sorted(
        key for key in today.keys() | configuration.keys()
        if today.get(key) != configuration.get(key)
    )  # fmt: skip
    try:
        changed = {key: _tuples(configuration[key]) for key in differing}
        settings = dataclasses.replace(template, **changed)
        if json_ready(dataclasses.asdict(settings)) == configuration:
            return settings
    except (KeyError, TypeError, ValueError, AttributeError):
        pass
    raise RowError(
        f"the settings of this row ({', '.join(differing)}) are not ones that this code has; check "
        f"out its commit, {commit}, and ask again."
    )


def _tuples(value: Any) -> Any:
    """JSON's lists as the tuples that settings hold; a mapping is no plain setting."""
    if isinstance(value, Mapping):
        raise TypeError("a group of settings")
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


class _Listed(Stages):
    """Runs no stage, and notes what each is called."""

    computes_all = False

    def __init__(self, records: Sequence[Record]):
        super().__init__({"recorded": records})
        self.all: list[str] = []

    def of(self, name: str, make: Callable[[], Iterable[Record]]) -> Iterator[Record]:
        del make
        self.all.append(name)
        return iter(())


class _Only(Stages):
    """Runs one stage."""

    computes_all = False

    def __init__(self, records: Sequence[Record], name: str):
        super().__init__({"recorded": records})
        self._name = name

    def of(self, name: str, make: Callable[[], Iterable[Record]]) -> Iterator[Record]:
        return iter(list(make())) if name == self._name else iter(())
