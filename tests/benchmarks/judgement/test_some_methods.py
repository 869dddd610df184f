"""Some methods of an experiment run by themselves, and kept beside what there is of the others."""

import dataclasses
import functools

import pytest

from benchmarks.cli import main
from benchmarks.harness import registry
from benchmarks.harness.halving import TUNING
from benchmarks.judgement import evidence
from benchmarks.judgement.page import BEGIN, END
from benchmarks.judgement.some_methods import origin_of, sources
from common.results.records import Record
from common.results.summaries import read_summary
from common.results.tables import markdown


@dataclasses.dataclass(frozen=True)
class Settings:
    methods: tuple[str, ...] = ("ERM", "V-REx", "LaCIM")
    steps: int = 2


@pytest.fixture
def scores(tmp_path, monkeypatch, line):
    """What the methods of a little experiment score, which a test may change between runs."""
    line()
    experiment, found = registry.load("line"), {"ERM": 1.0, "V-REx": 2.0, "LaCIM": 3.0}
    (tmp_path / "README.md").write_text(f"{BEGIN}\n{END}\n")
    for name in ("take", "keep", "render", "check"):
        count = len(getattr(evidence, name).__defaults__)
        places = (tmp_path / "evidence", tmp_path / "README.md")[:count]
        monkeypatch.setattr(getattr(evidence, name), "__defaults__", places)

    def one(method, seed):
        figures = {"score": found[method] + seed}
        yield Record(method=method, setting={}, seed=seed, metrics=figures, wall_time=0.0)

    def run(settings, context):
        for method in settings.methods:
            for seed in context.seeds:
                make = functools.partial(one, method, seed)
                yield from context.stages.of(f"{method}, seed {seed}", make)

    def tables(records):
        return markdown(["method", "score"], [[r.method, f"{r.metrics['score']}"] for r in records])

    monkeypatch.setattr(experiment, "PRESETS", {"smoke": Settings()})
    monkeypatch.setattr(experiment, "run", run)
    monkeypatch.setattr(experiment, "tables", tables)
    monkeypatch.setattr(experiment, "plots", lambda records, out: [])
    return found


def taken(tmp_path, *methods, seeds="2"):
    options = ["--seeds", seeds, *(("--methods", *methods) if methods else ())]
    assert main(["line", *options, "--out", str(tmp_path / "results")]) == 0
    return main(["report", "--take", str(tmp_path / "results")])


def kept(tmp_path):
    records = read_summary(tmp_path / "evidence" / "line" / "smoke.jsonl")
    return records, [(r.method, r.seed, r.metrics["score"]) for r in records]


def test_their_rows_replace_those_of_the_same_methods_alone(scores, tmp_path):
    assert taken(tmp_path) == 0
    scores.update({"ERM": 10.0, "V-REx": 20.0, "LaCIM": 30.0})
    assert taken(tmp_path, "V-REx") == 0
    records, rows = kept(tmp_path)
    assert rows == [
        ("ERM", 0, 1.0), ("ERM", 1, 2.0), ("V-REx", 0, 20.0), ("V-REx", 1, 21.0),
        ("LaCIM", 0, 3.0), ("LaCIM", 1, 4.0),
    ]  # fmt: skip
    # Each row goes on saying where it came from.
    runs = [r.origin["run"] for r in records]
    assert runs[0] == runs[1] == runs[4] == runs[5] != runs[2] == runs[3]
    commands = {r.method: r.origin["command"] for r in records}
    assert commands["ERM"] == "python -m benchmarks line --preset smoke --seeds 2"
    assert commands["V-REx"] == commands["ERM"] + " --methods V-REx"
    page = (tmp_path / "evidence" / "line.md").read_text()
    assert "V-REx: `python -m benchmarks line --preset smoke --seeds 2 --methods V-REx`" in page
    assert "; ERM, LaCIM: `python -m benchmarks line --preset smoke --seeds 2`" in page
    assert "Not the preset" not in page
    assert main(["report", "--check"]) == 0


def test_an_experiment_may_be_filled_method_by_method(scores, tmp_path):
    assert taken(tmp_path, "LaCIM") == 0
    page = (tmp_path / "evidence" / "line.md").read_text()
    assert "*Not the preset as it is now: methods LaCIM instead of ERM, V-REx, LaCIM.*" in page
    assert taken(tmp_path, "V-REx", "ERM") == 0
    _, rows = kept(tmp_path)
    assert [method for method, _, _ in rows] == ["ERM", "ERM", "V-REx", "V-REx", "LaCIM", "LaCIM"]
    assert "Not the preset" not in (tmp_path / "evidence" / "line.md").read_text()
    scores["LaCIM"] = 7.0
    assert taken(tmp_path, "LaCIM") == 0  # now into records of two runs
    records, rows = kept(tmp_path)
    assert [score for _, _, score in rows] == [1.0, 2.0, 2.0, 3.0, 7.0, 8.0]
    assert len({r.origin["run"] for r in records}) == 2


def test_a_method_that_the_preset_has_no_more_goes(scores, tmp_path, monkeypatch):
    assert taken(tmp_path) == 0
    fewer = Settings(methods=("ERM", "LaCIM"))
    monkeypatch.setattr(registry.load("line"), "PRESETS", {"smoke": fewer})
    for method in ("LaCIM", "ERM", "LaCIM"):
        assert taken(tmp_path, method) == 0
        _, rows = kept(tmp_path)
        assert [method for method, _, _ in rows] == ["ERM", "ERM", "LaCIM", "LaCIM"]
        assert "Not the preset" not in (tmp_path / "evidence" / "line.md").read_text()


def test_a_later_setting_counts_from_when_it_was_there(scores, tmp_path, monkeypatch, capsys):
    """Rows from before it are as its default makes them; those after it must agree."""
    experiment = registry.load("line")

    @dataclasses.dataclass(frozen=True)
    class Later(Settings):
        noise: float = 0.0

    assert taken(tmp_path) == 0
    monkeypatch.setattr(experiment, "PRESETS", {"smoke": Later(noise=1.0)})
    assert taken(tmp_path, "V-REx") == 0
    monkeypatch.setattr(experiment, "PRESETS", {"smoke": Later(noise=2.0)})
    capsys.readouterr()
    assert taken(tmp_path, "LaCIM") == 2
    assert "noise differ" in " ".join(capsys.readouterr().err.split())
    monkeypatch.setattr(experiment, "PRESETS", {"smoke": Settings()})  # it is gone
    assert taken(tmp_path, "LaCIM") == 2
    assert "noise differ" in " ".join(capsys.readouterr().err.split())


def test_a_preset_that_was_renamed_is_filled_under_its_name_of_today(scores, tmp_path, monkeypatch):
    assert taken(tmp_path) == 0
    folder = tmp_path / "evidence" / "line"
    (folder / "smoke.jsonl").rename(folder / "day.jsonl")
    presets = {"smoke": Settings(steps=1), "day": Settings()}
    monkeypatch.setattr(registry.load("line"), "PRESETS", presets)
    scores["LaCIM"] = 30.0
    options = ["--preset", "day", "--seeds", "2", "--methods", "LaCIM"]
    assert main(["line", *options, "--out", str(tmp_path / "results")]) == 0
    assert main(["report", "--take", str(tmp_path / "results")]) == 0
    records = read_summary(folder / "day.jsonl")
    assert [r.metrics["score"] for r in records] == [1.0, 2.0, 2.0, 3.0, 30.0, 31.0]
    assert {r.origin["preset"] for r in records} == {"smoke", "day"}


def test_a_part_of_one_preset_that_is_the_whole_of_another_is_kept_as_its_own(
    scores, tmp_path, monkeypatch
):
    presets = {"smoke": Settings(methods=("LaCIM",)), "cpu": Settings()}
    monkeypatch.setattr(registry.load("line"), "PRESETS", presets)
    options = ["--preset", "cpu", "--seeds", "2", "--methods", "LaCIM"]
    assert main(["line", *options, "--out", str(tmp_path / "results")]) == 0
    assert evidence.take(tmp_path / "results") == tmp_path / "evidence" / "line" / "cpu.jsonl"


def test_the_only_method_kept_may_be_taken_anew_at_other_settings(scores, tmp_path, monkeypatch):
    assert taken(tmp_path, "LaCIM") == 0
    monkeypatch.setattr(registry.load("line"), "PRESETS", {"smoke": Settings(steps=9)})
    assert taken(tmp_path, "LaCIM") == 0
    records, _ = kept(tmp_path)
    assert {r.origin["configuration"]["steps"] for r in records} == {9}


@pytest.mark.parametrize("stopped", ["a method", "a seed", "the search"])
def test_a_run_that_is_not_finished_replaces_nothing(
    stopped, scores, tmp_path, monkeypatch, capsys
):
    assert taken(tmp_path) == 0
    before = (tmp_path / "evidence" / "line" / "smoke.jsonl").read_bytes()
    whole = registry.load("line").run

    def cut(settings, context):
        for record in whole(settings, context):
            if stopped == "the search":
                yield dataclasses.replace(record, setting={TUNING: 1})
            elif record.method == "ERM" or (stopped == "a seed" and record.seed == 0):
                yield record

    monkeypatch.setattr(registry.load("line"), "run", cut)
    capsys.readouterr()
    assert taken(tmp_path, "ERM", "V-REx") == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "the run has no whole training of" in said
    assert said.endswith("let it finish, --resume goes on.")
    assert (tmp_path / "evidence" / "line" / "smoke.jsonl").read_bytes() == before


def test_a_row_of_either_run_can_be_computed_again(scores, tmp_path, capsys):
    assert taken(tmp_path, "ERM", "LaCIM") == 0
    assert taken(tmp_path, "V-REx") == 0
    file = str(tmp_path / "evidence" / "line" / "smoke.jsonl")
    for number, method in ((2, "ERM"), (3, "V-REx"), (6, "LaCIM")):
        capsys.readouterr()
        assert main(["again", file, "--row", str(number)]) == 0
        assert method in capsys.readouterr().out
    scores["V-REx"] = 9.0
    assert main(["again", file, "--row", "3"]) == 1


@pytest.mark.parametrize("differs", ["seeds", "steps", "names"])
def test_runs_that_differ_in_more_are_not_mixed(differs, scores, tmp_path, monkeypatch, capsys):
    assert taken(tmp_path) == 0
    before = (tmp_path / "evidence" / "line" / "smoke.jsonl").read_bytes()
    capsys.readouterr()
    if differs == "steps":
        longer = {"smoke": Settings(steps=9)}
        monkeypatch.setattr(registry.load("line"), "PRESETS", longer)
    if differs == "names":
        row = Record(method="s alone", setting={}, seed=0, metrics={"score": 1.0}, wall_time=0.0)
        monkeypatch.setattr(registry.load("line"), "run", lambda settings, context: [row])
    assert taken(tmp_path, "LaCIM", seeds="3" if differs == "seeds" else "2") == 2
    said = " ".join(capsys.readouterr().err.split())
    named = "records of 's alone' do not say which" if differs == "names" else f"{differs} differ"
    assert named in said
    assert said.endswith("run all methods.")
    assert (tmp_path / "evidence" / "line" / "smoke.jsonl").read_bytes() == before


def test_one_run_is_told_of_as_before():
    device = {"kind": "cpu", "count": 1, "cores": 2}
    made = {"git_commit": "0" * 40, "device": device, "versions": {"jax": "1"}, "dtype": "float32"}
    origin = {"run": "1", "command": "c", "provenance": made}
    record = Record(method="a", setting={}, seed=0, metrics={}, wall_time=0.0, origin=origin)
    assert origin_of([record, dataclasses.replace(record, method="b")]) is origin
    assert sources([record]) == "`c`, commit 000000000000, 2 CPU cores"
    assert sources([record], versions=True) == sources([record]) + ", jax 1, float32"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["line", "--methods", "LACIM"], "no method of this preset is called 'LACIM': did you mean "
         "'LaCIM'? Known: ERM, V-REx, LaCIM."),
        (["all", "--methods", "ERM"], "--methods are those of one experiment: name it."),
    ],
)  # fmt: skip
def test_a_wrong_name_is_refused_before_anything_runs(arguments, said, scores, tmp_path, capsys):
    assert main([*arguments, "--out", str(tmp_path / "results")]) == 2
    assert said in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "results").exists()


def test_an_experiment_without_a_choice_says_so(line, tmp_path, capsys):
    line()
    assert main(["line", "--methods", "fit", "--out", str(tmp_path / "results")]) == 2
    assert "has no choice of methods; leave --methods out." in capsys.readouterr().err
