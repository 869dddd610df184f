"""The page of one experiment: what it claims, the verdicts, and a section for each preset."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.harness import registry
from benchmarks.harness.runner import made_by
from benchmarks.judgement.some_methods import origin_of, sources
from common.results.records import Record

_OWN = (
    f"*A preset of its own: claims are judged on {', '.join(registry.PRESET_NAMES[:-1])} and "
    f"{registry.PRESET_NAMES[-1]} alone.*"
)


def page(name: str, judged: str, sections: Sequence[str]) -> str:
    """The whole page, as Markdown.

    Args:
        name: of the experiment.
        judged: what is said of the claims that it belongs to; may be empty.
        sections: as of `section`.
    """
    claim, _, rest = registry.describe(name).partition("\n")
    parts = [f"# {name}", f"**{claim}**", rest.strip(), judged, *sections]
    return "\n\n".join(part for part in parts if part) + "\n"


def section(
    name: str, path: Path, records: Sequence[Record], scratch: Path
) -> tuple[str, dict[Path, Path]]:
    """One preset's tables and figures; a figure is named for the preset too.

    Args:
        name: of the experiment.
        path: of the preset's summary; figures belong beside it.
        records: of the summary.
        scratch: the folder in which figures are drawn.

    Returns:
        Markdown, and by the path of every figure the file that it is drawn in.
    """
    experiment = registry.load(name)
    figures = {
        path.with_name(f"{path.stem}_{drawn.name}"): drawn
        for drawn in experiment.plots(records, scratch)
    }
    captions = getattr(experiment, "CAPTIONS", {})
    shown = []
    for figure in figures:
        shown.append(f"![{figure.stem.replace('_', ' ')}]({figure.parent.name}/{figure.name})")
        if caption := captions.get(figure.name.removeprefix(f"{path.stem}_")):
            shown.append(f"*{caption}*")
    # A run that was stopped has not all the seeds that it was asked for.
    origin = {**origin_of(records), "seeds": sorted({record.seed for record in records})}
    notes = [] if path.stem in registry.PRESET_NAMES else [_OWN]
    if differing := changed(experiment.PRESETS.get(path.stem), origin):
        notes.append(f"*Not the preset as it is now: {differing}.*")
    elif (recorded := origin.get("preset")) != path.stem:
        notes.append(f"*Recorded when this preset was called `{recorded}`.*")
    tables = experiment.tables(records)
    parts = [
        f"## Preset `{path.stem}`",
        *notes,
        tables,
        made_by(origin, sources(records, versions=True)),
        *shown,
    ]
    return "\n\n".join(parts), figures


def changed(settings: Any, origin: Mapping[str, Any]) -> str:
    """In what records were made otherwise than their preset says: fewer epochs, say.

    Args:
        settings: of the preset as it is now; None where it is no more.
        origin: of the records.
    """
    differing = {} if settings is None else registry.changed(settings, origin)
    return "; ".join(
        f"{name.replace('_', ' ')} {_short(then)} instead of {_short(today)}"
        for name, (then, today) in differing.items()
    )


def _short(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
