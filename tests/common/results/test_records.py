"""Records: what is written comes back, and an interrupted writer loses nothing that was whole."""

import errno
import json
import math
import os
import re

import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.harness.runner import made_by
from common.results.origin import provenance
from common.results.plots import figure, plot_curve
from common.results.records import Record, RecordWriter, last_run, read_records
from common.results.summaries import read_summary, write_summary
from common.results.tables import markdown, metric, number

ORIGIN = {"benchmark": "b", "preset": "smoke", "run": "1"}


def record(**changes):
    fields = {
        "method": "sgd",
        "setting": {"learning_rate": 0.1, "workers": 4, "note": None},
        "seed": 0,
        "metrics": {"accuracy": 0.5},
        "curve": {"epoch": [1, 2], "loss": [1.0, 0.5]},
        "wall_time": 1.5,
    }
    return Record(**(fields | changes))


def test_round_trip(tmp_path):
    writer = RecordWriter(tmp_path / "new" / "records.jsonl", origin=ORIGIN)
    written = [writer.write(record(seed=seed)) for seed in range(3)]
    assert read_records(tmp_path / "new" / "records.jsonl") == written
    assert written[0].origin == ORIGIN


def test_a_line_holds_the_agreed_keys(tmp_path):
    origin = {**ORIGIN, "command": "c", "configuration": {}, "provenance": provenance()}
    RecordWriter(tmp_path / "r.jsonl", origin=origin).write(record())
    line = json.loads((tmp_path / "r.jsonl").read_text())
    wanted = {"benchmark", "method", "setting", "seed", "metrics", "curve", "wall_time"}
    assert wanted <= line.keys()
    assert {"git_commit", "versions", "device", "dtype", "time"} <= line["provenance"].keys()
    assert isinstance(line["setting"], dict)


def test_arrays_become_numbers_and_what_is_not_finite_becomes_null(tmp_path):
    writer = RecordWriter(tmp_path / "r.jsonl", origin=ORIGIN)
    curve = {"loss": np.asarray([1.0, np.inf]), "step": jnp.arange(2)}
    writer.write(record(metrics={"loss": jnp.nan, "n": np.int32(3)}, curve=curve))
    line = json.loads((tmp_path / "r.jsonl").read_text(), parse_constant=pytest.fail)
    assert line["metrics"] == {"loss": None, "n": 3}
    assert line["curve"] == {"loss": [1.0, None], "step": [0, 1]}
    (found,) = read_records(tmp_path / "r.jsonl")
    assert math.isnan(found.metrics["loss"])
    assert math.isnan(found.curve["loss"][1])


def test_appending_keeps_what_was_there(tmp_path):
    path = tmp_path / "r.jsonl"
    RecordWriter(path, origin=ORIGIN).write(record())
    before = path.read_bytes()
    RecordWriter(path, origin={**ORIGIN, "run": "2"}).write(record(seed=1))
    assert path.read_bytes().startswith(before)
    found = read_records(path)
    assert [r.seed for r in found] == [0, 1]
    assert [r.seed for r in last_run(found)] == [1]


@pytest.mark.parametrize("cut", [1, 20, 200])
def test_an_unfinished_last_line_is_dropped_and_nothing_else(tmp_path, cut):
    path = tmp_path / "r.jsonl"
    writer = RecordWriter(path, origin=ORIGIN)
    writer.write(record())
    whole = path.read_bytes()
    writer.write(record(seed=1))
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.warns(UserWarning, match=r"r\.jsonl:2 is cut off and left out; what stands"):
        assert [r.seed for r in read_records(path)] == [0]
    RecordWriter(path, origin=ORIGIN).write(record(seed=2))
    assert path.read_bytes().startswith(whole)
    assert [r.seed for r in read_records(path)] == [0, 2]


@pytest.mark.parametrize("line", [b"nonsense", b"{}", b"[1]", b'{"method": 1}', b"\xff", b""])
def test_a_line_that_is_no_record_is_named(tmp_path, line):
    path = tmp_path / "r.jsonl"
    RecordWriter(path, origin=ORIGIN).write(record())
    path.write_bytes(path.read_bytes() + line + b"\n")
    with pytest.raises(ValueError, match=r"r\.jsonl:2 is not a record"):
        read_records(path)


def test_a_full_disk_leaves_whole_lines_only(tmp_path, monkeypatch):
    path = tmp_path / "r.jsonl"
    writer = RecordWriter(path, origin=ORIGIN)
    writer.write(record())
    write, taken = os.write, []

    def room_for_ten_bytes(descriptor, content):
        if taken:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        taken.append(write(descriptor, content[:10]))
        return taken[0]

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", room_for_ten_bytes)
        with pytest.raises(OSError, match="No space left"):
            writer.write(record(seed=1))
    assert [r.seed for r in read_records(path)] == [0]
    writer.write(record(seed=2))
    assert [r.seed for r in read_records(path)] == [0, 2]


HOSTILE = (
    "\x1b[2J\x9b31m\rsgd", "<script>alert(1)</script>", "a | b", "[link](https://a.b)", "`code`",
    "![x](y)", "**bold**", r"$\frac$", "line\nbreak", "\u202eturned", "\u2028", "\x00",
)  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_names_edited_by_hand_are_harmless_in_tables_pages_and_plots(tmp_path, name):
    device = {"kind": name, "count": 1, "cores": 2}
    source = {"git_commit": name, "versions": {"jax": name}, "dtype": name, "device": device}
    origin = ORIGIN | {"command": name, "seeds": [0], "provenance": source}
    lines = RecordWriter(tmp_path / "r.jsonl", origin=origin)
    lines.write(record(method=name, setting={name: name}, metrics={name: 1.0}))
    lines.write(record(method=name))
    found = read_records(tmp_path / "r.jsonl")
    shown = found[0].method
    assert shown != name
    assert re.sub(r"\\u(....)", lambda code: chr(int(code[1], 16)), shown) == name
    table = markdown(["method", *found[0].metrics], [[shown, number(metric(found, shown))]])
    page = f"{table}\n\n{made_by(found[0].origin)}"
    for character in "\x1b\x9b\r\x00<>[]$*\u202e\u2028":
        assert character not in page
    assert page.count("\n") == table.count("\n") + 2 == 4
    assert [line.count("|") for line in table.splitlines()] == [3, 3, 3]
    with figure(tmp_path / "plot.png") as panels:
        plot_curve(panels[0, 0], found, x="epoch", y="loss", label=shown)
        panels[0, 0].legend()
        panels[0, 0].set_title(shown)
    assert (tmp_path / "plot.png").stat().st_size > 1000
    # As the evidence that is kept, too.
    write_summary(found, tmp_path / "kept.jsonl")
    assert read_summary(tmp_path / "kept.jsonl")[0].method == shown


@pytest.mark.parametrize(
    "changes",
    [
        {"method": 3}, {"method": ["sgd"]}, {"setting": []}, {"setting": {"a": [1]}},
        {"seed": "0"}, {"metrics": {"a": "<b>"}}, {"metrics": {"a": True}}, {"wall_time": "1"},
        {"curve": {"a": ["x"]}}, {"curve": {"a": 3}},
    ],
)  # fmt: skip
def test_fields_of_other_types_are_no_record(tmp_path, changes):
    RecordWriter(tmp_path / "r.jsonl", origin=ORIGIN).write(record())
    line = json.loads((tmp_path / "r.jsonl").read_text()) | changes
    (tmp_path / "r.jsonl").write_text(json.dumps(line) + "\n")
    with pytest.raises(ValueError, match=r"r\.jsonl:1 is not a record .*; remove the line"):
        read_records(tmp_path / "r.jsonl")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"metrics": {"diverged": np.bool_(True)}}, "True is no figure"),
        ({"metrics": {"each": np.ones(2)}}, r"\[1.0, 1.0\] is no figure"),
        ({"metrics": {"a": object()}}, "not JSON serializable"),
        ({"curve": {"loss": [[1.0], [2.0]]}}, r"\[1.0\] is no figure"),
        ({"setting": {"widths": (64, 64)}}, "the values of a setting are names"),
        ({"setting": {"clip": math.inf}}, "setting 'clip' is inf"),
        ({"setting": {"clip": np.float32(np.nan)}}, "setting 'clip' is nan"),
        ({"wall_time": math.nan}, "wall_time a number"),
        ({"seed": 0.5}, "seed is a whole number"),
        ({"method": None}, "method is a name"),
    ],
)
def test_what_could_not_be_read_is_not_written(tmp_path, changes, message):
    """The file is only ever appended to: one such line would make all of it unreadable."""
    path = tmp_path / "r.jsonl"
    writer = RecordWriter(path, origin=ORIGIN)
    writer.write(record())
    before = path.read_bytes()
    with pytest.raises(ValueError, match=f"a record cannot be written .*{message}.*; give"):
        writer.write(record(**changes))
    assert path.read_bytes() == before
    assert [r.seed for r in read_records(path)] == [0]


def test_no_file_no_records(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_records(tmp_path / "none.jsonl")
    assert last_run([]) == []


def test_a_curve_has_columns_of_one_length():
    with pytest.raises(ValueError, match="equally long"):
        record(curve={"epoch": [1, 2], "loss": [1.0]})
