"""The wavefront engine: the run of the slot engine, and of a plain parameter server."""

import functools
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dcasgd_jax import (
    Engine,
    Together,
    dcasgd,
    failure_times,
    from_arrivals,
    gamma_times,
    round_robin,
    simulate,
    slot_simulator,
    wavefront_simulator,
    waves,
)
from dcasgd_jax.simulator.chunks import ALL_SLOTS, ANY_SLOTS, ONE_SLOT, cut_into_chunks
from tests.dcasgd_jax.networks import assert_same_bits, batches_of, gradient, weights_of
from tests.oracles import parameter_server

SIZES, STEPS, WORKERS = (4, 3), 24, 4


def problem(dtype=np.float32):
    rng = np.random.default_rng(0)
    return weights_of(SIZES, rng, dtype), batches_of(STEPS, 3, SIZES, rng, dtype)


def schedules():
    return {
        "round-robin": round_robin(WORKERS, STEPS),
        "gamma": gamma_times(WORKERS, STEPS, seed=3, variation=0.5),
        "rounds": gamma_times(WORKERS, STEPS, seed=3, variation=0.5, wait_for=3),
        "failures": failure_times(WORKERS, STEPS, seed=4, time_to_failure=3.0, time_away=2.0),
    }


def rule():
    return dcasgd(
        lambda step: 0.3 / (1.0 + (step // 8).astype(jnp.float32)),  # by epochs of 8 batches
        2.0,
        mean_square_decay=0.9,
        momentum=0.5,
        weight_decay=1e-2,
    )


@pytest.mark.parametrize("protocol", ["round-robin", "gamma", "rounds", "failures"])
def test_both_engines_make_the_same_run(protocol):
    params, batches = problem()
    schedule = schedules()[protocol]
    run = functools.partial(
        simulate, gradient, params, rule(), schedule, batches, log_distance=True
    )
    (slots, expected), (together, info) = run(engine="slots"), run(engine="wavefront")
    chex.assert_trees_all_close(together, slots, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(info.staleness, expected.staleness)
    np.testing.assert_array_equal(info.staleness, schedule.staleness)
    np.testing.assert_allclose(info.distance, expected.distance, rtol=1e-3, atol=1e-6)


@pytest.mark.usefixtures("optimised")
def test_unrolled_gradients_make_the_same_run_to_the_bit():
    """Driven on both sides, so that each gradient is compiled in a program without a loop."""
    params, batches = problem()
    schedule = schedules()["gamma"]
    slots = slot_simulator(gradient, rule(), WORKERS, loop="driven")
    wavefront = wavefront_simulator(gradient, rule(), WORKERS, loop="driven", together="unrolled")
    expected, log = slots.run(slots.init(params), schedule, batches)
    got, own_log = wavefront.run(wavefront.init(params), schedule, batches)
    assert_same_bits(got.params, expected.params)
    assert_same_bits(own_log, log)


@functools.cache
def simulators():
    """One program a kind of chunk, shared by all draws: hyperparameters are in the state."""
    tx = optax.inject_hyperparams(dcasgd, static_args=("mean_square_decay",))(
        learning_rate=0.1, lambda_=1.0, mean_square_decay=0.95, momentum=0.5, weight_decay=0.01
    )
    return [
        make(gradient, tx, WORKERS, loop="driven", log_distance=True)
        for make in (slot_simulator, wavefront_simulator)
    ]


@settings(derandomize=True, deadline=None, max_examples=15)
@given(
    worker=st.lists(st.integers(0, WORKERS - 1), min_size=STEPS, max_size=STEPS),
    learning_rate=st.sampled_from([0.05, 0.4]),
    lambda_=st.sampled_from([0.0, 0.04, 2.0]),
    momentum=st.sampled_from([0.0, 0.7]),
    weight_decay=st.sampled_from([0.0, 1e-2]),
)
def test_the_plain_parameter_server_gives_the_same_weights(
    worker, learning_rate, lambda_, momentum, weight_decay
):
    """Both engines against a server written independently in NumPy, in float64."""
    schedule = from_arrivals(worker, np.arange(STEPS), num_workers=WORKERS)
    numbers = {
        "learning_rate": learning_rate,
        "lambda_": lambda_,
        "momentum": momentum,
        "weight_decay": weight_decay,
    }
    with jax.enable_x64(True):
        params, batches = problem(np.float64)
        finished = []
        for simulator in simulators():
            state = simulator.init(params)
            injected: Any = state.opt_state
            for name, value in numbers.items():
                kept = injected.hyperparams[name]
                injected.hyperparams[name] = jnp.asarray(value, kept.dtype)
            finished.append(simulator.run(state, schedule, batches))
    server = parameter_server.ParameterServer(params, WORKERS, rule="dcasgd-a", **numbers)
    listed = [(np.asarray(x), np.asarray(y)) for x, y in zip(*batches, strict=True)]
    distances = parameter_server.train(server, worker, listed)
    for state, log in finished:
        for ours, theirs in zip(state.params, server.weights, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-11)
        np.testing.assert_allclose(log.distance, distances, rtol=1e-9, atol=1e-11)


@pytest.mark.usefixtures("optimised")
@pytest.mark.parametrize("loop", ["scan", "driven"])
@pytest.mark.parametrize("engine", ["slots", "wavefront"])
def test_a_run_resumed_from_numbers_on_disk_goes_on_to_the_bit(engine, loop, tmp_path):
    params, batches = problem()
    schedule = schedules()["gamma"]
    make = {"slots": slot_simulator, "wavefront": wavefront_simulator}[engine]
    simulator = make(gradient, optax.sgd(0.1, momentum=0.9), WORKERS, loop=loop)
    whole, _ = simulator.run(simulator.init(params), schedule, batches)
    start = waves(schedule).start
    cut = int(start[start.size // 2])
    assert 0 < cut < STEPS
    head, tail = (
        jax.tree.map(lambda x, s=s: x[s], (schedule, batches))
        for s in (slice(0, cut), slice(cut, STEPS))
    )
    state, _ = simulator.run(simulator.init(params), *head)
    leaves, structure = jax.tree.flatten(state)
    np.savez(tmp_path / "state.npz", *leaves)
    with np.load(tmp_path / "state.npz") as stored:
        restored = jax.tree.unflatten(structure, [jnp.asarray(stored[k]) for k in stored.files])
    assert_same_bits(simulator.run(restored, *tail)[0], whole)


def test_hyperparameters_can_be_vmapped_over():
    params, batches = problem()
    schedule = schedules()["gamma"]

    def train(rate, engine):
        return simulate(gradient, params, dcasgd(rate, 0.5), schedule, batches, engine=engine)[0]

    rates = jnp.array([0.05, 0.3])
    many = jax.jit(jax.vmap(lambda rate: train(rate, "wavefront")))(rates)
    for i in range(2):
        one = train(rates[i], "slots")
        chex.assert_trees_all_close(
            jax.tree.map(lambda w, i=i: w[i], many), one, rtol=1e-4, atol=1e-5
        )


@settings(derandomize=True, deadline=None, max_examples=50)
@given(
    worker=st.lists(st.integers(0, 6), min_size=1, max_size=60),
    longest=st.none() | st.integers(1, 9),
    multiple=st.integers(1, 4),
    wait_for=st.none() | st.integers(1, 7),
)
def test_chunks_cover_the_schedule_and_depend_on_nothing_within(
    worker, longest, multiple, wait_for
):
    if wait_for is None:
        schedule = from_arrivals(worker, np.arange(len(worker)), num_workers=7)
    else:
        schedule = round_robin(7, len(worker), wait_for=wait_for)
    reads = schedule.worker if schedule.reads is None else schedule.reads
    at = 0
    chunks = cut_into_chunks(schedule, reads, longest=longest, multiple=multiple)
    for start, (width, reading) in chunks:
        assert start == at
        assert longest is None or width <= longest
        own = slice(start, start + width)
        assert (np.arange(start, start + width) - schedule.staleness[own] <= start).all()
        assert reading in (ANY_SLOTS, ONE_SLOT, ALL_SLOTS)
        if reading == ALL_SLOTS:
            assert sorted(reads[own]) == list(range(7))
        if reading == ONE_SLOT:
            assert np.unique(reads[own]).size == 1
        at += width
    assert at == len(worker)


def test_a_chunk_holds_no_more_than_it_says():
    """Peak memory beyond arguments and results, in copies of the parameters."""
    params = jnp.zeros((256, 256))
    copy = params.nbytes

    def grad_fn(w, x):
        return w * x  # no activations: what is left is the engine's own

    def temporaries(engine, **options):
        make = {"slots": slot_simulator, "wavefront": wavefront_simulator}[engine]
        simulator = make(grad_fn, optax.sgd(0.1), 8, loop="scan", **options)
        schedule = round_robin(8, 32)
        compiled = (
            jax.jit(lambda s, b: simulator.run(s, schedule, b), donate_argnums=0)
            .lower(simulator.init(params), jnp.ones(32))
            .compile()
        )
        memory: Any = compiled.memory_analysis()
        held = memory.argument_size_in_bytes + memory.output_size_in_bytes
        return (held - memory.alias_size_in_bytes + memory.temp_size_in_bytes) / copy

    # The state itself is M + 1 copies; batches and the log are less than a hundredth of one.
    assert temporaries("slots") <= 8 + 3 + 0.01
    whole = temporaries("wavefront")
    bounded = temporaries("wavefront", together=Together(longest=2))
    assert whole <= 8 + 3 + 8 + 0.01
    assert bounded <= 8 + 3 + 2 * 2 + 0.01
    assert bounded < whole


@pytest.mark.usefixtures("unchecked")
def test_errors_name_what_came():
    params, batches = problem()
    schedule = schedules()["gamma"]
    simulator = wavefront_simulator(gradient, optax.sgd(0.1), WORKERS)
    state = simulator.init(params)
    with pytest.raises(ValueError, match="close over the schedule, or use engine='slots'"):
        jax.jit(simulator.run)(state, schedule, batches)
    make = functools.partial(wavefront_simulator, gradient, optax.sgd(0.1), WORKERS)
    with pytest.raises(ValueError, match="'pmap' or 'unrolled', got 'map'"):
        make(together="map")
    with pytest.raises(ValueError, match="loop must be 'auto', 'scan' or 'driven', got 'fast'"):
        make(loop="fast")
    with pytest.raises(ValueError, match="shard_snapshots needs a mesh"):
        make(shard_snapshots=True)
    with pytest.raises(ValueError, match="floating-point dtype"):
        make(snapshot_dtype=jnp.int8)
    with pytest.raises(ValueError, match="longest must be None or at least 1, got 0"):
        make(together=Together(longest=0)).run(state, schedule, batches)
    mesh = jax.make_mesh((1,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))
    with pytest.raises(ValueError, match="engine='slots' computes on one device"):
        simulate(
            gradient, params, optax.sgd(0.1), schedule, batches, engine=Engine("slots", mesh=mesh)
        )


@pytest.mark.parametrize("engine", ["slots", "wavefront"])
def test_without_distances_the_run_is_the_same(engine):
    params, batches = problem()
    sim = functools.partial(
        simulate, gradient, params, rule(), schedules()["gamma"], batches, engine=engine
    )
    with_log, _ = sim(log_distance=True)
    without, info = sim()
    assert info.distance is None
    assert len(info.staleness) == STEPS
    chex.assert_trees_all_close(without, with_log, rtol=1e-6)
