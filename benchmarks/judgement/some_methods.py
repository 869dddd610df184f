"""Evidence taken in several runs, each of some methods of an experiment, all equal in all else."""

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.harness.reports import source
from common.results.records import Record
from common.results.tables import group


class OtherRunError(ValueError):
    """A run of some methods that the run of the others has no place for."""


def origin_of(records: Sequence[Record]) -> Mapping[str, Any]:
    """What a summary's records were made with: the first one's origin, and the methods of all.

    Args:
        records: at least one, of one experiment and preset.
    """
    runs = _runs(records)
    first = records[0].origin
    if len(runs) == 1:
        return first
    present = [record.method for record in records]
    asked = [method for of in runs.values() for method in _methods(of[0])]
    methods = [m for m in dict.fromkeys([*present, *asked]) if m in asked]
    return {**first, "configuration": {**first["configuration"], "methods": methods}}


def sources(records: Sequence[Record]) -> str:
    """Command, commit and hardware of records; where they come from several runs, of each.

    Args:
        records: as of `origin_of`.
    """
    runs = list(_runs(records).values())
    if len(runs) == 1:
        return source(records[0].origin)
    said = (
        f"{', '.join(dict.fromkeys(r.method for r in run))}: {source(run[0].origin)}"
        for run in sorted(runs, key=len)
    )
    return "; ".join(said)


def is_part(records: Sequence[Record], settings: Any) -> bool:
    """Whether a run has some methods of a preset and not all.

    Args:
        records: of the run.
        settings: of the preset.
    """
    every = set(getattr(settings, "methods", ()))
    return set(_methods(records[0])) < every


def put_into(
    kept: Sequence[Record], records: Sequence[Record], order: Sequence[str]
) -> list[Record]:
    """Kept records with those of the methods that were run anew in the place of what these had.

    Args:
        kept: what is evidence so far.
        records: of a run of some methods.
        order: of all methods of the preset, in which records are put.

    Raises:
        OtherRunError: if the two differ in more than their methods, or records do not name them.
    """
    then, now = kept[0].origin, records[0].origin
    if differing := [*_differing(then, now)]:
        raise OtherRunError(
            f"a run of some methods is kept beside one that is equal in all else, and "
            f"{', '.join(differing)} differ; run all methods."
        )
    known = {*order, *_methods(kept[0])}
    if strangers := [r.method for r in (*kept, *records) if r.method not in known]:
        raise OtherRunError(
            f"records of {strangers[0]!r} do not say which of {', '.join(order)} they are of; run "
            "all methods."
        )
    new = set(_methods(records[0]))
    every = [*(r for r in kept if r.method not in new and r.method in order), *records]
    return sorted(every, key=lambda record: order.index(record.method))


def _differing(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The settings in which two runs differ, but for their methods; and their seeds."""
    before, after = ({**of["configuration"], "methods": None} for of in (then, now))
    names = [name for name in before if name in after and before[name] != after[name]]
    return names + ["seeds"] * (then["seeds"] != now["seeds"])


def _methods(record: Record) -> Sequence[str]:
    return record.origin.get("configuration", {}).get("methods", ())


def _runs(records: Sequence[Record]) -> dict[str, list[Record]]:
    """Records by the run that they came from, in the order of the first of each."""
    return group(records, lambda record: str(record.origin.get("run")))
