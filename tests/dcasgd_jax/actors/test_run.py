"""Real processes: they are killed with signals, and the simulator repeats what they did."""

import ipaddress
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dcasgd_jax import simulate
from dcasgd_jax.actors import read_recording, reorder_batches
from tests.dcasgd_jax.actors import accidents


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What the programs left behind."""
    pytest.importorskip("ray", reason="needs the extra ray")
    path = tmp_path_factory.mktemp("programs")
    done = subprocess.run(
        [sys.executable, "-m", accidents.__name__, "starts_ray", path],
        cwd=Path(__file__).resolve().parents[3],
        env={
            **os.environ,
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_raylet_start_wait_time_s": "300",  # of a busy machine
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return path


def test_a_run_outlives_its_worker_its_server_and_its_program(folder):
    assert (folder / "worker").exists()
    assert (folder / "server").exists()
    assert np.load(folder / "params.npz")["restored"] == 1
    before, whole = (read_recording(folder / name) for name in ("killed.npz", "run.npz"))
    assert before.batch.size == 20  # killed at 23: the last checkpoint
    np.testing.assert_array_equal(before.batch, whole.batch[:20])
    np.testing.assert_array_equal(before.distance, whole.distance[:20])
    for column in ("worker", "staleness", "clock"):
        ours, theirs = getattr(before.schedule, column), getattr(whole.schedule, column)
        np.testing.assert_array_equal(ours, theirs[:20])
    assert sorted(whole.batch) == list(range(accidents.STEPS))


def test_the_simulator_repeats_what_happened(folder):
    recording = read_recording(folder / "run.npz")
    assert set(recording.schedule.worker) == {0, 1}
    assert recording.schedule.staleness.max() > 0
    gradient, first, rule, batches = accidents.job(folder)
    batches = reorder_batches(batches, recording.batch)
    again, log = simulate(gradient, first, rule, recording.schedule, batches, log_distance=True)
    params = np.load(folder / "params.npz")
    for i, (due, start) in enumerate(zip(again, first, strict=True)):
        assert np.abs(due - start).max() > 0.1
        np.testing.assert_allclose(params[f"arr_{i}"], due, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(log.staleness, recording.schedule.staleness)
    np.testing.assert_allclose(log.distance, recording.distance, rtol=1e-4, atol=1e-6)


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="needs /proc")
def test_nothing_listens_beyond_this_machine(folder):
    sockets = [line.split(" ") for line in (folder / "listening.txt").read_text().splitlines()]
    addresses = [ipaddress.ip_address(address) for *_, address in sockets]
    within = [(a.ipv4_mapped or a) if a.version == 6 else a for a in addresses]
    assert all(address.is_loopback for address in within), sockets
    # Its own store, the node's manager, the servers and the workers: all are looked at.
    assert {"gcs_server", "raylet"} <= {name for name, *_ in sockets}
    assert sum(name.startswith("ray::") for name, *_ in sockets) >= 4


def test_a_push_is_timed_against_bare_calls(folder):
    bare, push = (folder / "pushes.txt").read_text().splitlines()
    assert bare == "bare actor call: 3 1.0"
    assert re.fullmatch(r"push: 3 \d+\.\d+", push)


def test_what_cannot_be_started_is_said(folder):
    message = (folder / "timeout.txt").read_text()
    assert re.match(r"3 of 3 actors did not start in 1 s: the cluster has CPU=4", message)
    assert "each worker asks for num_cpus=64" in message
