"""What is refused before any process is started, and what a damaged checkpoint says."""

import sys
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dcasgd_jax import delay_compensation
from dcasgd_jax.actors import (
    Checkpoint,
    Cluster,
    read_batch_order,
    read_recording,
    run_asynchronously,
)
from dcasgd_jax.actors.host_arrays import to_host
from dcasgd_jax.actors.process import process_for
from dcasgd_jax.actors.recording import TraceColumns, save
from dcasgd_jax.simulator.state import ServerState

PARAMS = {"w": jnp.ones(3), "half": jnp.ones(2, jnp.bfloat16)}
STEPS = 6


def loss(params, batch):
    return jnp.sum(params["w"] * batch) + jnp.sum(params["half"].astype(jnp.float32))


gradient = jax.grad(loss)


@pytest.fixture(autouse=True)
def no_engine(monkeypatch):
    """Ray is there, but nothing of it can be used."""
    monkeypatch.setitem(sys.modules, "ray", object())


def run(grad_fn=gradient, tx=None, batches=None, params=PARAMS, **options):
    tx = optax.sgd(0.1) if tx is None else tx
    batches = jnp.ones((STEPS, 3)) if batches is None else batches
    options = {"cluster": Cluster(2), "num_steps": STEPS, **options}
    return run_asynchronously(grad_fn, params, tx, batches, **options)


def test_without_ray_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r"install the extra `ray`, .*gsgd-dcasgd-lacim-jax\[ray"):
        run()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cluster": Cluster(0)}, "num_workers must be an int >= 1, got 0"),
        ({"cluster": Cluster(True)}, "num_workers must be an int >= 1, got True"),
        ({"cluster": Cluster(1, placement="NEAR")}, "one of SPREAD, PACK, .* got 'NEAR'"),
        (
            {"cluster": Cluster(1, 1, {"scheduling_strategy": "SPREAD"}, placement="PACK")},
            "say twice where they run",
        ),
        (
            {"cluster": Cluster(1, placement="PACK", worker_options={"num_cpus": 0})},
            "worker_options ask for nothing",
        ),
        ({"num_steps": -1}, "num_steps must be an int >= 0, got -1"),
        ({"cluster": Cluster(2, num_servers=0)}, "num_servers must be an int >= 1"),
        (
            {"cluster": Cluster(2, num_servers=3)},
            "num_servers=3 servers cannot share these parameters",
        ),
        ({"checkpoint": Checkpoint("run.npz", every=0)}, "`every` must be an int >= 1, got 0"),
        ({"cluster": Cluster(2, start_timeout=0.0)}, "start_timeout must be a finite scalar > 0"),
        (
            {"cluster": Cluster(2, snapshot_dtype=jnp.int32)},
            "snapshot_dtype must be None or a floating-point dtype",
        ),
        ({"batches": jnp.ones((5, 3))}, "the leading axis of batches is the server step, 6"),
        ({"batches": iter([1.0])}, "asked for again when a gradient is lost.* not an iterable"),
        ({"checkpoint": "/nowhere/run.npz"}, "folder /nowhere is missing; create it first"),
        ({"grad_fn": jax.value_and_grad(loss)}, "grad_fn must return gradients alone"),
        (
            {"grad_fn": lambda p, b: {**gradient(p, b), "w": b[:2]}},
            r"params\['w'\] has shape \(3,\) and its gradient \(2,\)",
        ),
        (
            {"grad_fn": lambda p, b: {**gradient(p, b), "half": jnp.ones(2)}},
            r"\['half'\] is float32 of shape \(2,\), not bfloat16",
        ),
        (
            {
                "grad_fn": lambda p, m, b: (gradient(p, b), jnp.zeros(2)),
                "model_state": jnp.zeros(1),
            },
            r"leave its state's types as they are: .model_state is float32 of shape \(2,\)",
        ),
        (
            {
                "tx": optax.GradientTransformation(
                    lambda _: jnp.zeros(1), lambda g, *_: (g, 0 * g["w"])
                )
            },
            r"leave its state's types as they are: .opt_state is float32 of shape \(3,\)",
        ),
    ],
)
def test_what_cannot_be_run_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        run(**options)


@pytest.fixture
def path(tmp_path):
    """The checkpoint of a whole run."""
    columns = TraceColumns(2)
    for step in range(STEPS):
        columns.append(
            worker=step % 2, staleness=min(step, 1), batch=step, clock=step, distance=1.0
        )
    opt_state = optax.sgd(0.1).init(PARAMS)
    state = ServerState(PARAMS, opt_state, jnp.asarray(STEPS, jnp.int32), ())
    save(tmp_path / "run.npz", to_host(state), columns)
    return tmp_path / "run.npz"


def test_a_run_that_is_over_needs_no_worker(path):
    params, info = run(checkpoint=path)
    assert params["half"].dtype == jnp.bfloat16
    np.testing.assert_array_equal(params["w"], PARAMS["w"])
    np.testing.assert_array_equal(info.schedule.worker, [0, 1, 0, 1, 0, 1])
    np.testing.assert_array_equal(info.distance, np.ones(STEPS))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cluster": Cluster(3)}, "is of a run with 2 workers, not 3"),
        ({"num_steps": 4, "batches": jnp.ones((4, 3))}, "has used 6 batches, .* num_steps >= 6"),
        ({"tx": delay_compensation(0.1)}, "checkpoint of another run: it lacks `.opt_state.step`"),
        (
            {"params": {**PARAMS, "w": jnp.ones(4)}, "grad_fn": lambda params, _: params},
            r"`.params\['w'\]` is float32 of shape \(3,\) in it, float32 of shape \(4,\) here",
        ),
        (
            {
                "params": {**PARAMS, "w": jnp.ones(3, jnp.float16)},
                "grad_fn": lambda params, _: params,
            },
            r"`.params\['w'\]` is float32 of shape \(3,\) in it, float16 of shape \(3,\) here",
        ),
    ],
)
def test_the_checkpoint_of_another_run_is_refused(path, options, message):
    with pytest.raises(ValueError, match=message):
        run(checkpoint=path, **options)


def test_a_damaged_checkpoint_is_refused_and_left(path):
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[whole.index(np.ones(STEPS).tobytes())] ^= 1
    for damaged in (b"", whole[: len(whole) // 2], whole[:-10], bytes(flipped), b"no archive"):
        path.write_bytes(damaged)
        for reading in (lambda: run(checkpoint=path), lambda: read_recording(path)):
            with pytest.raises(ValueError, match=r"run\.npz is not a complete .* delete it"):
                reading()
        assert path.read_bytes() == damaged


@pytest.mark.parametrize(
    ("column", "entries", "message"),
    [
        ("worker", [0, 1, 0, 1, 0, 2], r"workers must be in \[0, 2\)"),
        ("staleness", [0, 1, 1, 1, 1, 9], "cannot be 9 steps stale"),
        ("batch", [0, 1, 2, 3, 4, 4], "a batch was used twice"),
        ("clock", [0, 1, 2, 3, 4, 3], "clock must be finite"),
        ("batch", [0, 1, 2, 3, 4], "do not fit each other"),
        ("format", 2, "format 2, not 1"),
    ],
)
def test_a_trace_that_cannot_have_been_is_refused(path, column, entries, message):
    with np.load(path, allow_pickle=False) as archive:
        arrays = dict(archive)
    np.savez(path, **{**arrays, column: np.array(entries, arrays[column].dtype)})
    with pytest.raises(ValueError, match=message):
        read_recording(path)


def test_nothing_is_unpickled(path):
    with np.load(path, allow_pickle=False) as archive:
        arrays = dict(archive)
    np.savez(path, **{**arrays, "worker": np.array([print] * STEPS, object)})
    with pytest.raises(ValueError, match=r"not a complete checkpoint .*allow_pickle=False"):
        read_recording(path)


def test_an_archive_that_unpacks_to_more_than_it_is_is_refused(path):
    with np.load(path, allow_pickle=False) as archive:
        arrays = dict(archive)
    np.savez_compressed(path, **{**arrays, "more": np.zeros(10**7, np.uint8)})
    assert path.stat().st_size < 50_000
    with pytest.raises(ValueError, match=r"not a complete checkpoint .*its arrays are packed"):
        read_recording(path)


@pytest.mark.parametrize("shape", ["(10**18,)", "(1000000000000000000,)", "(-1,)", "(2**63,)"])
def test_an_array_of_a_shape_that_cannot_be_is_refused(path, shape):
    """In a header of a file that is whole otherwise."""
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    header = f"{{'descr': '<i4', 'fortran_order': False, 'shape': {shape}, }}".encode()
    header = header.ljust(117) + b"\n"
    entries["worker.npy"] = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    with pytest.raises(ValueError, match=r"run\.npz is not a complete .* delete it"):
        read_recording(path)


def test_actors_are_set_up_as_the_caller_is():
    plain, asked = process_for({"num_cpus": 2}), process_for({"num_gpus": 1})
    assert (plain.accelerated, plain.threads) == (False, 2)
    assert (asked.accelerated, asked.threads) == (True, 1)
    assert plain.settings["jax_enable_x64"] is False
    with jax.enable_x64(True):
        assert process_for({}).settings["jax_enable_x64"] is True


def test_a_trace_without_batches_says_so(tmp_path):
    (tmp_path / "trace.csv").write_text("worker,clock\n0,1.0\n")
    with pytest.raises(ValueError, match=r"trace\.csv has no column `batch`"):
        read_batch_order(tmp_path / "trace.csv")
