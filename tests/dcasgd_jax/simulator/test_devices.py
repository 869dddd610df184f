"""Waves shared out over eight devices, and over the devices of two processes."""

import os
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]


def start(module, *args, devices):
    environment = dict(
        os.environ,
        JAX_PLATFORMS="cpu",
        XLA_FLAGS=f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}",
    )
    return subprocess.Popen(
        [sys.executable, "-m", module, *args],
        env=environment,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process):
    try:
        output, _ = process.communicate(timeout=600)
    finally:
        process.kill()
    assert process.returncode == 0, output
    return output


def free_address():
    """Where a first process can be met."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return f"localhost:{free.getsockname()[1]}"


def test_eight_devices_make_the_run_of_one_to_the_bit():
    output = finish(start("tests.dcasgd_jax.simulator.on_devices", devices=8))
    assert output.count("agree to the bit") == 4, output
    assert "the ladder agrees" in output, output
    assert "shardings are kept" in output, output


def test_two_processes_make_the_run_of_one():
    address = free_address()
    both = [
        start("tests.dcasgd_jax.simulator.on_hosts", address, str(i), devices=2) for i in range(2)
    ]
    for process in both:
        assert "agree to the bit" in finish(process)
