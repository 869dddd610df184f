"""One row anew: its stage alone is run; figures agree within the spread of seeds, or not."""

import dataclasses
import functools
import json
import math

import pytest

from benchmarks.cli import main
from benchmarks.harness import again, registry
from benchmarks.harness.halving import Halving, halved
from benchmarks.judgement import evidence
from common.results import summaries
from common.results.records import Record, last_run, read_records
from common.results.summaries import write_summary


@pytest.fixture
def run(line, tmp_path):
    """A finished run of three seeds; gives its folder, and the list of seeds computed since."""
    made = line()
    out = tmp_path / "out"
    assert main(["line", "--seeds", "3", "--out", str(out)]) == 0
    made.clear()
    return out, made


def altered(out, number, **changes):
    """Writes one record anew with changes to its fields."""
    lines = (out / "records.jsonl").read_text().splitlines()
    lines[number - 1] = json.dumps({**json.loads(lines[number - 1]), **changes})
    (out / "records.jsonl").write_text("\n".join(lines) + "\n")


def test_a_row_alone_is_computed_and_agrees(run, capsys):
    out, made = run
    assert main(["again", str(out), "--row", "2"]) == 0
    assert made == [1]
    said = capsys.readouterr().out
    assert "stage 'seed 1'" in said
    assert "agrees" in said
    assert "All figures agree." in said


def test_a_summary_will_do_and_so_will_the_name_of_an_experiment(run, tmp_path, monkeypatch):
    out, made = run
    monkeypatch.setattr(evidence, "FOLDER", tmp_path / "evidence")
    write_summary(read_records(out / "records.jsonl"), tmp_path / "evidence/line/smoke.jsonl")
    assert main(["again", "line", "--row", "3"]) == 0
    assert main(["again", str(tmp_path / "evidence/line/smoke.jsonl"), "--row", "1"]) == 0
    assert made == [2, 0]


def test_a_figure_beyond_the_spread_makes_the_status_1(run, capsys):
    out, _ = run
    altered(out, 2, metrics={"slope": 2.0})
    altered(out, 1, metrics={"slope": 2.001})
    altered(out, 3, metrics={"slope": 1.999})
    assert main(["again", str(out), "--row", "2"]) == 1
    said = capsys.readouterr().out
    assert "DIFFERS" in said
    assert "They differ." in said


def test_without_a_row_all_are_listed_and_none_is_run(run, capsys):
    out, made = run
    assert main(["again", str(out)]) == 0
    assert made == []
    assert "2  fit, seed 1" in capsys.readouterr().out


def test_another_commit_is_warned_about(run, capsys):
    out, _ = run
    altered(out, 1, provenance={"git_commit": "0" * 40, "versions": {}, "device": {}})
    assert main(["again", str(out), "--row", "1"]) == 0
    assert f"not as recorded. commit: recorded {'0' * 40}, here " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"seeds": None}, "needs to say its experiment, preset, settings and seeds"),
        ({"benchmark": "lime"}, "no experiment is called 'lime'"),
        ({"preset": "huge"}, "no preset is called 'huge'"),
        ({"configuration": {"steps": 2, "speed": 1}}, "settings of this row (speed) are not ones"),
        ({"configuration": {"steps": {"a": 1}}}, "settings of this row (steps) are not ones"),
        ({"method": "other"}, "no stage of line yields other, seed 0 any more"),
    ],
)
def test_a_row_that_cannot_be_computed_is_one_line(run, changes, rule, capsys):
    out, _ = run
    altered(out, 1, **changes)
    assert main(["again", str(out), "--row", "1"]) == 2
    (said,) = capsys.readouterr().err.splitlines()[-1:]
    assert rule in said


def test_a_preset_is_refused_where_there_is_no_choice_of_them(run, tmp_path, monkeypatch, capsys):
    out, made = run
    monkeypatch.setattr(evidence, "FOLDER", tmp_path / "evidence")
    summary = tmp_path / "evidence/line/smoke.jsonl"
    write_summary(read_records(out / "records.jsonl"), summary)
    for source in (out, out / "records.jsonl", summary):
        assert main(["again", str(source), "--preset", "smoke"]) == 2
        assert f"and {source} holds one run; leave it out." in capsys.readouterr().err
    assert main(["again", "line", "--preset", "smoke"]) == 0
    assert main(["again", str(summary.parent), "--preset", "smoke"]) == 0
    assert main(["again", "line", "--preset", "cpu"]) == 2
    assert "there is none at" in capsys.readouterr().err
    assert made == []


@pytest.mark.parametrize("number", ["0", "4"])
def test_a_row_that_is_not_there_is_refused(run, number, capsys):
    out, _ = run
    assert main(["again", str(out), "--row", number]) == 2
    assert f"--row must be between 1 and 3, got {number}." in capsys.readouterr().err


def test_a_file_that_is_not_there_or_holds_nothing_is_refused(run, tmp_path, capsys):
    assert main(["again", str(tmp_path / "nowhere"), "--row", "1"]) == 2
    assert "there is none at" in capsys.readouterr().err
    (tmp_path / "records.jsonl").write_text("")
    assert main(["again", str(tmp_path), "--row", "1"]) == 2
    assert "holds no finished record" in capsys.readouterr().err


def test_settings_that_were_varied_are_those_of_the_row(run, monkeypatch):
    out, _ = run
    altered(out, 1, configuration={"steps": 5})
    seen = []
    experiment = again.registry.load("line")
    monkeypatch.setattr(
        experiment, "run", lambda settings, context: seen.append(settings) or iter(())
    )
    assert main(["again", str(out), "--row", "1"]) == 2  # it yields nothing now
    assert [settings.steps for settings in seen] == [5]


def row(method="a", seed=0, setting=None, **metrics):
    return Record(method=method, setting=setting or {}, seed=seed, metrics=metrics, wall_time=0.0)


@pytest.mark.parametrize(("new", "agrees"), [(1.15, True), (1.25, False), (math.nan, False)])
def test_two_standard_deviations_over_seeds_are_allowed(new, agrees):
    old = [row(seed=seed, x=1.0 + 0.1 * (seed - 1)) for seed in range(3)]
    (figure,) = again.compared(old[1], row(x=new), [*old, row("b", x=9.0)])
    assert figure.allowed == pytest.approx(0.2)
    assert figure.agrees == agrees


def test_one_seed_allows_a_tenth_times_are_not_compared_and_diverged_runs_agree():
    old = row(x=10.0, seconds=1.0, lost=math.nan, simulated_seconds=5.0)
    new = dataclasses.replace(
        old, metrics={"x": 10.9, "seconds": 7.0, "lost": math.nan, "simulated_seconds": 7.0}
    )
    found = {f.name: f.agrees for f in again.compared(old, new, [old])}
    assert found == {"x": True, "seconds": True, "lost": True, "simulated_seconds": False}
    assert not again.compared(old, dataclasses.replace(new, metrics={}), [old])[0].agrees


OF_THE_MACHINE = {
    "XLA_seconds", "compile_ratio", "compile_seconds", "driver_seconds", "first_call_seconds",
    "first_cpu_seconds", "first_quartile", "gflops", "gflops_per_cpu_second",
    "gradients_per_second", "images_per_cpu_second", "images_per_second", "lower_seconds", "ratio",
    "second_cpu_seconds", "seconds", "seconds_to_rescale", "simulator_ratio", "step_seconds",
    "time", "trace_seconds",
}  # fmt: skip
"""Of all figures in the evidence, those that another machine gives otherwise."""


def test_what_belongs_to_the_machine_is_not_compared_and_all_else_is():
    names = set()
    for path in evidence.FOLDER.glob("*/*.jsonl"):
        # To make records of them, curves and pictures included, takes several times as long.
        lines = summaries._unpacked_lines(path.read_bytes().splitlines()[1:], path)
        # A line may say where the records after it come from, and have no figures.
        names = names.union(*(json.loads(line).get("metrics", ()) for line in lines))
    assert {"simulated_seconds", "seconds_to_target", "tokens_to_target", "test_accuracy"} <= names
    old = row(**dict.fromkeys(names, 1.0))
    figures = again.compared(old, row(**dict.fromkeys(names, 9.0)), [old])
    assert {figure.name for figure in figures if figure.agrees} == OF_THE_MACHINE


@pytest.mark.parametrize("recorded", [math.nan, math.inf])
@pytest.mark.parametrize("new", [math.nan, math.inf, -math.inf])
def test_figures_that_are_not_finite_agree_whichever_they_are(recorded, new):
    """A target that is never reached is infinitely far, and null in the record."""
    others = [row(seed=seed, x=2.0 + seed) for seed in (1, 2)]
    (figure,) = again.compared(row(x=recorded), row(x=new), [row(x=recorded), *others])
    assert figure.agrees
    assert not again.compared(row(x=recorded), row(x=2.0), others)[0].agrees
    assert not again.compared(others[0], row(x=new), others)[0].agrees


def test_a_target_that_was_not_reached_is_not_reached_again(line, monkeypatch, tmp_path):
    line()

    def run(settings, context):
        yield from context.stages.of("fit", lambda: [row("fit", slope=1.0, steps=math.inf)])

    monkeypatch.setattr(registry.load("line"), "run", run)
    assert main(["line", "--seeds", "1", "--out", str(tmp_path)]) == 0
    assert main(["again", str(tmp_path), "--row", "1"]) == 0


def test_the_stage_that_says_what_the_record_is_comes_first():
    names = ["SGD, M = 4, seed 0", "DC-ASGD-a, M = 4, seed 0", "DC-ASGD-a, M = 8, seed 1"]
    wanted = row("DC-ASGD-a", 1, {"workers": 8})
    assert again.ranked(names, wanted, 0.0)[0] == names[2]
    assert again.ranked(["x", "y", "z"], wanted, 0.5)[0] == "y"  # by place, if by nothing else


def searching(made, *methods):
    """An experiment that tunes methods by halving, from two seeds; a stage is a seed of a rung."""

    def stage(method, rung, seed):
        made.append((method, rung.epochs, rung.values, seed))
        for rate in rung.values:
            metrics = {"slope": rate + seed / 10, "validation_accuracy": -abs(rate - 2)}
            setting = {"learning_rate": rate, **rung.setting}
            yield Record(method=method, setting=setting, seed=seed, metrics=metrics, wall_time=0.0)

    def work(method, rung):
        for seed in rung.seeds:
            name = f"{method}, seed {seed}{rung.label}"
            yield name, functools.partial(stage, method, rung, seed)

    def run(settings, context):
        for method in methods:
            yield from halved(
                (1.0, 2.0, 3.0), context.seeds, 3, Halving(seeds=2), context.stages,
                functools.partial(work, method), method=method, setting={},
            )  # fmt: skip

    return run


def test_a_row_of_a_search_by_halving_is_computed_without_the_search(line, monkeypatch, tmp_path):
    """Which setting was chosen is read from the recorded rows."""
    line()
    made = []
    monkeypatch.setattr(registry.load("line"), "run", searching(made, "fit"))
    assert main(["line", "--seeds", "2", "--out", str(tmp_path)]) == 0
    assert [stage[1:] for stage in made] == [
        (1, (1.0, 2.0, 3.0), 0), (1, (1.0, 2.0, 3.0), 1), (3, (2.0,), 0), (3, (2.0,), 1),
    ]  # fmt: skip
    made.clear()
    assert main(["again", str(tmp_path), "--row", "7"]) == 0
    assert made == [("fit", 3, (2.0,), 0)]


@pytest.mark.parametrize("stages", [1, 2, 3, 4, 5, 7])
def test_rows_of_a_run_that_was_stopped_in_a_search_are_computed(
    stages, line, monkeypatch, tmp_path
):
    line()
    made = []
    monkeypatch.setattr(registry.load("line"), "run", searching(made, "fit", "other"))
    arguments = ["line", "--seeds", "2", "--out", str(tmp_path), "--time-budget", "1e-9"]
    assert main(arguments) == 3
    for _ in range(stages - 1):
        assert main([*arguments, "--resume"]) == 3
    rows = last_run(read_records(tmp_path / "records.jsonl"))
    finished = made.copy()
    assert len(finished) == stages
    for row, stage in ((1, finished[0]), (len(rows), finished[-1])):
        made.clear()
        assert main(["again", str(tmp_path), "--row", str(row)]) == 0
        assert made[-1] == stage  # others may have been guessed first
