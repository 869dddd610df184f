"""Stages: a run stops between them, and what it finished is not computed again."""

import json
import re
import time
from pathlib import Path

import pytest

from benchmarks.cli import main
from benchmarks.harness.stages import Stages, TimeBudgetSpentError
from common.results import origin
from common.results.records import Record, last_run, read_records


def records(*seeds):
    return [Record(method="m", setting={}, seed=s, metrics={}, wall_time=0.0) for s in seeds]


def test_a_stage_is_told_of_when_all_its_records_are_taken():
    told = []
    stages = Stages(on_finished=lambda name, count: told.append((name, count)))
    taken = stages.of("both", lambda: records(0, 1))
    assert next(taken).seed == 0
    assert next(taken).seed == 1
    assert told == []
    assert list(taken) == []
    assert told == [("both", 2)]


def test_what_is_finished_is_not_made():
    stages = Stages({"done": records(7)})
    assert list(stages.of("done", lambda: pytest.fail("made again"))) == []
    assert [r.seed for r in stages.of("other", lambda: records(3))] == [3]


def test_the_first_stage_is_begun_however_little_time_there_is():
    stages = Stages({"done": records(7)}, seconds=0.0)
    assert list(stages.of("done", lambda: records(0))) == []
    assert len(list(stages.of("first", lambda: records(1)))) == 1
    with pytest.raises(TimeBudgetSpentError, match="before 'second'"):
        list(stages.of("second", lambda: pytest.fail("begun")))


def seeds_of(folder):
    return [r.seed for r in last_run(read_records(folder / "records.jsonl"))]


@pytest.mark.parametrize("stop", [KeyboardInterrupt, ZeroDivisionError])
def test_a_stopped_run_is_gone_on_with(line, stop, tmp_path):
    made = line(fail_at=2, error=stop)
    arguments = ["line", "--seeds", "3", "--out", str(tmp_path)]
    if stop is KeyboardInterrupt:
        assert main(arguments) == 130
    else:
        with pytest.raises(stop):
            main(arguments)
    assert made == [0, 1]
    made = line()
    assert main([*arguments, "--resume"]) == 0
    assert made == [2]
    assert seeds_of(tmp_path) == [0, 1, 2]
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["status"] == "finished"
    assert [stage["name"] for stage in manifest["stages"]] == ["seed 0", "seed 1", "seed 2"]
    assert len({r.origin["run"] for r in last_run(read_records(tmp_path / "records.jsonl"))}) == 1


def test_a_run_that_is_stopped_again_and_again_comes_to_its_end(line, tmp_path, capsys):
    made = line()
    arguments = ["line", "--seeds", "3", "--out", str(tmp_path), "--time-budget", "1e-9"]
    assert main(arguments) == 3
    assert "before 'seed 1'" in capsys.readouterr().err
    assert json.loads((tmp_path / "manifest.json").read_text())["status"] == "stopped"
    assert main([*arguments, "--resume"]) == 3
    assert main([*arguments, "--resume"]) == 0
    assert made == [0, 1, 2]
    assert seeds_of(tmp_path) == [0, 1, 2]


def test_a_resumed_run_that_fails_at_once_has_lost_nothing(line, tmp_path):
    line(fail_at=2)
    arguments = ["line", "--seeds", "3", "--out", str(tmp_path)]
    main(arguments)
    line(fail_at=0)  # before the generator has come to any stage
    assert main([*arguments, "--resume"]) == 130
    made = line()
    assert main([*arguments, "--resume"]) == 0
    assert made == [2]


def test_a_finished_run_is_shown_again(line, tmp_path):
    line()
    arguments = ["line", "--seeds", "2", "--out", str(tmp_path)]
    main(arguments)
    made = line()
    assert main([*arguments, "--resume"]) == 0
    assert made == []
    assert seeds_of(tmp_path) == [0, 1]


def test_resuming_where_nothing_was_begun_begins(line, tmp_path):
    made = line()
    assert main(["line", "--seeds", "2", "--out", str(tmp_path), "--resume"]) == 0
    assert made == [0, 1]


def test_records_of_other_seeds_or_code_are_not_gone_on_with(line, tmp_path, capsys):
    line(fail_at=1)
    main(["line", "--seeds", "2", "--out", str(tmp_path)])
    line()
    before = (tmp_path / "records.jsonl").read_bytes()
    capsys.readouterr()
    assert main(["line", "--seeds", "3", "--out", str(tmp_path), "--resume"]) == 2
    assert "--resume needs a run of the same seeds" in capsys.readouterr().err
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    manifest["provenance"]["git_commit"] = "another"
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    assert main(["line", "--seeds", "2", "--out", str(tmp_path), "--resume"]) == 2
    assert "same code (commit)" in capsys.readouterr().err
    assert (tmp_path / "records.jsonl").read_bytes() == before


def test_a_run_is_not_gone_on_with_by_code_that_was_edited_since(
    line, tmp_path, capsys, monkeypatch
):
    def edited(digest):
        monkeypatch.setattr(origin, "git_commit", lambda: f"{'0' * 40}+changes{digest}")

    arguments = ["line", "--seeds", "2", "--out", str(tmp_path)]
    edited("-11111111")
    line(fail_at=1)
    main(arguments)
    made = line()
    for digest in ("-22222222", ""):  # older runs of changed code have none
        edited(digest)
        capsys.readouterr()
        assert main([*arguments, "--resume"]) == 2
        (said,) = capsys.readouterr().err.splitlines()
        assert "--resume needs a run of the same code (commit) in" in said
        then, here = f"{'0' * 12}+changes-11111111", f"{'0' * 12}+changes{digest}"
        assert f"; go back to the code of that run, {then} (here it is {here}), leave it" in said
        assert said.endswith(", or name another folder with --out.")
    assert made == []
    edited("-11111111")
    assert main([*arguments, "--resume"]) == 0
    assert made == [1]


def test_two_stages_of_one_name_are_refused(line, tmp_path):
    line(stage="always the same")
    with pytest.raises(ValueError, match="'always the same' twice"):
        main(["line", "--seeds", "2", "--out", str(tmp_path)])


def test_a_clock_that_goes_back_changes_no_order_no_duration_and_no_budget(
    line, tmp_path, monkeypatch, capsys
):
    """Every look at the time of day, by whatever name, gives an earlier one than the one before."""
    earlier = iter(range(1_700_000_000, 0, -86_400))
    monkeypatch.setattr("time.time", lambda: float(next(earlier)))
    monkeypatch.setattr(
        "benchmarks.harness.runner.now", lambda: time.strftime("%FT%T", time.gmtime(time.time()))
    )
    arguments = ["line", "--seeds", "3", "--out", str(tmp_path)]
    line(fail_at=2)
    assert main(arguments) == 130
    made = line()
    assert main([*arguments, "--resume", "--time-budget", "60"]) == 0
    assert made == [2]
    assert seeds_of(tmp_path) == [0, 1, 2]
    runs = [r.origin["run"] for r in read_records(tmp_path / "records.jsonl")]
    assert runs[0] > runs[-1]  # the later run has the earlier name
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["run"] == runs[-1]
    assert 0.0 <= manifest["wall_time"] < 600.0
    assert re.search(r"3 records in \d+ s", capsys.readouterr().out)  # and not -86400


def test_the_time_of_day_is_read_in_one_place_only():
    """Whatever is subtracted comes from a clock that never goes back."""
    root = Path(origin.__file__).resolve().parents[2]
    packages = ("gsgd_jax", "dcasgd_jax", "lacim_jax", "common", "benchmarks")
    of_day = re.compile(r"\btime\.time(_ns)?\(|\bdatetime\.(now|today|utcnow)\(|import time\b.*,")
    reads = [
        path.relative_to(root).as_posix()
        for package in packages
        for path in sorted((root / package).rglob("*.py"))
        if of_day.search(path.read_text(encoding="utf-8"))
    ]
    assert reads == ["common/results/origin.py"]
