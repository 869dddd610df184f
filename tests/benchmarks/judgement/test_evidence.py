"""Evidence: pages say what the kept records say, and a page that does not is found."""

import dataclasses
from pathlib import Path

import pytest
from matplotlib import figure

from benchmarks.cli import main
from benchmarks.harness import registry
from benchmarks.judgement import evidence, page, published
from benchmarks.judgement.claims import NOT_MEASURED, Claim
from benchmarks.judgement.finding import HOLDS, Finding
from benchmarks.judgement.page import BEGIN, END
from benchmarks.judgement.some_methods import origin_of
from common.results.summaries import read_summary


@pytest.fixture
def folder(tmp_path, monkeypatch, line):
    """An empty place for evidence, and the little experiment to fill it."""
    line()
    (tmp_path / "README.md").write_text(f"Before.\n{BEGIN}\nold\n{END}\nAfter.\n")
    places = (tmp_path / "evidence", tmp_path / "README.md")
    monkeypatch.setattr(evidence.take, "__defaults__", places[:1])
    monkeypatch.setattr(evidence.keep, "__defaults__", places)
    monkeypatch.setattr(evidence.render, "__defaults__", places)
    monkeypatch.setattr(evidence.check, "__defaults__", places)
    return tmp_path / "evidence"


def kept(tmp_path, *, seeds="2", preset="smoke"):
    options = ["--preset", preset, "--seeds", seeds]
    assert main(["line", *options, "--out", str(tmp_path / "results")]) == 0
    assert main(["report", "--take", str(tmp_path / "results")]) == 0


def test_a_kept_run_gives_a_page_a_figure_and_a_place_in_the_index(folder, tmp_path, capsys):
    kept(tmp_path)
    page = (folder / "line.md").read_text()
    table = (tmp_path / "results" / "tables.md").read_text()
    assert page.startswith("# line\n\n**A claim.**\n\nIts cost.\n\n## Preset `smoke`\n")
    assert all(part in page for part in table.strip().split("\n\n"))  # tables and caption alike
    assert "(line/smoke_slope.png)\n\n*Slopes of lines; all are near 1.*\n" in page
    assert (folder / "line" / "smoke_slope.png").read_bytes().startswith(b"\x89PNG")
    assert "[line](line.md): A claim. Recorded: smoke." in (folder / "README.md").read_text()
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


def test_a_run_at_other_settings_does_not_replace_one_at_those_of_its_preset(
    folder, tmp_path, monkeypatch, capsys
):
    experiment = registry.load("line")
    whole = experiment.PRESETS["smoke"]
    kept(tmp_path)
    before = (folder / "line" / "smoke.jsonl").read_bytes()
    # As the command for accelerators does where not all of a preset fits into its time.
    monkeypatch.setitem(experiment.PRESETS, "smoke", dataclasses.replace(whole, steps=1))
    assert main(["line", "--preset", "smoke", "--seeds", "2", "--out", str(tmp_path / "cut")]) == 0
    monkeypatch.setitem(experiment.PRESETS, "smoke", whole)
    capsys.readouterr()
    assert main(["report", "--take", str(tmp_path / "cut")]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "is not the preset smoke as it is now: steps 1 instead of 2." in said
    assert (folder / "line" / "smoke.jsonl").read_bytes() == before
    kept(tmp_path, seeds="3")  # one that has them does
    assert (folder / "line" / "smoke.jsonl").read_bytes() != before


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


def one_claim(monkeypatch):
    """Leaves one claim, on the little experiment; its headline says how many lines there are."""
    claim = Claim(
        "straight lines", "Lines are straight.", ("line",), "line",
        lambda measured: Finding(HOLDS, f"{len(measured['line'])} lines", "All."),
        "slope.png", "", "",
    )  # fmt: skip
    for module in (evidence, page, published):
        monkeypatch.setattr(module, "CLAIMS", (claim,))


@pytest.mark.parametrize(
    ("full", "day", "basis"),
    [(9, 2, "day"), (5, 2, "full"), (5, 3, "full"), (9, 3, "full")],
)
def test_a_claim_is_judged_on_the_largest_preset_recorded_as_it_is_today(
    full, day, basis, folder, tmp_path, monkeypatch
):
    """`full` was recorded with 5 steps, from 3 seeds, and `day` with 2, from 2."""
    one_claim(monkeypatch)
    experiment = registry.load("line")
    settings = experiment.PRESETS["smoke"]

    def presets(day, full):
        return {
            "day": dataclasses.replace(settings, steps=day),
            "full": dataclasses.replace(settings, steps=full),
        }

    monkeypatch.setattr(experiment, "PRESETS", presets(2, 5))
    kept(tmp_path, preset="day")
    kept(tmp_path, preset="full", seeds="3")
    monkeypatch.setattr(experiment, "PRESETS", presets(day, full))
    assert main(["report"]) == 0
    lines = {"day": "2 lines", "full": "3 lines"}[basis]
    assert f"**{HOLDS}** | {lines} |" in (tmp_path / "README.md").read_text()
    assert f"(line/{basis}_slope.png)" in (folder / "README.md").read_text()
    said = "*Claims are judged on preset `day`: what is larger was not recorded as it is now.*"
    assert (said in (folder / "line.md").read_text()) == (basis == "day")


def test_a_result_at_a_preset_of_ones_own_is_handed_in_as_the_page_says(
    folder, tmp_path, monkeypatch, capsys
):
    experiment = registry.load("line")
    mine = dataclasses.replace(experiment.PRESETS["smoke"], steps=1)
    monkeypatch.setitem(experiment.PRESETS, "mine", mine)
    monkeypatch.setattr(evidence, "FOLDER", folder)
    kept(tmp_path, preset="mine")
    text = (folder / "line.md").read_text()
    own = "*A preset of its own: claims are judged on smoke, cpu, day and full alone.*"
    assert f"## Preset `mine`\n\n{own}\n\n| method" in text
    assert "(line/mine_slope.png)" in text
    assert (folder / "line" / "mine_slope.png").is_file()
    assert "[line](line.md): A claim. Recorded: mine." in (folder / "README.md").read_text()
    assert main(["report", "--check"]) == 0
    assert main(["again", "line", "--row", "2"]) == 0
    assert main(["again", str(folder / "line"), "--preset", "mine", "--row", "1"]) == 0
    capsys.readouterr()
    (folder / "line.md").write_text(text.replace("n = 2", "n = 200"))
    assert main(["report", "--check"]) == 2
    assert "not what the records say: line.md; run" in capsys.readouterr().err
    (folder / "line.md").write_text(text)
    (folder / "line" / "mine.jsonl").unlink()
    assert main(["report", "--check"]) == 2


def test_no_claim_is_judged_on_a_preset_of_ones_own(folder, tmp_path, monkeypatch):
    one_claim(monkeypatch)
    experiment = registry.load("line")
    mine = dataclasses.replace(experiment.PRESETS["smoke"], steps=9)
    monkeypatch.setitem(experiment.PRESETS, "mine", mine)
    kept(tmp_path, preset="mine", seeds="3")
    assert f"**{NOT_MEASURED}**" in (tmp_path / "README.md").read_text()
    kept(tmp_path)
    assert f"**{HOLDS}** | 2 lines |" in (tmp_path / "README.md").read_text()
    text = (folder / "line.md").read_text()
    assert text.index("## Preset `smoke`") < text.index("## Preset `mine`")
    assert text.count("*A preset of its own:") == 1
    assert "Claims are judged on preset" not in text


def test_every_record_is_filed_under_the_name_that_its_preset_has_today():
    for path in evidence.FOLDER.glob("*/*.jsonl"):
        origin = origin_of(read_summary(path))
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


def test_a_run_that_has_finished_nothing_is_left_out_and_the_others_are_kept(
    folder, tmp_path, capsys
):
    """As `all` leaves them when it is stopped: in the first stage, or before any."""
    assert main(["line", "--seeds", "2", "--out", str(tmp_path / "results")]) == 0
    for name, file in (("first", "records.jsonl"), ("begun", "log.txt")):
        (tmp_path / name).mkdir()
        (tmp_path / name / file).write_text("")
    first, results, begun = (str(tmp_path / name) for name in ("first", "results", "begun"))
    capsys.readouterr()
    assert main(["report", "--take", first, results, begun]) == 0
    said = capsys.readouterr()
    assert said.err.splitlines() == [
        f"python -m benchmarks: {run} holds no finished record yet, and is left out."
        for run in (first, begun)
    ]
    assert f"{results} -> {folder / 'line' / 'smoke.jsonl'}" in said.out
    assert main(["report", "--check"]) == 0
    was = contents(tmp_path)
    assert main(["report", "--take", first, begun]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert first in line
    assert begun in line
    assert contents(tmp_path) == was


def contents(tmp_path):
    found = [*(tmp_path / "evidence").rglob("*"), tmp_path / "README.md"]
    return {path: path.read_bytes() for path in found if path.is_file()}


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("fails", ["tables", "plots", "claims"])
def test_a_run_that_no_page_can_be_made_of_leaves_all_as_it_was(
    fails, before, folder, tmp_path, monkeypatch, capsys
):
    if before:
        kept(tmp_path)
    assert main(["line", "--seeds", "3", "--out", str(tmp_path / "results")]) == 0
    was = contents(tmp_path)
    capsys.readouterr()

    def odd(*args):
        raise KeyError("slope\nof 3")

    where = (evidence, "claim_table") if fails == "claims" else (registry.load("line"), fails)
    with monkeypatch.context() as patch:
        patch.setattr(*where, odd)
        assert main(["report", "--take", str(tmp_path / "results")]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    (line,) = said.err.splitlines()
    assert f"no pages can be made with {tmp_path / 'results'} (" in line
    assert "KeyError: 'slope" in line
    assert line.endswith("all is as it was. A run that was stopped can be resumed, then taken.")
    assert ("smoke.jsonl cannot be shown" in line) == (fails != "claims")
    assert contents(tmp_path) == was
    assert (folder / "line").exists() == before
    if before:
        assert main(["report", "--check"]) == 0


def test_one_bad_folder_of_several_leaves_all_as_it_was(folder, tmp_path, capsys):
    kept(tmp_path)
    assert main(["line", "--seeds", "3", "--out", str(tmp_path / "results")]) == 0
    was = contents(tmp_path)
    runs = [str(tmp_path / name) for name in ("results", "results", "none")]
    assert main(["report", "--take", *runs]) == 2
    assert "no records at" in capsys.readouterr().err
    assert contents(tmp_path) == was


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
