"""Traces: what is written is read back to the bit, and what cannot be is refused by its line."""

import errno
import os

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dcasgd_jax import from_arrivals, round_robin
from dcasgd_jax.schedules.compute_times import failure_times, gamma_times
from dcasgd_jax.schedules.trace import read_trace, write_trace
from tests.dcasgd_jax.schedules.test_snapshot_slots import histories
from tests.oracles.event_queue import versions_read


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("traces")


@settings(derandomize=True, deadline=None, max_examples=40)
@given(history=histories(), seed=st.integers(0, 99))
def test_what_is_written_is_read_back_to_the_bit(folder, history, seed):
    worker, version, num_workers = history
    clock = np.cumsum(np.random.default_rng(seed).exponential(0.1, worker.size))
    schedule = from_arrivals(
        worker, clock, num_workers=num_workers, staleness=np.arange(worker.size) - version
    )
    write_trace(schedule, folder / "trace.csv")
    back = read_trace(folder / "trace.csv")
    assert back.num_workers == num_workers
    for column in ("worker", "staleness", "clock", "reads", "writes"):
        ours, theirs = getattr(back, column), getattr(schedule, column)
        assert (ours is None) == (theirs is None)
        if ours is not None:
            np.testing.assert_array_equal(ours, theirs)
            assert ours.dtype == theirs.dtype


@pytest.mark.parametrize(
    "schedule",
    [
        gamma_times(5, 300, seed=0),
        gamma_times(5, 300, seed=0, wait_for=5),
        gamma_times(5, 300, seed=0, wait_for=3),
        failure_times(5, 300, seed=0, time_to_failure=5.0),
        round_robin(4, 0),
    ],
    ids=["asynchronous", "synchronous", "m-synchronous", "failures", "nothing"],
)
def test_every_protocol_survives_a_file(folder, schedule):
    """Snapshots may lie in other slots: what counts is which version each gradient finds."""
    write_trace(schedule, folder / "trace.csv")
    back = read_trace(folder / "trace.csv")
    for column in ("worker", "staleness", "clock"):
        np.testing.assert_array_equal(getattr(back, column), getattr(schedule, column))
    if schedule.reads is None:
        assert back.reads is None
    else:
        version = np.arange(300) - schedule.staleness
        assert versions_read(back.reads, back.writes, 5) == version.tolist()


def test_other_programs_files(folder):
    path = folder / "foreign.csv"
    path.write_bytes(
        b"\xef\xbb\xbf# recorded on a cluster\r\nhost, clock ,worker\r\n\r\n"
        b"a17, 1e-1, 2\r\n# a remark\r\na3,.5,0\r\n  \r\na17,.5,2"
    )
    schedule = read_trace(path)
    np.testing.assert_array_equal(schedule.worker, [2, 0, 2])
    np.testing.assert_array_equal(schedule.clock, [0.1, 0.5, 0.5])
    np.testing.assert_array_equal(schedule.staleness, [0, 1, 1])
    assert schedule.num_workers == 3
    assert read_trace(str(path), num_workers=7).num_workers == 7


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"bad\.csv is empty: a trace begins with the line worker,clock"),
        ("# num_workers=3\n", "is empty"),
        ("0,1.5\n", "line 1: the first line names the columns, .* got '0,1.5'"),
        ("worker,time\n0,1.5\n", "line 1: the first line names the columns"),
        ("worker,clock,worker\n", "line 1: .* each once"),
        ("worker,clock\n0,1.5\n0\n", r"line 3: there are 2 columns \(worker, clock\), got 1"),
        ("worker,clock\n\n0,1.5,7\n", "line 3: there are 2 columns"),
        ("worker,clock\n0.0,1.5\n", "line 2: worker must be a whole number, from 0, got '0.0'"),
        ("worker,clock\n0,1\n-1,2\n", "line 3: worker must be a whole number, from 0, got '-1'"),
        ("worker,clock\n1_0,1\n", "line 2: worker must be .* got '1_0'"),
        ("worker,clock\n99999999999999999999,1\n", "line 2: worker must be"),
        ("worker,clock\n2000000000,1\n", "line 2: worker must be below 1,048,576, got 20"),
        ("# num_workers=999999999\nworker,clock\n0,1\n", "999,999,999 workers, and .* at most"),
        ("worker,clock\n0,soon\n", "line 2: clock must be seconds, from 0, got 'soon'"),
        ("worker,clock\n0,nan\n", "line 2: clock must be .* got 'nan'"),
        ("worker,clock\n0,inf\n", "line 2: clock must be .* got 'inf'"),
        ("worker,clock\n0,-0.5\n", "line 2: clock must be .* got '-0.5'"),
        ("# x\nworker,clock\n0,2\n\n0,1.5\n", "line 5: clock must .* never go back, got 1.5"),
        ("# num_workers=2\nworker,clock\n0,1\n2,2\n", r"line 4: workers must be in \[0, 2\)"),
        ("# num_steps=2\nworker,clock\n0,1\n", "there are 2 steps, and has 1: it was cut short"),
        ("# num_steps=0\nworker,clock\n0,1\n", "there are 0 steps, and has 1: it was .*length"),
        ("\udcff\udcfe", r"line 1: the first line names the columns, .* got '\\udcff\\udcfe'"),
        ("worker,clock,staleness\n0,1,1\n", "line 2: the gradient of step 0 cannot be 1 steps"),
        ("worker,clock,staleness\n0,1,0\n0,1,0\n0,2,2\n", "line 4: .* is 0 steps stale"),
    ],
)
def test_errors_name_file_and_line(folder, text, message):
    path = folder / "bad.csv"
    path.write_text(text, encoding="utf-8", errors="surrogateescape")
    with pytest.raises(ValueError, match=message) as error:
        read_trace(path)
    assert str(path) in str(error.value)


def test_a_file_that_says_its_workers_is_not_overruled(folder):
    path = folder / "trace.csv"
    write_trace(round_robin(3, 6), path)
    assert read_trace(path, num_workers=3).num_workers == 3
    with pytest.raises(ValueError, match="says that there are 3 workers, not 4"):
        read_trace(path, num_workers=4)


def test_a_stretch_from_the_middle_is_not_recorded(folder):
    tail = jax.tree.map(lambda column: column[5:], round_robin(4, 20))
    with pytest.raises(ValueError, match=r"begins in the middle: .* cannot be 3 steps stale"):
        write_trace(tail, folder / "trace.csv")


def test_a_trace_that_was_cut_short_anywhere_is_recognised(folder):
    path = folder / "trace.csv"
    write_trace(round_robin(2, 5), path)
    whole = path.read_bytes()
    for length in range(whole.index(b"worker,clock"), len(whole) - len(b"3.0\n")):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"trace\.csv"):
            read_trace(path)


def test_what_cannot_be_written_leaves_the_trace_that_was_there(folder, monkeypatch):
    path = folder / "trace.csv"
    write_trace(round_robin(2, 5), path)
    before = path.read_bytes()

    def fsync(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OSError, match="No space left"):
        write_trace(round_robin(2, 6), path)
    assert path.read_bytes() == before
    assert not list(folder.glob(".trace*"))
