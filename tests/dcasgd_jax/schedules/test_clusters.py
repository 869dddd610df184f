"""Clusters as they are: event by event what a plain loop makes of the same draws."""

import itertools
import math

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dcasgd_jax import (
    Quorum,
    Transfers,
    cluster_times,
    day_and_night,
    gamma_times,
    markov_availability,
    merge_ends,
    recorded_availability,
)
from dcasgd_jax.schedules import arrivals, presence, quorum
from dcasgd_jax.schedules.draws import COMPUTING, gamma_draws, generator_of
from tests.oracles import event_queue, federation

EXACT = settings(derandomize=True, deadline=None, max_examples=40)


def seconds_of(worker, seed, variation, transfers):
    """The worker's computations with their transfers, one at a time."""
    draw = gamma_draws(generator_of(seed, worker, COMPUTING), variation)
    down, up = transfers
    while True:
        yield float(down[worker] + 1.0 * draw(1)[0] + up[worker])


@st.composite
def clusters(draw):
    num_workers = draw(st.integers(1, 6))
    seed = draw(st.integers(0, 1000))
    variation = draw(st.sampled_from([0.2, 1.0]))
    rng = np.random.default_rng(seed)
    transfers = rng.random((2, num_workers)) * draw(st.sampled_from([0.0, 2.0]))
    # Worker 0 stays, so that something is always done.
    periods = [[(0.0, math.inf)]]
    for worker in range(1, num_workers):
        edges = np.cumsum(rng.exponential(3.0, 2 * draw(st.integers(0, 40))))
        pairs = [(float(a), float(b)) for a, b in edges.reshape(-1, 2)]
        periods.append([(0.0, math.inf)] if worker % 3 == 2 else pairs)
    steps = draw(st.integers(0, 120))
    return num_workers, steps, seed, variation, transfers, periods


def ours(cluster, wait_for, num_steps=None):
    num_workers, steps, seed, variation, transfers, periods = cluster
    return cluster_times(
        num_workers,
        steps if num_steps is None else num_steps,
        seed=seed,
        variation=variation,
        transfers=Transfers(*transfers),
        availability=recorded_availability(periods),
        wait_for=wait_for,
    )


def theirs(cluster, num_steps, **protocol):
    num_workers, _, seed, variation, transfers, periods = cluster
    times = [seconds_of(m, seed, variation, transfers) for m in range(num_workers)]
    return federation.run(times, periods, max(num_steps, 1), **protocol)


def check_slots(schedule, version):
    reads = schedule.worker if schedule.reads is None else schedule.reads
    writes = schedule.worker if schedule.writes is None else schedule.writes
    assert event_queue.versions_read(reads, writes, schedule.num_workers) == version


@EXACT
@given(cluster=clusters())
def test_without_rounds_events_are_those_of_the_plain_loop(cluster):
    steps = cluster[1]
    schedule = ours(cluster, None)
    # Who waits for nobody merges each update at once.
    run = theirs(cluster, steps, quorum=1, late="stale")
    np.testing.assert_array_equal(schedule.worker, run.worker[:steps])
    np.testing.assert_allclose(schedule.clock, run.clock[:steps], rtol=1e-12)
    np.testing.assert_array_equal(np.arange(steps) - schedule.staleness, run.version[:steps])
    check_slots(schedule, run.version[:steps])
    assert merge_ends(schedule).all()


@EXACT
@given(
    cluster=clusters(),
    size=st.integers(1, 6),
    grace=st.sampled_from([0.0, 0.3, 2.0]),
    late=st.sampled_from(["dropped", "stale"]),
)
def test_rounds_are_those_of_the_plain_loop(cluster, size, grace, late):
    steps = cluster[1]
    stay = sum(each == [(0.0, math.inf)] for each in cluster[-1])
    size = min(size, stay)  # a larger quorum may never be met
    schedule = ours(cluster, Quorum(size, grace, late))
    run = theirs(cluster, steps, quorum=size, grace=grace, late=late)
    np.testing.assert_array_equal(schedule.worker, run.worker[:steps])
    np.testing.assert_array_equal(schedule.clock, run.clock[:steps])
    np.testing.assert_array_equal(np.arange(steps) - schedule.staleness, run.version[:steps])
    np.testing.assert_array_equal(merge_ends(schedule), run.ends[:steps])
    check_slots(schedule, run.version[:steps])
    fewer = ours(cluster, Quorum(size, grace, late), num_steps=steps // 2)
    jax.tree.map(
        np.testing.assert_array_equal, fewer, jax.tree.map(lambda c: c[: steps // 2], schedule)
    )
    if late == "dropped":
        place = np.arange(steps) - np.maximum.accumulate(
            np.where(np.roll(merge_ends(schedule), 1), np.arange(steps), 0)
        )
        np.testing.assert_array_equal(schedule.staleness, place)


@pytest.mark.parametrize("wait_for", [None, 1, 3, 5])
def test_where_all_stay_and_nothing_is_sent_it_is_the_gamma_cluster(wait_for):
    options = {"seed": 2, "variation": 0.6, "heterogeneity": 0.4, "wait_for": wait_for}
    jax.tree.map(
        np.testing.assert_array_equal,
        cluster_times(5, 150, **options),
        gamma_times(5, 150, **options),
    )


@pytest.mark.parametrize(("wait_for", "portion"), [(1, 5), (3, 35), (5, 2**20)])
def test_rounds_of_workers_that_stay_are_those_event_by_event(wait_for, portion, monkeypatch):
    monkeypatch.setattr(arrivals, "PORTION", portion)  # one round, seven, or all at once
    options = {
        "seed": 4, "variation": 0.6, "heterogeneity": 0.4, "wait_for": wait_for,
        "transfers": Transfers(np.arange(5) / 3, 0.2),
    }  # fmt: skip
    always = recorded_availability([[(0.0, math.inf)]] * 5)
    jax.tree.map(
        np.testing.assert_array_equal,
        cluster_times(5, 153, **options),
        cluster_times(5, 153, availability=always, **options),
    )


def test_absences_leave_the_others_draws_alone():
    periods = recorded_availability([[(0.0, 20.0), (50.0, math.inf)], [(0.0, math.inf)]])
    there, away = (cluster_times(2, 200, seed=0, availability=a) for a in (None, periods))
    until = min(there.clock[-1], away.clock[-1])
    kept = [s.clock[(s.worker == 1) & (s.clock <= until)] for s in (there, away)]
    np.testing.assert_allclose(*kept, rtol=1e-12)
    arrivals = away.clock[away.worker == 0]
    assert not ((arrivals > 20.0) & (arrivals < 50.0)).any()


def test_memoryless_presence_costs_what_renewal_theory_says():
    """Of deterministic work of length d, a share exp(-d / F) succeeds, as in `failure_times`."""
    there, away = 5.0, 3.0
    schedule = cluster_times(
        4, 20_000, seed=1, variation=0.0, availability=markov_availability(there, away)
    )
    success = np.exp(-1.0 / there)
    rate = success / ((1 - success) * (there + away))
    assert 20_000 / schedule.clock[-1] / 4 == pytest.approx(rate, rel=0.02)


def test_nobody_works_at_night():
    schedule = cluster_times(
        3, 2000, seed=0, availability=day_and_night(40.0, 60.0, phase=[0.0, 0.0, 50.0])
    )
    hour = np.where(schedule.worker < 2, schedule.clock, schedule.clock + 50.0) % 100.0
    assert ((hour <= 40.0) | (hour > 100.0 - 1e-9)).all()


def test_uploads_make_gradients_stale_as_computing_does():
    slow = Transfers(download=3.0, upload=np.array([1.0, 5.0]))
    schedule = cluster_times(2, 30, seed=0, variation=0.0, transfers=slow)
    assert schedule.clock[:3].tolist() == [5.0, 9.0, 10.0]
    assert schedule.staleness[:3].tolist() == [0, 1, 1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"wait_for": Quorum(3)}, r"in \[1, 2\], .* got 3"),
        ({"wait_for": Quorum(1, -1.0)}, "grace must be finite and at least 0, got -1.0"),
        ({"wait_for": Quorum(1, 0.0, "lost")}, "late must be 'dropped' or 'stale', got 'lost'"),
        ({"transfers": Transfers(1.0, [1.0] * 3)}, r"upload must be .* = \(2,\), got shape \(3,\)"),
        ({"transfers": Transfers(-1.0)}, "download must be finite and >= 0"),
        ({"availability": lambda m, _: iter([1.0])}, "must be pairs .* got 1.0 of worker 0"),
        ({"heterogeneity": 30.0}, "heterogeneity 30 makes machines of zero seconds"),
        ({"availability": lambda m, _: [(0.0, 9.0)]}, "gone for good after .* 100 steps were"),
        (
            {"availability": lambda m, _: [(0.0, 9.0)], "wait_for": 2},
            "fewer than the quorum of 2 are left",
        ),
        (
            {"availability": lambda m, _: ((2.0 * k, 2.0 * k + 0.1) for k in itertools.count())},
            "worker 0 has begun 50 computations in a row",
        ),
        (
            {
                "availability": lambda m, _: ((2.0 * k, 2.0 * k + 0.1) for k in itertools.count()),
                "wait_for": 1,
            },
            "workers have come and gone 101 times without one",
        ),
        ({"availability": lambda m, _: [(1.0, 3.0), (3.0, 9.0)]}, "ascending and apart, got .3.0"),
        ({"availability": recorded_availability([[(0.0, 9.0)]])}, "worker 1 is asked for"),
        ({"availability": markov_availability, "num_workers": 2**21}, "at most 1,048,576 workers"),
    ],
)
def test_errors_name_what_came(options, message, monkeypatch):
    for module in (presence, quorum):
        monkeypatch.setattr(module, "MOST_LOST", 50)
    options = {"num_workers": 2, "num_steps": 100, "seed": 0, **options}
    with pytest.raises(ValueError, match=message):
        cluster_times(options.pop("num_workers"), options.pop("num_steps"), **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"transfers": None}, "transfers must be a Transfers, .* got None"),
        ({"availability": [[(0.0, 1.0)]]}, "take recorded_availability"),
    ],
)
def test_arguments_of_another_kind_are_refused(options, message):
    unchecked = cluster_times.__wrapped__  # without the type checker of tests
    with pytest.raises(ValueError, match=message):
        unchecked(2, 9, seed=0, **options)
