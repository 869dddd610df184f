"""The evidence that is kept in the repository, and the pages that are made from it.

`benchmarks/evidence/` holds a summary of one run for each experiment and preset that has been
measured: `NAME/PRESET.jsonl`, and, made from it alone, the figures beside it and the page
`NAME.md`; `README.md` is the index. No number on a page is typed.
"""

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks import registry
from benchmarks.runner import caption
from common.records import Record, last_run, read_records
from common.summaries import read_summary, write_summary

FOLDER = Path(__file__).with_name("evidence")


class StaleEvidenceError(RuntimeError):
    """Pages that differ from what their records say."""


def take(run: Path, folder: Path = FOLDER) -> Path:
    """Keeps the latest run of a results folder as the evidence of its experiment and preset.

    Args:
        run: the folder that a finished run left, with its records.jsonl.
        folder: where evidence is kept.

    Returns:
        The summary written.

    Raises:
        FileNotFoundError: if there are no records.
        ValueError: if they hold none, or one that is not known.
    """
    path = run / "records.jsonl"
    if not path.exists():
        raise FileNotFoundError(f"no records at {path}; name a folder that a run has filled.")
    records = last_run(read_records(path))
    if not records:
        raise ValueError(f"{path} holds no finished record; let the run finish one.")
    origin = records[0].origin
    registry.load(origin["benchmark"])  # an experiment of this name must be there to show it
    target = folder / origin["benchmark"] / f"{origin['preset']}.jsonl"
    write_summary(records, target)
    return target


def render(folder: Path = FOLDER) -> list[Path]:
    """Makes every page and figure anew from the summaries.

    Args:
        folder: where evidence is kept.

    Returns:
        The files written: pages, then figures.
    """
    pages, figures = {}, []
    for name, summaries in _measured(folder):
        sections = []
        for path in summaries:
            records = read_summary(path)
            section, drawn = _section(name, path, records)
            sections.append(section)
            figures += drawn
        pages[folder / f"{name}.md"] = _page(name, sections)
    pages[folder / "README.md"] = _index(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for path, text in pages.items():
        path.write_text(text, encoding="utf-8")
    return [*pages, *figures]


def check(folder: Path = FOLDER) -> None:
    """Refuses pages that differ from what `render` would write.

    Figures are drawn too, but only their presence is compared: their bytes depend on the version of
    the plotting library and the fonts at hand.

    Args:
        folder: where evidence is kept.

    Raises:
        StaleEvidenceError: naming the files that differ.
    """
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch) / "evidence"
        copy.mkdir()
        for _, summaries in _measured(folder):
            for path in summaries:
                target = copy / path.relative_to(folder)
                target.parent.mkdir(exist_ok=True)
                shutil.copyfile(path, target)
        due = {path.relative_to(copy): path for path in render(copy)}
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
    if stale:
        raise StaleEvidenceError(
            f"not what the records say: {', '.join(stale)}; run `python -m benchmarks report` and "
            "keep what it writes."
        )


def _measured(folder: Path) -> Iterator[tuple[str, list[Path]]]:
    """Each experiment that has evidence, with its summaries, in the order of the registry."""
    for name in registry.NAMES:
        paths = [folder / name / f"{preset}.jsonl" for preset in reversed(registry.PRESET_NAMES)]
        if summaries := [path for path in paths if path.exists()]:
            yield name, summaries


def _section(name: str, path: Path, records: Sequence[Record]) -> tuple[str, list[Path]]:
    """One preset's tables and figures; each figure is named for the preset, too."""
    experiment = registry.load(name)
    figures = []
    with tempfile.TemporaryDirectory() as scratch:
        for drawn in experiment.plots(records, Path(scratch)):
            target = path.with_name(f"{path.stem}_{drawn.name}")
            shutil.copyfile(drawn, target)
            figures.append(target)
    shown = [
        f"![{figure.stem.replace('_', ' ')}]({figure.parent.name}/{figure.name})"
        for figure in figures
    ]
    parts = [f"## Preset `{path.stem}`", experiment.tables(records), caption(records[0].origin)]
    return "\n\n".join([*parts, *shown]), figures


def _page(name: str, sections: Sequence[str]) -> str:
    claim, _, rest = registry.describe(name).partition("\n")
    return "\n\n".join([f"# {name}", f"**{claim}**", rest.strip(), *sections]) + "\n"


def _index(folder: Path) -> str:
    rows = [
        f"- [{name}]({name}.md): {registry.claim(name)} "
        f"Presets: {', '.join(path.stem for path in summaries)}."
        for name, summaries in _measured(folder)
    ]
    head = (
        "# Evidence\n\nOne page for each experiment that has been measured. Tables and figures are "
        "made from the summaries\nof records beside them by `python -m benchmarks report`; no "
        "number is typed."
    )
    return "\n\n".join([head, "\n".join(rows)]) + "\n"
