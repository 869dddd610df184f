"""The evidence that is kept in the repository, and the pages that are made from it.

`benchmarks/evidence/` holds a summary of one run for each experiment and preset that has been
measured: `NAME/PRESET.jsonl`, and, made from it alone, the figures beside it and the page
`NAME.md`; `README.md` is the index, with the verdict on each claim, which stands in the project's
own README too. No figure in its tables and verdicts is typed.
"""

import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.harness import registry
from benchmarks.judgement import published, some_methods
from benchmarks.judgement.claims import CLAIMS
from benchmarks.judgement.experiment_page import changed, page, section
from benchmarks.judgement.finding import Measured
from benchmarks.judgement.page import (
    HEAD,
    claim_sections,
    claim_table,
    verdicts_on,
    with_claims,
)
from benchmarks.judgement.some_methods import origin_of
from common.files import inside, write_whole
from common.results.records import Record, last_run, read_records
from common.results.summaries import read_summary, write_summary

_ROOT = Path(__file__).resolve().parents[2]
FOLDER = _ROOT / "benchmarks" / "evidence"
README = _ROOT / "README.md"
PUBLISHED = "published"
"""The page of published figures beside ours."""

_LINK = f"[Published figures: theirs, ours, why they differ]({PUBLISHED}.md), with their protocols."


class StaleEvidenceError(RuntimeError):
    """Pages that differ from what their records say."""


class UnusableRunError(ValueError):
    """A run whose records no page can be made of."""


class NothingFinishedError(ValueError):
    """A folder of a run that has finished no record yet."""


class Kept(NamedTuple):
    """What came of keeping runs as evidence."""

    taken: list[tuple[Path, Path]]
    """Each run with its summary."""
    left_out: list[Path]
    """Runs that have finished no record yet."""
    written: list[Path]
    """What `render` wrote."""


def keep(runs: Iterable[Path], folder: Path = FOLDER, readme: Path = README) -> Kept:
    """Takes runs as evidence and makes every page anew; where that fails, all is as it was.

    A run that was stopped before it had finished a record is left out.

    Raises:
        FileNotFoundError: as of `take`.
        NothingFinishedError: if all runs are left out.
        ValueError: as of `take`.
        UnusableRunError: if the pages cannot be made with these runs.
    """
    before: dict[Path, bytes | None] = {}
    taken: list[tuple[Path, Path]] = []
    left_out: dict[Path, NothingFinishedError] = {}
    try:
        for run in runs:
            try:
                target, records = _latest(run, folder)
            except NothingFinishedError as error:
                left_out[run] = error
                continue
            before.setdefault(target, target.read_bytes() if target.exists() else None)
            write_summary(records, target)
            taken.append((run, target))
        if left_out and not taken:
            raise NothingFinishedError(" ".join(map(str, left_out.values())))
        return Kept(taken, list(left_out), _rendered(taken, folder, readme))
    except BaseException:
        for target, content in before.items():
            _put_back(target, content)
        raise


def _rendered(taken: Sequence[tuple[Path, Path]], folder: Path, readme: Path) -> list[Path]:
    """What `render` wrote; any error of records that nobody foresaw is one of the runs'."""
    try:
        return render(folder, readme)
    except OSError:
        raise  # of the disk, maybe while pages are written: not the records' fault
    except Exception as error:
        # Raised before anything is written.
        raise UnusableRunError(
            f"no pages can be made with {', '.join(str(run) for run, _ in taken)} "
            f"({_described(error)}); all is as it was. A run that was stopped can be resumed, then "
            "taken."
        ) from error


def _put_back(path: Path, content: bytes | None) -> None:
    """Makes a file what it was, None for none."""
    if content is not None:
        write_whole(path, content.decode())
        return
    path.unlink(missing_ok=True)
    if path.parent.exists() and not any(path.parent.iterdir()):
        path.parent.rmdir()


def _described(error: Exception) -> str:
    """An error in one line."""
    said = " ".join(str(error).split())
    return said if isinstance(error, _UnshownError) else f"{type(error).__name__}: {said}"


class _UnshownError(ValueError):
    """A summary that its experiment makes no section of."""


def take(run: Path, folder: Path = FOLDER) -> Path:
    """Keeps the latest run of a results folder as the evidence of its experiment and preset.

    The preset is the one that has the settings of the run, whatever it was called then. A run of
    some of its methods takes the place of what is kept of these.

    Raises:
        FileNotFoundError: if no run was begun there.
        NothingFinishedError: if it has finished no record.
        ValueError: if its records are of an experiment or preset that is not known, or are of
            other settings than the preset has, where a run with these is kept; or of some methods,
            where what is kept of the others differs in more.
    """
    target, records = _latest(run, folder)
    write_summary(records, target)
    return target


def _latest(run: Path, folder: Path) -> tuple[Path, list[Record]]:
    """Where the latest run of a results folder is kept, and its records."""
    path = run / "records.jsonl"
    begun = path.exists() or (run / "log.txt").exists()  # which is there before any record
    if not begun:
        raise FileNotFoundError(f"no records at {path}; name a folder that a run has filled.")
    records = last_run(read_records(path)) if path.exists() else []
    if not records:
        raise NothingFinishedError(f"{path} holds no finished record; let the run finish one.")
    origin = records[0].origin
    name = str(origin.get("benchmark"))
    # Records may come from anywhere: only names that are known become names of files.
    target = inside(folder, f"{name}/{registry.preset_of(name, origin)}.jsonl")
    settings = registry.preset(registry.load(name), target.stem)
    kept = read_summary(target) if target.exists() else []
    if some_methods.has_place(records, kept, settings):
        return target, some_methods.put_into(kept, records, settings.methods)
    whole = kept and not changed(settings, origin_of(kept))
    if whole and (cut := changed(settings, origin)):
        raise ValueError(
            f"{path} is not the preset {target.stem} as it is now: {cut}. {target} is, and would "
            "be replaced; move it away first, if that is meant."
        )
    return target, records


def render(folder: Path = FOLDER, readme: Path = README) -> list[Path]:
    """Makes every page and figure anew, and the readme's table of claims; the files written.

    Nothing is written before everything is made.

    Raises:
        ValueError: if the readme has no place for the table, or an experiment makes no section of
            a summary: the message names the file.
    """
    with tempfile.TemporaryDirectory() as scratch:
        pages, figures = _made(folder, readme, Path(scratch))
        folder.mkdir(parents=True, exist_ok=True)
        for target, drawn in figures.items():
            shutil.copyfile(drawn, target)
        for path, text in pages.items():
            write_whole(path, text)
    return [*pages, *figures]


def _made(folder: Path, readme: Path, scratch: Path) -> tuple[dict[Path, str], dict[Path, Path]]:
    """The text of every page, and of every figure the file in `scratch` that it is drawn in."""
    pages: dict[Path, str] = {}
    figures: dict[Path, Path] = {}
    measured, basis, parts = {}, {}, {}
    for name, summaries in _measured(folder):
        read = {path: read_summary(path) for path in summaries}
        shared = {path: of for path, of in read.items() if path.stem in registry.PRESET_NAMES}
        if shared:
            basis[name] = _basis(name, shared)
            measured[name] = shared[basis[name]]
        parts[name] = []
        for path, records in read.items():
            place = scratch / name / path.stem
            place.mkdir(parents=True)
            try:
                text, drawn = section(name, path, records, place)
            except Exception as error:  # of a record that its report did not foresee
                raise _UnshownError(f"{path} cannot be shown ({_described(error)})") from error
            parts[name].append(text)
            figures |= drawn
        if shared and basis[name] != summaries[0]:
            said = f"Claims are judged on preset `{basis[name].stem}`"
            parts[name].insert(0, f"*{said}: what is larger was not recorded as it is now.*")
    for name, sections in parts.items():
        judged = verdicts_on(name, measured, "README.md")
        pages[folder / f"{name}.md"] = page(name, judged, sections)
    pages[folder / f"{PUBLISHED}.md"] = published.page(measured)
    pages[folder / "README.md"] = _index(folder, measured, basis, figures)
    link = Path(os.path.relpath(folder / "README.md", readme.parent)).as_posix()
    text = readme.read_text(encoding="utf-8")
    pages[readme] = with_claims(text, claim_table(measured, link))
    return pages, figures


def _basis(name: str, read: Mapping[Path, Sequence[Record]]) -> Path:
    """The summary that claims are judged on, of those at presets that all experiments share.

    They come largest first. It is that of the largest preset recorded with the settings it has
    today: a run cut short by its settings does not stand before a whole one. Where there is none,
    it is the largest.
    """
    presets = registry.load(name).PRESETS
    whole = (
        path
        for path, records in read.items()
        if path.stem in presets
        and records
        and "configuration" in records[0].origin
        and not registry.changed(presets[path.stem], origin_of(records))
    )
    return next(whole, next(iter(read)))


def check(folder: Path = FOLDER, readme: Path = README) -> None:
    """Refuses pages that differ from what `render` would write.

    Figures are drawn too, but only their presence is compared: their bytes depend on the version of
    the plotting library and the fonts at hand.

    Raises:
        StaleEvidenceError: naming the files that differ.
    """
    with tempfile.TemporaryDirectory() as scratch:
        # As far from its README as the folder is, since the table links to the index.
        apart = Path(os.path.relpath(folder, readme.parent))
        copied = Path(scratch) / readme.name
        shutil.copyfile(readme, copied)
        copy = Path(scratch) / apart
        copy.mkdir(parents=True)
        for _, summaries in _measured(folder):
            for path in summaries:
                target = copy / path.relative_to(folder)
                target.parent.mkdir(exist_ok=True)
                shutil.copyfile(path, target)
        written = render(copy, copied)
        due = {path.relative_to(copy): path for path in written if path != copied}
        shown = {
            path.relative_to(folder)
            for pattern in ("*.md", "*/*.png")
            for path in folder.glob(pattern)
        }
        stale = sorted(str(name) for name in shown ^ due.keys())
        stale += sorted(
            str(name)
            for name in shown & due.keys()
            if name.suffix == ".md" and (folder / name).read_bytes() != due[name].read_bytes()
        )
        if readme.read_bytes() != copied.read_bytes():
            stale.append(readme.name)
    if stale:
        raise StaleEvidenceError(
            f"not what the records say: {', '.join(stale)}; run `python -m benchmarks report` and "
            "keep what it writes."
        )


def _measured(folder: Path) -> Iterator[tuple[str, list[Path]]]:
    """Each experiment that has evidence, with its summaries, in the order of the registry."""
    for name in registry.NAMES:
        if not (folder / name).is_dir():
            continue
        paths = [folder / name / f"{preset}.jsonl" for preset in registry.presets_of(name)]
        if summaries := [path for path in paths if path.exists()]:
            yield name, summaries


def _index(
    folder: Path, measured: Measured, basis: Mapping[str, Path], figures: Iterable[Path]
) -> str:
    rows = [
        f"- [{name}]({name}.md): {registry.claim(name)} "
        f"Recorded: {', '.join(path.stem for path in summaries)}."
        for name, summaries in _measured(folder)
    ]
    drawn, shown = set(figures), {}
    for claim in CLAIMS:
        judged_on = basis.get(claim.needed)
        figure = judged_on and judged_on.with_name(f"{judged_on.stem}_{claim.figure}")
        shown[claim.name] = figure.relative_to(folder) if figure in drawn and figure else None
    sections = claim_sections(measured, shown)
    return (
        "\n\n".join([HEAD, _LINK, "## Claims", sections, "## Experiments", "\n".join(rows)]) + "\n"
    )
