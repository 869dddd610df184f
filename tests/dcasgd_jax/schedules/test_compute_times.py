"""Random clusters: exact on their own draws, prefix by prefix, with the statistics they claim."""

import itertools
import time

import jax
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from dcasgd_jax import round_robin
from dcasgd_jax.schedules import compute_times
from dcasgd_jax.schedules.compute_times import (
    exponential_times,
    failure_times,
    gamma_times,
    straggler_times,
)
from dcasgd_jax.schedules.draws import COMPUTING, FAILURE, generator_of
from tests.oracles import event_queue

EXACT = settings(derandomize=True, deadline=None, max_examples=60)

CLUSTERS = {
    "gamma": (gamma_times, {"variation": 0.4}),
    "gamma, heterogeneous": (gamma_times, {"heterogeneity": 0.8}),
    "gamma, heavy tails": (gamma_times, {"variation": 5.0}),
    "exponential": (exponential_times, {}),
    "exponential, shifted": (exponential_times, {"least": 0.6, "heterogeneity": 0.3}),
    "straggler": (straggler_times, {}),
    "slowdowns": (straggler_times, {"slow_workers": 0, "slow_probability": 0.2}),
    "failures": (failure_times, {"time_to_failure": 20.0, "time_away": 5.0}),
    "failures all the time": (failure_times, {"time_to_failure": 0.5, "time_away": 0.0}),
}
ASYNCHRONOUS = [name for name in CLUSTERS if not name.startswith("failures")]


def make(name, num_workers, num_steps, **options):
    factory, settings_ = CLUSTERS[name]
    return factory(num_workers, num_steps, **settings_, **options)


@pytest.fixture(scope="module")
def attempts_of():
    """The computations that a factory draws, one at a time, as the oracle wants them."""

    def drawn(name, num_workers, **options):
        streams = []

        def overheard(given, num_steps, **kwargs):
            streams.extend(given)
            return round_robin(num_workers, num_steps)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(compute_times, "from_streams", overheard)
            make(name, num_workers, 0, **options)
        return [map(single, itertools.repeat(stream)) for stream in streams]

    def single(stream):
        attempts = stream(1)
        return float(attempts.time[0]), attempts.lost is not None and bool(attempts.lost[0])

    return drawn


@st.composite
def requests(draw):
    name = draw(st.sampled_from(list(CLUSTERS)))
    num_workers = draw(st.integers(1, 7))
    options = {
        "seed": draw(st.integers(0, 1000)),
        "wait_for": draw(st.none() | st.integers(1, num_workers)),
    }
    return name, num_workers, draw(st.integers(0, 250)), options


@EXACT
@given(request=requests())
def test_schedules_are_the_event_queues_on_the_same_draws(attempts_of, request):
    name, num_workers, num_steps, options = request
    # Machines that fail give up what they are at when a round ends: see below.
    assume(name in ASYNCHRONOUS or options["wait_for"] is None)
    schedule = make(name, num_workers, num_steps, **options)
    attempts = attempts_of(name, num_workers, **options)
    if options["wait_for"] is None:
        run = event_queue.asynchronous(attempts, num_steps)
    else:
        run = event_queue.rounds(attempts, num_steps, options["wait_for"])
    np.testing.assert_array_equal(schedule.worker, run.worker)
    np.testing.assert_array_equal(schedule.clock, run.clock)
    version = np.arange(num_steps) - schedule.staleness
    np.testing.assert_array_equal(version, run.version)
    reads = schedule.worker if schedule.reads is None else schedule.reads
    writes = schedule.worker if schedule.writes is None else schedule.writes
    assert event_queue.versions_read(reads, writes, num_workers) == run.version
    if options["wait_for"] is None or num_steps % options["wait_for"] == 0:
        # Closed form 2, for every cluster and protocol.
        ages = num_steps * num_workers - sum(run.held)
        assert schedule.staleness.sum() + ages + run.gone == (num_workers - 1) * num_steps


def failing_machine(seed, worker, to_failure, away, variation):
    """(seconds to compute, until a failure, away) of one computation after another."""
    times, failures = (generator_of(seed, worker, purpose) for purpose in (COMPUTING, FAILURE))
    shape = 1 / variation**2
    while True:
        until, gone = failures.standard_exponential(2) * (to_failure, away)
        yield times.standard_gamma(shape) / shape, until, gone


@EXACT
@given(
    seed=st.integers(0, 1000),
    sizes=st.integers(1, 7).flatmap(lambda m: st.tuples(st.just(m), st.integers(1, m))),
    num_steps=st.integers(0, 250),
    machine=st.sampled_from(
        [(20.0, 5.0, 0.1), (0.5, 0.0, 0.1), (5.0, 20.0, 1.0), (1.0, 1.0, 0.3), (2.0, 50.0, 2.0)]
    ),
)
def test_rounds_with_failures_are_those_of_machines_that_fail(seed, sizes, num_steps, machine):
    """Who gives up at a round's end, before its machine would have failed, does not fail."""
    num_workers, wait_for = sizes
    to_failure, away, variation = machine
    schedule = failure_times(
        num_workers,
        num_steps,
        seed=seed,
        variation=variation,
        time_to_failure=to_failure,
        time_away=away,
        wait_for=wait_for,
    )
    machines = [failing_machine(seed, worker, *machine) for worker in range(num_workers)]
    run = event_queue.failing_rounds(machines, num_steps, wait_for)
    np.testing.assert_array_equal(schedule.worker, run.worker)
    np.testing.assert_allclose(schedule.clock, run.clock, rtol=1e-12)
    np.testing.assert_array_equal(np.arange(num_steps) - schedule.staleness, run.version)
    np.testing.assert_array_equal(schedule.reads, np.zeros(num_steps))


@EXACT
@given(request=requests(), fewer=st.integers(0, 250))
def test_fewer_steps_are_a_prefix(request, fewer):
    name, num_workers, num_steps, options = request
    longer = make(name, num_workers, num_steps, **options)
    shorter = make(name, num_workers, min(fewer, num_steps), **options)
    prefix = jax.tree.map(lambda column: column[:fewer], longer)
    jax.tree.map(np.testing.assert_array_equal, shorter, prefix)
    for column, dtype in zip(("worker", "staleness", "clock"), "iid", strict=True):
        assert getattr(longer, column).dtype == np.dtype(dtype)


@pytest.mark.parametrize("name", ASYNCHRONOUS)
def test_staleness_and_ages_in_flight_add_up(name):
    """Closed form 2 from the schedule alone, over a long run: nothing is lost."""
    schedule = make(name, 12, 100_000, seed=3)
    last = [max(np.flatnonzero(schedule.worker == m), default=-1) for m in range(12)]
    ages = sum(100_000 - (arrival + 1) for arrival in last)
    assert schedule.staleness.sum(dtype=np.int64) + ages == 11 * 100_000


def test_a_prefix_of_a_long_run():
    for name in CLUSTERS:
        longer = make(name, 16, 60_000, seed=0)
        shorter = make(name, 16, 700, seed=0)
        prefix = jax.tree.map(lambda column: column[:700], longer)
        jax.tree.map(np.testing.assert_array_equal, shorter, prefix)


@pytest.mark.parametrize("wait_for", [None, 3, 5])
def test_without_variation_the_workers_take_turns(wait_for):
    regular = round_robin(5, 42, compute_time=0.5, wait_for=wait_for)
    for schedule in (
        gamma_times(5, 42, seed=0, mean=0.5, variation=0.0, wait_for=wait_for),
        exponential_times(5, 42, seed=0, mean=0.5, least=1.0, wait_for=wait_for),
    ):
        jax.tree.map(np.testing.assert_array_equal, schedule, regular)


def test_clusters_with_one_seed_differ_by_what_they_add_only():
    common = {"seed": (1, 2), "variation": 0.3}
    plain = gamma_times(6, 500, **common)
    for schedule in (
        straggler_times(6, 500, slowdown=1.0, **common),
        straggler_times(6, 500, slow_workers=0, **common),
        failure_times(6, 500, time_to_failure=1e12, **common),
    ):
        for column in ("worker", "staleness", "clock"):
            np.testing.assert_array_equal(getattr(schedule, column), getattr(plain, column))


def test_a_larger_cluster_begins_with_the_smaller_ones_workers():
    small, large = (gamma_times(m, 2000, seed=5, heterogeneity=0.5) for m in (3, 9))
    until = min(small.clock[-1], large.clock[-1])
    for worker in range(3):
        done = [s.clock[(s.worker == worker) & (s.clock <= until)] for s in (small, large)]
        np.testing.assert_array_equal(*done)


def test_seeds_are_streams():
    seeds = (0, 1, 2, (0, 1), (1, 1), [0, 1, 2])
    assert len({gamma_times(2, 50, seed=seed).clock[-1] for seed in seeds}) == len(seeds)
    first, second = gamma_times(2, 50, seed=0, wait_for=2).clock[:2]
    assert first != second  # nor do workers share a stream


def times_of(schedule, worker):
    return np.diff(schedule.clock[schedule.worker == worker], prepend=0.0)


def test_gamma_times_have_the_mean_and_variation_asked_for():
    schedule = gamma_times(4, 80_000, seed=0, mean=[0.5, 1.0, 2.0, 4.0], variation=0.3)
    for worker, mean in enumerate([0.5, 1.0, 2.0, 4.0]):
        times = times_of(schedule, worker)
        assert times.mean() == pytest.approx(mean, rel=4 * 0.3 / np.sqrt(times.size))
        assert times.std() / mean == pytest.approx(0.3, rel=0.03)
        # A gamma distribution's third moment: skewness twice the coefficient of variation.
        assert ((times - mean) ** 3).mean() / (0.3 * mean) ** 3 == pytest.approx(0.6, abs=0.15)


def test_machines_have_the_mean_and_variation_asked_for():
    schedule = gamma_times(
        2000, 8000, seed=0, mean=3.0, variation=0.0, heterogeneity=0.6, wait_for=2000
    )
    start = np.repeat([0.0, *schedule.clock[1999:-1:2000]], 2000)
    means = (schedule.clock - start)[:2000]
    assert means.mean() == pytest.approx(3.0, rel=4 * 0.6 / np.sqrt(2000))
    assert means.std() / means.mean() == pytest.approx(0.6, rel=0.1)
    # They are drawn once.
    np.testing.assert_allclose((schedule.clock - start)[2000:4000], means, rtol=1e-12)


def test_exponential_workers_are_exchangeable_and_have_no_memory():
    schedule = exponential_times(8, 200_000, seed=1)
    staleness = schedule.staleness[1000:]
    for tau in range(5):  # geometric
        expected = 7**tau / 8 ** (tau + 1)
        assert np.mean(staleness == tau) == pytest.approx(expected, rel=0.03)
    assert staleness.mean() == pytest.approx(7.0, rel=0.01)
    assert schedule.clock[-1] == pytest.approx(200_000 / 8, rel=0.01)


def test_rounds_of_exponential_workers_take_harmonic_times():
    """The m-th of M exponential times is 1/M + 1/(M-1) + ... + 1/(M-m+1) on average."""
    for wait_for in (1, 12, 16):
        schedule = exponential_times(16, 5000 * wait_for, seed=2, mean=2.0, wait_for=wait_for)
        expected = 2.0 * sum(1 / (16 - i) for i in range(wait_for))
        assert schedule.clock[-1] / 5000 == pytest.approx(expected, rel=0.04)


def test_exponential_times_are_never_below_the_least():
    times = times_of(exponential_times(3, 30_000, seed=0, mean=2.0, least=0.25), 1)
    assert times.min() == pytest.approx(0.5, abs=1e-3)
    assert times.mean() == pytest.approx(2.0, rel=0.03)
    assert times.std() == pytest.approx(1.5, rel=0.05)


def test_stragglers_are_slow_by_the_factor():
    schedule = straggler_times(6, 50_000, seed=0, slowdown=8.0, slow_workers=2)
    means = [times_of(schedule, worker).mean() for worker in range(6)]
    np.testing.assert_allclose(means, [1, 1, 1, 1, 8, 8], rtol=0.01)
    schedule = straggler_times(
        3, 60_000, seed=0, slowdown=4.0, slow_workers=0, slow_probability=0.1, variation=0.05
    )
    assert np.mean(times_of(schedule, 0) > 2.0) == pytest.approx(0.1, abs=0.01)
    # Both at once: the slow machine has its slow moments too.
    schedule = straggler_times(3, 60_000, seed=0, slowdown=4.0, slow_probability=0.1)
    assert times_of(schedule, 2).mean() == pytest.approx(4 * (0.9 + 0.1 * 4), rel=0.03)


def test_failures_take_the_share_of_time_that_renewal_theory_says():
    """Every attempt of length d takes F (1 - p) + (1 - p) A, p = exp(-d / F): rate p over that."""
    to_failure, away, length = 5.0, 3.0, 1.0
    schedule = failure_times(
        4, 40_000, seed=0, variation=0.0, time_to_failure=to_failure, time_away=away
    )
    success = np.exp(-length / to_failure)
    per_attempt = (1 - success) * (to_failure + away)
    rate = 40_000 / schedule.clock[-1] / 4
    assert rate == pytest.approx(success / per_attempt, rel=0.01)
    # Steps lost for each step taken: those that the other three make meanwhile.
    wasted = (per_attempt - success * length) / success
    lost = 3 - schedule.staleness.mean()
    assert lost == pytest.approx(3 * rate * wasted, rel=0.05)


def test_nobody_pulls_while_away():
    """Right after a long absence the snapshot is the one of the return."""
    schedule = failure_times(3, 3000, seed=0, variation=0.0, time_to_failure=10.0, time_away=50.0)
    # Where each computation takes a second, none spans more than the steps of one second of two.
    assert schedule.staleness.max() <= 4
    assert times_of(schedule, 0).max() > 100.0


def test_asynchrony_outruns_waiting_and_restarts_outrun_heavy_tails():
    for name in CLUSTERS:
        sizes = {"num_workers": 8, "num_steps": 2400, "seed": 4}
        asynchronous, first_four, synchronous = (
            make(name, wait_for=m, **sizes).clock[-1] for m in (None, 4, 8)
        )
        assert asynchronous < synchronous
        # Giving up what takes long and drawing anew is as good as faster machines.
        assert (first_four < asynchronous) == (name in ("gamma, heavy tails", "slowdowns"))


def test_a_million_events_are_made_whole_in_under_a_second():
    for name in ("gamma", "gamma, heterogeneous", "failures"):
        began = time.process_time()
        schedule = make(name, 16, 1_000_000, seed=0)
        assert time.process_time() - began < 1.0  # of computing: 0.2 to 0.4 on one core
        assert schedule.worker.size == 1_000_000
        assert (np.diff(schedule.clock) >= 0).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: gamma_times(0, 5, seed=0), "num_workers=0"),
        (lambda: gamma_times(2, -1, seed=0), "num_steps=-1"),
        (lambda: gamma_times(2, 5, seed=0, wait_for=3), r"in \[1, 2\], .* got 3"),
        (lambda: gamma_times(2, 5, seed=0, mean=0.0), "mean must be finite and positive, got 0.0"),
        (lambda: gamma_times(2, 5, seed=0, mean=[1.0, np.inf]), "finite and positive"),
        (lambda: gamma_times(2, 5, seed=0, mean=[1.0] * 3), r"= \(2,\), got shape \(3,\)"),
        (lambda: gamma_times(2, 5, seed=0, variation=-0.1), "variation must be .* got -0.1"),
        (lambda: gamma_times(2, 5, seed=0, variation=np.nan), "variation must be .* got nan"),
        (lambda: gamma_times(2, 5, seed=0, heterogeneity=np.inf), "heterogeneity must be"),
        (lambda: exponential_times(2, 5, seed=0, least=1.5), "at most 1 and at least 0, got 1.5"),
        (lambda: straggler_times(2, 5, seed=0, slowdown=0.5), "at least 1, got 0.5"),
        (lambda: straggler_times(2, 5, seed=0, slow_workers=3), r"in \[0, 2\], got 3"),
        (lambda: straggler_times(2, 5, seed=0, slow_probability=1.1), "got 1.1"),
        (lambda: straggler_times(4, 10, seed=0, slow_workers=True), "an int, got True"),
        (lambda: failure_times(2, 5, seed=0, time_away=-1.0), "time_away must be .* got -1.0"),
        (lambda: failure_times(2, 5, seed=0, mean=5.0, time_to_failure=0.4), "at least 0.5, got"),
    ],
)
def test_errors_name_what_came(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("seed", [None, "7", 0.5, -1, (0, None), ["7"]])
def test_what_is_no_seed_and_half_a_slow_worker_are_refused(seed, unchecked):
    """NumPy would draw a seed of its own for None, so that no run could be made again."""
    with pytest.raises(ValueError, match=r"seed must be a whole number >= 0, or .* got"):
        gamma_times(2, 5, seed=seed)
    with pytest.raises(ValueError, match=r"slow_workers must be a whole number, an int, got 1\.5"):
        straggler_times(4, 10, seed=0, slow_workers=1.5)
