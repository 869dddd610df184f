"""Evidence taken in several runs, each of some methods of an experiment, all equal in all else."""

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.harness.halving import TUNING
from benchmarks.harness.reports import source
from common.results.records import Record
from common.results.tables import group


class OtherRunError(ValueError):
    """A run of some methods that the runs of the others have no place for."""


def origin_of(records: Sequence[Record]) -> Mapping[str, Any]:
    """What a summary's records were made with: the first one's origin, and the settings of all.

    Args:
        records: at least one, of one experiment and preset. Where they come from several runs, the
            methods are those that there are records of.
    """
    runs = _runs(records)
    first = records[0].origin
    if len(runs) == 1:
        return first
    settings = {k: v for of in runs.values() for k, v in of[0].origin["configuration"].items()}
    asked = {method for of in runs.values() for method in _methods(of[0])}
    present = dict.fromkeys(record.method for record in records)
    settings["methods"] = [method for method in present if method in asked]
    return {**first, "configuration": settings}


def sources(records: Sequence[Record], *, versions: bool = False) -> str:
    """Command, commit and hardware of records; where they come from several runs, of each.

    Args:
        records: as of `origin_of`.
        versions: whether to say the version of jax and the dtype too.
    """
    runs = list(_runs(records).values())

    def said(run: Sequence[Record]) -> str:
        made = run[0].origin["provenance"]
        also = f", jax {made['versions']['jax']}, {made['dtype']}" if versions else ""
        return f"{source(run[0].origin)}{also}"

    if len(runs) == 1:
        return said(records)
    return "; ".join(
        f"{', '.join(dict.fromkeys(record.method for record in run))}: {said(run)}"
        for run in sorted(runs, key=len)
    )


def has_place(records: Sequence[Record], kept: Sequence[Record], settings: Any) -> bool:
    """Whether a run is of some methods of a preset, beside kept records of others.

    Args:
        records: of the run.
        kept: what is evidence so far; may be empty.
        settings: of the preset.
    """
    every, new = set(getattr(settings, "methods", ())), set(_methods(records[0]))
    part = bool(new) and new < every
    return part and any(r.method not in new and r.method in every for r in kept)


def put_into(
    kept: Sequence[Record], records: Sequence[Record], order: Sequence[str]
) -> list[Record]:
    """Kept records with those of the methods that were run anew in the place of what these had.

    Args:
        kept: what is evidence so far.
        records: of a run of some methods.
        order: of all methods of the preset, in which records are put.

    Raises:
        OtherRunError: if runs differ in more than their methods, records do not name them, or the
            run was stopped before it had all of them from all seeds.
    """
    new, now = set(_methods(records[0])), records[0].origin
    asked = {method for run in _runs(kept).values() for method in _methods(run[0])}
    known = {*order, *asked}
    if strangers := [r.method for r in (*kept, *records) if r.method not in known]:
        raise OtherRunError(
            f"records of {strangers[0]!r} do not say which of {', '.join(order)} they are of; run "
            "all methods."
        )
    finished = {(r.method, r.seed) for r in records if TUNING not in r.setting}
    for method in (m for m in order if m in new):
        if missing := [seed for seed in now["seeds"] if (method, seed) not in finished]:
            raise OtherRunError(
                f"the run has no whole training of {method} from seed {missing[0]} yet, and would "
                "replace the one that is kept; let it finish, --resume goes on."
            )
    stay = [r for r in kept if r.method not in new and r.method in order]
    for run in _runs(stay).values():
        if differing := _differing(run[0].origin, now):
            raise OtherRunError(
                f"a run of some methods is kept beside runs that are equal in all else, and "
                f"{', '.join(differing)} differ; run all methods."
            )
    return sorted([*stay, *records], key=lambda record: order.index(record.method))


def _differing(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What two runs differ in, but for their methods: settings, and seeds.

    A setting that the earlier one does not know came later, with a default that changes nothing.
    """
    before, after = ({**of["configuration"], "methods": None} for of in (then, now))
    names = [k for k, value in before.items() if k not in after or value != after[k]]
    return names + ["seeds"] * (then["seeds"] != now["seeds"])


def _methods(record: Record) -> Sequence[str]:
    return record.origin.get("configuration", {}).get("methods", ())


def _runs(records: Sequence[Record]) -> dict[str, list[Record]]:
    """Records by the run that they came from, in the order of the first of each."""
    return group(records, lambda record: str(record.origin.get("run")))
