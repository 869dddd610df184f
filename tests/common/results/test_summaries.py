"""Summaries: final figures survive to the last bit, curves in outline, and nothing else is lost."""

import dataclasses
import json
import math

import numpy as np
import pytest

from common.results.records import Record, RecordWriter, read_records
from common.results.summaries import DIGITS, POINTS, read_summary, write_summary

ORIGIN = {"benchmark": "b", "preset": "cpu", "run": "1", "provenance": {"git_commit": "0"}}


def written(path, *, length=1000, origin=ORIGIN):
    steps = np.arange(length)
    writer = RecordWriter(path, origin=origin)
    for seed in range(3):
        writer.write(
            Record(
                method="sgd",
                setting={"learning_rate": 0.1},
                seed=seed,
                metrics={"accuracy": 1 / (seed + 3), "loss": math.nan},
                curve={"step": steps, "loss": 1 / (1 + steps)},
                wall_time=0.5,
            )
        )
    return read_records(path)


def test_all_but_the_curves_comes_back_as_it_was(tmp_path):
    records = written(tmp_path / "records.jsonl")
    write_summary(records, tmp_path / "new" / "cpu.jsonl")
    found = read_summary(tmp_path / "new" / "cpu.jsonl")
    assert [(r.method, r.setting, r.seed, r.wall_time, r.origin) for r in found] == [
        (r.method, r.setting, r.seed, r.wall_time, r.origin) for r in records
    ]
    assert [r.metrics["accuracy"] for r in found] == [1 / 3, 1 / 4, 1 / 5]
    assert all(math.isnan(r.metrics["loss"]) for r in found)


def test_curves_keep_their_ends_and_their_outline(tmp_path):
    records = written(tmp_path / "records.jsonl")
    write_summary(records, tmp_path / "cpu.jsonl")
    (curve, *_) = (r.curve for r in read_summary(tmp_path / "cpu.jsonl"))
    assert len(curve["step"]) == len(curve["loss"]) == POINTS
    assert (curve["step"][0], curve["step"][-1]) == (0, 999)
    np.testing.assert_allclose(
        curve["loss"], 1 / (1 + np.array(curve["step"])), rtol=0.5 * 10.0 ** (1 - DIGITS)
    )


def test_a_column_that_records_share_is_written_once(tmp_path):
    records = written(tmp_path / "records.jsonl", length=3)
    other = {"step": [0, 1, 2], "loss": [math.nan, 0.5, 0.5]}
    writer = RecordWriter(tmp_path / "records.jsonl", origin=ORIGIN)
    writer.write(dataclasses.replace(records[0], curve=other))
    records = read_records(tmp_path / "records.jsonl")
    write_summary(records, tmp_path / "cpu.jsonl")
    text = (tmp_path / "cpu.jsonl").read_text()
    assert text.count('"step":[') == 1
    assert text.count('"step":0') == 3
    assert text.count('"loss":[') == 2
    for found, record in zip(read_summary(tmp_path / "cpu.jsonl"), records, strict=True):
        for name, column in record.curve.items():
            np.testing.assert_allclose(found.curve[name], column, rtol=0.5 * 10.0 ** (1 - DIGITS))
    # A record that is not there is no column.
    (tmp_path / "cpu.jsonl").write_text(text.replace('"step":0', '"step":7', 1))
    with pytest.raises(ValueError, match=r"cpu\.jsonl:3 is not a record"):
        read_summary(tmp_path / "cpu.jsonl")


def test_pictures_are_kept_whole(tmp_path):
    writer = RecordWriter(tmp_path / "records.jsonl", origin=ORIGIN)
    pixels = [i % 256 for i in range(10_000)]
    curve = {"red": pixels, "green": pixels, "depth": [0.1 * i for i in range(10_000)]}
    writer.write(
        Record(method="m", setting={"picture": "p"}, seed=0, metrics={}, curve=curve, wall_time=0.0)
    )
    write_summary(read_records(tmp_path / "records.jsonl"), tmp_path / "cpu.jsonl")
    assert read_summary(tmp_path / "cpu.jsonl")[0].curve == curve
    line = json.loads((tmp_path / "cpu.jsonl").read_text().splitlines()[1])
    assert len(line["curve"]["red"]["zlib"]) < 1000


def test_a_picture_that_was_cut_short_is_refused(tmp_path):
    curve = {"red": list(range(256))}
    write_summary(
        [Record(method="m", setting={"picture": "p"}, seed=0, metrics={}, curve=curve,
                wall_time=0.0, origin=ORIGIN)],
        tmp_path / "cpu.jsonl",
    )  # fmt: skip
    whole = (tmp_path / "cpu.jsonl").read_text()
    start = whole.index('"zlib":"') + len('"zlib":"')
    (tmp_path / "cpu.jsonl").write_text(whole[:start] + whole[start + 8 :])
    with pytest.raises(ValueError, match=r"cpu\.jsonl:2 is not a record"):
        read_summary(tmp_path / "cpu.jsonl")


@pytest.mark.parametrize("length", [0, 1, POINTS])
def test_short_curves_are_whole(length, tmp_path):
    write_summary(written(tmp_path / "records.jsonl", length=length), tmp_path / "cpu.jsonl")
    for record in read_summary(tmp_path / "cpu.jsonl"):
        assert list(record.curve["step"]) == list(range(length))


@pytest.mark.parametrize("large", [False, True])
def test_records_of_several_runs_keep_their_origins(large, tmp_path, monkeypatch):
    path = tmp_path / "records.jsonl"
    written(path)
    written(path, origin={**ORIGIN, "run": "2", "seeds": [0]})
    records = written(path)  # of the first run again
    if large:
        monkeypatch.setattr("common.results.summaries.LARGE", 100)
    write_summary(records, tmp_path / "cpu.jsonl")
    lines = (tmp_path / "cpu.jsonl").read_bytes().splitlines()
    assert len(lines) == (2 if large else 1 + 9 + 2)
    found = read_summary(tmp_path / "cpu.jsonl")
    assert [r.origin for r in found] == [r.origin for r in records]
    assert [r.seed for r in found] == [r.seed for r in records]
    assert found[7].curve == found[0].curve  # a column is found by the number of its record


def test_records_of_two_experiments_are_refused(tmp_path):
    path = tmp_path / "records.jsonl"
    written(path)
    records = written(path, origin={**ORIGIN, "benchmark": "c"})
    with pytest.raises(ValueError, match="of one experiment, got records of 2"):
        write_summary(records, tmp_path / "cpu.jsonl")
    with pytest.raises(ValueError, match="of one experiment, got records of 0"):
        write_summary([], tmp_path / "cpu.jsonl")


def test_a_damaged_origin_is_named_with_its_line(tmp_path):
    write_summary(written(tmp_path / "records.jsonl"), tmp_path / "cpu.jsonl")
    with (tmp_path / "cpu.jsonl").open("a") as file:
        file.write('{"origin":\n')
    with pytest.raises(ValueError, match=r"cpu\.jsonl:5 does not say where"):
        read_summary(tmp_path / "cpu.jsonl")


def test_a_file_that_is_no_summary_is_named_with_its_line(tmp_path):
    written(tmp_path / "records.jsonl")
    with pytest.raises(ValueError, match=r"records\.jsonl:1 does not say where"):
        read_summary(tmp_path / "records.jsonl")
    write_summary(read_records(tmp_path / "records.jsonl"), tmp_path / "cpu.jsonl")
    with (tmp_path / "cpu.jsonl").open("a") as file:
        file.write("{}\n")
    with pytest.raises(ValueError, match=r"cpu\.jsonl:5 is not a record"):
        read_summary(tmp_path / "cpu.jsonl")


def test_a_large_run_is_compressed_and_reads_the_same(tmp_path, monkeypatch):
    records = [
        Record(
            method="SGD", setting={"rate": 0.1 * (i % 7)}, seed=i, wall_time=1.0,
            metrics={"loss": 1 / (i + 3)}, curve={"loss": [1.0, 1 / (i + 2)]}, origin={"run": "1"},
        )
        for i in range(300)
    ]  # fmt: skip
    path = tmp_path / "cpu.jsonl"
    write_summary(records, path)
    lines, whole = path.read_bytes().splitlines(), read_summary(path)
    assert len(lines) == 301
    monkeypatch.setattr("common.results.summaries.LARGE", 10_000)
    write_summary(records, path)
    first, packed = path.read_bytes().splitlines()
    assert first == lines[0]  # where they come from can be read
    assert len(packed) < sum(map(len, lines)) / 4
    assert read_summary(path) == whole
    for damaged in (packed[:-9] + b'"}', b'{"lzma":"0"}', b'{"lzma":7}', b'{"lzma":"\\u00e9"}'):
        path.write_bytes(first + b"\n" + damaged + b"\n")
        with pytest.raises(ValueError, match=r"cpu\.jsonl:2 .* damaged: .* take the run anew"):
            read_summary(path)
    monkeypatch.setattr("common.results.summaries._MOST", 1000)
    path.write_bytes(first + b"\n" + packed + b"\n")
    with pytest.raises(ValueError, match="cut short, or too large"):
        read_summary(path)
