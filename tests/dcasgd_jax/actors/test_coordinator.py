"""Whatever arrives when, and whoever dies when, the recorded run is the run that was."""

import math
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dcasgd_jax import (
    dcasgd,
    read_trace,
    running_average,
    simulate,
    slot_simulator,
    write_trace,
)
from dcasgd_jax.actors import (
    Checkpoint,
    Cluster,
    Monitoring,
    read_batch_order,
    read_recording,
    reorder_batches,
    run_asynchronously,
    server,
    worker,
)
from tests.dcasgd_jax.actors.fake_ray import FakeRay, RayActorError

WORKERS, STEPS = 3, 30
PARAMS = {"w": jnp.array([1.0, -2.0, 0.5]), "b": jnp.array(0.25)}
RULE = dcasgd(0.1, 2.0, mean_square_decay=0.9)
DEATH = {"gradient": 0.06, "step": 0.03}
BATCHES = jax.random.normal(jax.random.key(0), (STEPS, 3))


@jax.grad
def gradient(params, batch):
    return jnp.sum(jnp.tanh(params["w"] * batch - params["b"]) ** 2)


JOB = gradient, PARAMS, RULE
simulator = slot_simulator(gradient, RULE, WORKERS, log_distance=True)
repeat = jax.jit(simulator.run)


def run(seed, *, death=None, room=math.inf, job=JOB, **options):
    """A run on a Ray within this process, and that Ray."""
    ray = FakeRay(np.random.default_rng(seed), death or {}, room)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "ray", ray)
        # What is set in an actor's process must not be set in this one.
        patch.setattr("dcasgd_jax.actors.process._SETTINGS", ())
        patch.setenv("NPROC", "1")
        options = {"num_steps": STEPS, "batches": BATCHES, **options}
        options.setdefault("cluster", Cluster(WORKERS))
        try:
            return *run_asynchronously(*job, **options), ray
        finally:
            assert all(actor.dead for actor in ray.actors)


def assert_close(got, due, *, rtol):
    """Weights, and of servers' states what is the server's: types, and values to rounding."""
    (params, server), (params_due, simulated) = got, due
    for ours, theirs in (
        (params, params_due),
        (server.params, simulated.params),
        (server.opt_state, simulated.opt_state),
        (server.model_state, simulated.model_state),
    ):
        assert jax.tree.structure(ours) == jax.tree.structure(theirs)
        for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
            assert (a.dtype, a.weak_type) == (b.dtype, b.weak_type)
            np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol / 10)


def assert_repeated(params, info):
    """The simulator makes the same of the trace: weights, optimiser state, distances."""
    state, log = repeat(simulator.init(PARAMS), info.schedule, reorder_batches(BATCHES, info.batch))
    np.testing.assert_array_equal(log.staleness, info.schedule.staleness)
    np.testing.assert_allclose(log.distance, info.distance, rtol=1e-5, atol=1e-6)
    assert_close((params, info.state), (state.params, state), rtol=1e-5)
    assert sorted(info.batch) == list(range(STEPS))  # each is used once


class Shared:
    """JAX, but for `jit`, which actors of one program share here: there are hundreds of them."""

    def __init__(self):
        self.known = {}

    def __getattr__(self, name):
        return getattr(jax, name)

    def jit(self, method, **options):
        actor = method.__self__
        program = actor._task.shards if hasattr(actor, "_task") else actor._duty.shard
        return self.known.setdefault((type(actor), program), jax.jit(method, **options))


@pytest.fixture(scope="module")
def shared():
    with pytest.MonkeyPatch.context() as patch:
        for module in (server, worker):
            patch.setattr(module, "jax", Shared())
        yield


@settings(derandomize=True, deadline=None, max_examples=10)
@given(data=st.data())
def test_deaths_and_stops_leave_a_run_that_the_simulator_repeats(shared, tmp_path_factory, data):
    """Workers and servers die, the program is stopped; each call goes on from the checkpoint."""
    path = tmp_path_factory.mktemp("run") / "run.npz"
    options = {
        "cluster": Cluster(WORKERS, num_servers=data.draw(st.sampled_from([1, 2]))),
        "checkpoint": Checkpoint(path, every=data.draw(st.integers(1, 9))),
    }
    stops = data.draw(st.lists(st.integers(0, STEPS - 1), max_size=3))
    seeds = iter(range(data.draw(st.integers(0, 99)), 10**6))
    kept = 0
    while True:
        stop = stops.pop() if stops else -1

        def on_step(step, stop=stop):
            if step == stop:
                raise KeyboardInterrupt

        try:
            params, info, _ = run(
                next(seeds), death=DEATH, monitoring=Monitoring(on_step=on_step), **options
            )
            break
        except (KeyboardInterrupt, RuntimeError):
            if path.exists():
                before, kept = kept, read_recording(path).batch.size
                assert kept >= before  # nothing that was kept is lost
    assert_repeated(params, info)


def test_a_trace_in_a_file_is_enough_to_repeat_a_run(tmp_path):
    params, info, ray = run(1)
    assert (info.replaced, info.restored, ray.deaths) == (0, 0, [])
    write_trace(info.schedule, tmp_path / "trace.csv", batch=info.batch)
    read = info._replace(
        schedule=read_trace(tmp_path / "trace.csv"),
        batch=read_batch_order(tmp_path / "trace.csv"),
    )
    assert read.schedule.num_workers == WORKERS
    assert_repeated(params, read)


def test_a_lost_gradient_gives_its_batch_back_and_the_new_worker_pulls_anew():
    params, info, ray = run(1, death=DEATH)
    assert info.replaced == ray.deaths.count("gradient") > 0
    assert info.restored > 0
    assert_repeated(params, info)
    # Without a checkpoint the servers begin again where the call began.
    assert np.all(np.diff(info.schedule.clock) >= 0)


def test_a_stop_keeps_the_steps_until_then(tmp_path):
    def stop(step):
        if step == 17:
            raise KeyboardInterrupt

    path = tmp_path / "run.npz"
    with pytest.raises(KeyboardInterrupt):
        run(2, checkpoint=Checkpoint(path, every=10), monitoring=Monitoring(on_step=stop))
    recorded = read_recording(path)
    assert recorded.batch.size == 18
    params, info, _ = run(3, checkpoint=path)
    np.testing.assert_array_equal(info.batch[:18], recorded.batch)
    np.testing.assert_array_equal(info.schedule.clock[:18], recorded.schedule.clock)
    np.testing.assert_array_equal(info.distance[:18], recorded.distance)
    assert_repeated(params, info)
    again, _, ray = run(4, checkpoint=path)  # a run that is over is not run again
    assert ray.actors == []
    np.testing.assert_array_equal(again["w"], params["w"])


@pytest.mark.parametrize(
    ("method", "workers", "message"),
    [
        ("gradient", 1, r"worker 0 died 4 times in a row, the last time on batch 0"),
        ("step", WORKERS, "the servers died 4 times after the checkpoint of step 0"),
    ],
)
def test_dying_again_and_again_ends_the_run(method, workers, message):
    with pytest.raises(RuntimeError, match=message) as error:
        run(0, death={method: 1.0}, cluster=Cluster(workers))
    assert isinstance(error.value.__cause__, RayActorError)


@pytest.mark.parametrize("deaths", [2, 3])
def test_servers_that_die_while_they_are_restored_are_tried_again(deaths, monkeypatch):
    starts, steps = [], []

    def start(self, *args):
        starts.append(args)
        if 1 < len(starts) <= 1 + deaths:  # the first is the run's own
            raise RayActorError("a server died as it started")
        return whole_start(self, *args)

    def step(self, *args):
        steps.append(args)
        if len(steps) == 6:
            raise RayActorError("a server died")
        return whole_step(self, *args)

    whole_start, whole_step = server.ParameterServer.start, server.ParameterServer.step
    monkeypatch.setattr(server.ParameterServer, "start", start)
    monkeypatch.setattr(server.ParameterServer, "step", step)
    if deaths == 3:
        with pytest.raises(RuntimeError, match=r"servers died 4 times .* step 0") as error:
            run(0)
        assert "as it started" in str(error.value.__cause__)
        return
    params, info, _ = run(0)
    assert (info.restored, len(starts)) == (3, 4)
    assert_repeated(params, info)


def test_what_a_killed_run_left_beside_its_checkpoint_is_removed(tmp_path):
    (tmp_path / ".run.npz.a1b2c3.part").write_text("the beginning")
    (tmp_path / ".other.npz.a1b2c3.part").write_text("another's")
    run(8, checkpoint=tmp_path / "run.npz")
    assert {file.name for file in tmp_path.iterdir()} == {"run.npz", ".other.npz.a1b2c3.part"}


def test_a_stop_while_a_checkpoint_is_written_keeps_it_again(tmp_path, monkeypatch):
    path, files, whole = tmp_path / "run.npz", [], np.savez

    def savez(file, **arrays):
        files.append(file.name)
        if len(files) == 2:
            raise KeyboardInterrupt
        whole(file, **arrays)

    monkeypatch.setattr("dcasgd_jax.actors.recording.np.savez", savez)
    with pytest.raises(KeyboardInterrupt):
        run(7, checkpoint=Checkpoint(path, every=10))
    assert read_recording(path).batch.size == 20


def test_a_batch_that_kills_whoever_takes_it_ends_the_run(monkeypatch):
    """Each of its workers is healthy: none dies twice in a row."""

    def gradient(self, batch_number, *snapshot):
        if batch_number == 5:
            raise RayActorError("a worker died")
        return whole(self, batch_number, *snapshot)

    whole = worker.GradientWorker.gradient
    monkeypatch.setattr(worker.GradientWorker, "gradient", gradient)
    with pytest.raises(RuntimeError, match="4 workers died on batch 5"):
        run(0)


def test_a_gradient_that_is_not_finite_names_worker_step_and_batch(tmp_path):
    path = tmp_path / "run.npz"
    spoilt = BATCHES.at[25, 0].set(jnp.nan)
    message = r"worker \d sent .* NaN .* server step 2\d, computed on batch 25 .* first 20 steps"
    with pytest.raises(FloatingPointError, match=message):
        run(5, batches=spoilt, checkpoint=Checkpoint(path, every=10))
    assert read_recording(path).batch.size == 20
    params, info, _ = run(6, checkpoint=path)  # the batch mended, it goes on
    assert_repeated(params, info)
    params, _, _ = run(6, batches=spoilt, monitoring=Monitoring(check_finite=False))
    assert np.isnan(params["w"]).any()


def test_a_full_disk_leaves_the_last_checkpoint(tmp_path, monkeypatch):
    path, files, whole = tmp_path / "run.npz", [], np.savez

    def savez(file, **arrays):
        files.append(file.name)
        if len(files) == 2:
            file.write(b"the beginning")
            raise OSError(28, "No space left on device")
        whole(file, **arrays)

    monkeypatch.setattr("dcasgd_jax.actors.recording.np.savez", savez)
    with pytest.raises(OSError, match="No space left"):
        run(7, checkpoint=Checkpoint(path, every=10))
    assert [file.name for file in tmp_path.iterdir()] == ["run.npz"]
    assert read_recording(path).batch.size == 10


def test_running_averages_and_small_snapshots_on_several_servers(x64):
    """In float64, snapshots sent in half the bytes: as the simulator has them."""
    rng = np.random.default_rng(5)
    params = {name: jnp.asarray(rng.normal(size=(3, 2))) for name in "abc"}
    batches = jnp.asarray(rng.normal(size=(STEPS, 4, 3)))
    options = {
        "model_state": {"mean": jnp.zeros(3)},
        "merge": running_average(0.9),
    }
    half = jnp.bfloat16

    def loss(params, model_state, batch):
        out = jnp.tanh(batch @ params["a"]) * (batch @ params["b"]) - batch @ params["c"]
        return jnp.mean(out**2), {"mean": batch.mean(0) + 0 * model_state["mean"]}

    rule = optax.chain(dcasgd(0.1, 0.5), optax.trace(0.5))
    job = jax.grad(loss, has_aux=True), params, rule
    cluster = Cluster(WORKERS, num_servers=3, snapshot_dtype=half)
    got, info, ray = run(0, job=job, batches=batches, cluster=cluster, **options)
    assert len(ray.actors) == WORKERS + 3
    again = reorder_batches(batches, info.batch)
    due, simulated = simulate(
        *job, info.schedule, again, snapshot_dtype=half, log_distance=True, **options
    )
    assert_close((got, info.state), (due, simulated.state), rtol=1e-12)
    np.testing.assert_allclose(simulated.distance, info.distance, rtol=1e-12)
