"""The command line: lists, refuses with the nearest name, and leaves evidence that is whole."""

import dataclasses
import json

import jax
import pytest

from benchmarks import cli
from benchmarks.cli import main
from benchmarks.harness import everything, registry
from benchmarks.harness.runner import dtype_of
from common.results.records import read_records


def test_without_a_name_it_lists_every_experiment_with_its_claim(capsys):
    assert main([]) == 0
    printed = capsys.readouterr().out
    for name in registry.NAMES:
        assert name in printed
        assert registry.claim(name)[:30] in printed


def test_help_names_every_option(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    printed = capsys.readouterr().out
    for option in (
        *registry.NAMES,
        " NAME ",
        "--preset",
        "--seeds",
        "--data-dir",
        "--out",
        "smoke",
        "cpu",
        "day",
        "full",
    ):
        assert option in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["gsgd_mpl"], "did you mean 'gsgd_mlp'?"),
        (["all", "--preset", "dya"], "did you mean 'day'?"),
        (["preemption", "--preset", "day"], "Known: smoke, cpu, full."),
        (["../escape"], "no experiment is called '../escape'"),
        (["gsgd_mlp", "--preset", "smok"], "did you mean 'smoke'?"),
        (["gsgd_mlp", "--seeds", "0"], "--seeds must be at least 1"),
        (["gsgd_mlp", "--process-id", "0"], "go together, and with --distributed"),
        (["gsgd_mlp", "--distributed", "--coordinator", "a:1"], "go together"),
        (["gsgd_delay", "--distributed"], "did you mean"),
        (["gsgd_mlp", "--distributed"], "processes could not be joined"),
    ],
)
def test_what_is_not_known_is_answered_with_the_nearest(arguments, message, capsys, tmp_path):
    assert main([*arguments, "--out", str(tmp_path / "o")]) == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert printed.count("\n") == 1
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize("timed", [False, True])
def test_compiled_programs_are_kept_but_for_what_times_them(timed, line, tmp_path, monkeypatch):
    line()
    monkeypatch.setattr(registry, "TIMED", ("line",) if timed else ())
    monkeypatch.setattr(cli, "_COMPILED", tmp_path / "compiled")
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: getattr(jax.config, name) for name in names}
    jax.config.update(names[0], None)
    try:
        assert main(["line", "--seeds", "1", "--out", str(tmp_path / "out")]) == 0
        kept = None if timed else str(tmp_path / "compiled")
        assert jax.config.jax_compilation_cache_dir == kept
    finally:
        for name, value in before.items():
            jax.config.update(name, value)


def test_a_run_leaves_records_manifest_tables_and_plots(line, tmp_path, capsys):
    line()
    assert main(["line", "--seeds", "2", "--out", str(tmp_path)]) == 0
    assert "| fit" in capsys.readouterr().out
    found = read_records(tmp_path / "records.jsonl")
    assert [r.seed for r in found] == [0, 1]
    assert found[0].origin["configuration"] == {"steps": 2}
    assert found[0].origin["command"] == "python -m benchmarks line --preset smoke --seeds 2"
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["status"] == "finished"
    assert manifest["records"] == 2
    for name in manifest["files"]:
        assert (tmp_path / name).is_file()
    tables = (tmp_path / "tables.md").read_text()
    assert "n = 2 seeds" in tables


@dataclasses.dataclass(frozen=True)
class Network:
    bfloat16: bool
    steps: int = 2


@dataclasses.dataclass(frozen=True)
class WithNetwork:
    size: Network
    steps: int = 2


@pytest.mark.parametrize("bfloat16", [True, False])
@pytest.mark.parametrize("nested", [True, False])
def test_records_say_in_which_dtype_networks_computed(
    bfloat16, nested, line, tmp_path, monkeypatch
):
    line()
    settings = WithNetwork(Network(bfloat16)) if nested else Network(bfloat16)
    monkeypatch.setitem(registry.load("line").PRESETS, "smoke", settings)
    assert main(["line", "--seeds", "1", "--out", str(tmp_path)]) == 0
    dtype = "bfloat16" if bfloat16 else "float32"
    (found,) = read_records(tmp_path / "records.jsonl")
    assert found.origin["provenance"]["dtype"] == dtype
    assert f", {dtype}, n = 1 seed." in (tmp_path / "tables.md").read_text()


def test_no_preset_says_it_elsewhere():
    found = set()
    for name in registry.NAMES:
        for preset, settings in registry.load(name).PRESETS.items():
            half = "'bfloat16': True" in str(dataclasses.asdict(settings))
            assert (dtype_of(settings) == "bfloat16") == half, (name, preset)
            found |= {(name, preset)} if half else set()
    assert {("dcasgd_imagenet", "full"), ("delayed_language_model", "full")} <= found


def test_a_second_run_appends_and_shows_itself(line, tmp_path):
    line()
    main(["line", "--seeds", "2", "--out", str(tmp_path)])
    before = (tmp_path / "records.jsonl").read_bytes()
    main(["line", "--seeds", "1", "--out", str(tmp_path)])
    assert (tmp_path / "records.jsonl").read_bytes().startswith(before)
    assert len(read_records(tmp_path / "records.jsonl")) == 3
    assert "n = 1 seed." in (tmp_path / "tables.md").read_text()


def test_an_interrupted_run_keeps_what_it_finished(line, tmp_path, capsys):
    line(fail_at=2)
    assert main(["line", "--seeds", "3", "--out", str(tmp_path)]) == 130
    assert "2 finished records are kept" in capsys.readouterr().err
    assert [r.seed for r in read_records(tmp_path / "records.jsonl")] == [0, 1]
    assert json.loads((tmp_path / "manifest.json").read_text())["status"] == "interrupted"


def test_a_failed_run_keeps_what_it_finished(line, tmp_path):
    line(fail_at=1, error=ZeroDivisionError)
    with pytest.raises(ZeroDivisionError):
        main(["line", "--seeds", "3", "--out", str(tmp_path)])
    assert [r.seed for r in read_records(tmp_path / "records.jsonl")] == [0]
    assert json.loads((tmp_path / "manifest.json").read_text())["status"] == "failed"


def test_the_demo_gives_every_experiment_a_folder(line, tmp_path):
    line()
    assert main(["demo", "--seeds", "1", "--out", str(tmp_path)]) == 0
    assert (tmp_path / "line" / "records.jsonl").is_file()


@pytest.mark.parametrize("name", registry.NAMES)
def test_every_experiment_has_its_presets_and_a_docstring(name):
    module = registry.load(name)
    named = [preset for preset in module.PRESETS if preset in registry.PRESET_NAMES]
    # Only what needs real sizes has a preset between cpu and full; others may stand beside these.
    assert {*named, "day"} == set(registry.PRESET_NAMES)
    assert named == [preset for preset in registry.PRESET_NAMES if preset in module.PRESETS]
    for settings in module.PRESETS.values():
        assert dataclasses.is_dataclass(settings)
    assert len(registry.describe(name).splitlines()) > 3
    assert registry.claim(name).endswith((".", ":", "?"))


def test_all_runs_what_has_the_preset(monkeypatch, tmp_path):
    jobs = []
    monkeypatch.setattr(everything, "run_jobs", lambda made, **options: jobs.extend(made) or [])
    assert main(["all", "--preset", "day", "--seeds", "3", "--out", str(tmp_path / "all")]) == 0
    assert [job.name for job in jobs] == registry.names_with("day")
    seeds = {job.name: job.arguments[job.arguments.index("--seeds") + 1] for job in jobs}
    assert seeds["gsgd_mlp"] == "10"
    assert seeds["gsgd_cifar10"] == "3"
