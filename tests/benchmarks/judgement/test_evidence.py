"""Evidence: pages say what the kept records say, and a page that does not is found."""

import dataclasses
from pathlib import Path

import pytest
from matplotlib import figure

from benchmarks.cli import main
from benchmarks.harness import registry
from benchmarks.judgement import evidence
from benchmarks.judgement.page import BEGIN, END
from common.results.summaries import read_summary


@pytest.fixture
def folder(tmp_path, monkeypatch, line):
    """An empty place for evidence, and the little experiment to fill it."""
    line()
    (tmp_path / "README.md").write_text(f"Before.\n{BEGIN}\nold\n{END}\nAfter.\n")
    places = (tmp_path / "evidence", tmp_path / "README.md")
    monkeypatch.setattr(evidence.take, "__defaults__", places[:1])
    monkeypatch.setattr(evidence.render, "__defaults__", places)
    monkeypatch.setattr(evidence.check, "__defaults__", places)
    return tmp_path / "evidence"


def kept(tmp_path, *, seeds="2"):
    assert main(["line", "--seeds", seeds, "--out", str(tmp_path / "results")]) == 0
    assert main(["report", "--take", str(tmp_path / "results")]) == 0


def test_a_kept_run_gives_a_page_a_figure_and_a_place_in_the_index(folder, tmp_path, capsys):
    kept(tmp_path)
    page = (folder / "line.md").read_text()
    table = (tmp_path / "results" / "tables.md").read_text()
    assert page.startswith("# line\n\n**A claim.**\n\nIts cost.\n\n## Preset `smoke`\n")
    assert all(part in page for part in table.strip().split("\n\n"))  # tables and caption alike
    assert "(line/smoke_slope.png)\n\n*Slopes of lines; all are near 1.*\n" in page
    assert (folder / "line" / "smoke_slope.png").read_bytes().startswith(b"\x89PNG")
    assert "[line](line.md): A claim. Presets: smoke." in (folder / "README.md").read_text()
    assert str(folder / "line" / "smoke.jsonl") in capsys.readouterr().out.replace("\n", "")


def test_check_passes_on_what_report_wrote_and_is_silent(folder, tmp_path, capsys):
    kept(tmp_path)
    capsys.readouterr()
    assert main(["report", "--check"]) == 0
    assert capsys.readouterr() == ("", "")


def test_a_run_at_other_settings_than_the_preset_says_so(folder, tmp_path, monkeypatch):
    kept(tmp_path)
    assert "Not the preset" not in (folder / "line.md").read_text()
    experiment = registry.load("line")
    longer = dataclasses.replace(experiment.PRESETS["smoke"], steps=9)
    monkeypatch.setitem(experiment.PRESETS, "smoke", longer)
    assert main(["report"]) == 0
    page = (folder / "line.md").read_text()
    assert "*Not the preset as it is now: steps 2 instead of 9.*" in page


def test_a_preset_that_was_renamed_is_known_by_its_settings(folder, tmp_path, monkeypatch):
    experiment = registry.load("line")
    settings = experiment.PRESETS["smoke"]
    kept(tmp_path)
    # What was "smoke" is now called "day", and "smoke" is shorter.
    presets = {"smoke": dataclasses.replace(settings, steps=1), "day": settings}
    monkeypatch.setattr(experiment, "PRESETS", presets)
    (folder / "line" / "smoke.jsonl").rename(folder / "line" / "day.jsonl")
    (folder / "line" / "smoke_slope.png").unlink()
    assert main(["report"]) == 0
    page = (folder / "line.md").read_text()
    assert "## Preset `day`\n\n*Recorded when this preset was called `smoke`.*\n" in page
    assert "Not the preset" not in page
    # The run of then is kept under the name of today.
    assert evidence.take(tmp_path / "results") == folder / "line" / "day.jsonl"


def test_every_record_is_filed_under_the_name_that_its_preset_has_today():
    for path in evidence.FOLDER.glob("*/*.jsonl"):
        origin = read_summary(path)[0].origin
        assert registry.preset_of(path.parent.name, origin) == path.stem, path


@pytest.mark.parametrize("fault", ["typed", "deleted", "left over", "retaken", "readme"])
def test_check_names_what_differs(fault, folder, tmp_path, capsys):
    kept(tmp_path)
    if fault == "typed":
        page = folder / "line.md"
        page.write_text(page.read_text().replace("n = 2", "n = 200"))
        differs = "line.md"
    elif fault == "deleted":
        (folder / "line" / "smoke_slope.png").unlink()
        differs = "line/smoke_slope.png"
    elif fault == "readme":
        readme = tmp_path / "README.md"
        readme.write_text(readme.read_text().replace("not measured", "holds", 1))
        differs = "README.md"
    elif fault == "left over":
        (folder / "line" / "cpu_slope.png").write_bytes(b"")
        differs = "line/cpu_slope.png"
    else:
        assert main(["line", "--seeds", "3", "--out", str(tmp_path / "results")]) == 0
        evidence.take(tmp_path / "results")
        differs = "line.md"
    assert main(["report", "--check"]) == 2
    assert f"not what the records say: {differs}; run" in capsys.readouterr().err


def test_the_readme_gets_the_table_of_claims_and_keeps_the_rest(folder, tmp_path):
    kept(tmp_path)
    text = (tmp_path / "README.md").read_text()
    assert text.startswith(f"Before.\n{BEGIN}\n| claim")
    assert text.endswith(f"|\n{END}\nAfter.\n")
    assert "(evidence/README.md#2-invariance-not-measured)" in text
    assert "### 2. Invariance: not measured" in (folder / "README.md").read_text()


def test_a_readme_without_a_place_for_claims_is_refused(folder, tmp_path, capsys):
    kept(tmp_path)
    (tmp_path / "README.md").write_text("Nothing.")
    assert main(["report"]) == 2
    assert "needs the lines" in capsys.readouterr().err


def test_a_folder_without_records_is_refused(folder, tmp_path, capsys):
    assert main(["report", "--take", str(tmp_path)]) == 2
    assert "no records at" in capsys.readouterr().err
    (tmp_path / "records.jsonl").write_text("")
    assert main(["report", "--take", str(tmp_path)]) == 2
    assert "no finished record" in capsys.readouterr().err


def test_every_figure_that_is_kept_says_what_to_see():
    kept_figures = {path.parent.name: set() for path in evidence.FOLDER.glob("*/*.png")}
    for path in evidence.FOLDER.glob("*/*.png"):
        kept_figures[path.parent.name].add(path.name.partition("_")[2])
    for name, figures in kept_figures.items():
        captions = vars(registry.load(name))["CAPTIONS"]
        assert figures <= set(captions), name
        assert all(caption.endswith(".") for caption in captions.values())


def test_the_evidence_of_this_repository_is_what_its_records_say(monkeypatch):
    # Of figures their presence is compared alone: they are made, and not drawn.
    monkeypatch.setattr(figure.Figure, "savefig", lambda self, path: Path(path).touch())
    evidence.check()
