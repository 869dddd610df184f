"""Arrival schedules: staleness, clock, and the conservation of waiting."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dcasgd_jax import Schedule, from_arrivals, from_compute_times, round_robin
from tests.oracles.parameter_server import event_queue

pytestmark = pytest.mark.usefixtures("optimised")

EXACT = settings(derandomize=True, deadline=None, max_examples=50)


@st.composite
def traces(draw):
    """(worker, num_workers): any order of arrivals, workers that never report among them."""
    num_workers = draw(st.integers(1, 12))
    worker = draw(st.lists(st.integers(0, num_workers - 1), max_size=60))
    return np.array(worker, np.int64), num_workers


@st.composite
def compute_times(draw):
    """Times in quarter seconds, so that ties are frequent and sums exact."""
    num_workers, draws = draw(st.integers(1, 6)), draw(st.integers(1, 12))
    quarter = st.integers(1, 12).map(lambda n: n / 4)
    return [[draw(quarter) for _ in range(draws)] for _ in range(num_workers)]


@EXACT
@given(traces())
def test_staleness_and_ages_in_flight_add_up(trace):
    """Closed form 2: sum of staleness + ages still in flight = (M - 1) T, whatever the order."""
    worker, num_workers = trace
    schedule = from_arrivals(worker, np.arange(worker.size), num_workers=num_workers)
    last = [max(np.flatnonzero(worker == m), default=-1) for m in range(num_workers)]
    ages = sum(worker.size - (arrival + 1) for arrival in last)
    assert schedule.staleness.sum() + ages == (num_workers - 1) * worker.size


@EXACT
@given(compute_times())
def test_compute_times_lead_to_the_event_queues_arrivals(times):
    done = np.cumsum(times, axis=1)
    num_steps = int((done <= done[:, -1].min()).sum())
    schedule = from_compute_times(times, num_steps)
    clock, worker, staleness = zip(*event_queue(times, num_steps), strict=True)
    np.testing.assert_array_equal(schedule.clock, clock)
    np.testing.assert_array_equal(schedule.worker, worker)
    np.testing.assert_array_equal(schedule.staleness, staleness)
    with pytest.raises(ValueError, match=f"settle the first {num_steps} arrivals"):
        from_compute_times(times, num_steps + 1)


@EXACT
@given(st.integers(1, 9), st.integers(0, 40))
def test_round_robin_is_what_equal_compute_times_lead_to(num_workers, num_steps):
    schedule = round_robin(num_workers, num_steps, compute_time=0.5)
    rounds = num_steps // num_workers + 1
    by_events = from_compute_times(np.full((num_workers, rounds), 0.5), num_steps)
    jax.tree.map(np.testing.assert_array_equal, schedule, by_events)


def test_constant_staleness_of_round_robin():
    schedule = round_robin(4, 12)
    np.testing.assert_array_equal(schedule.staleness, [0, 1, 2] + [3] * 9)
    np.testing.assert_array_equal(schedule.clock, np.repeat([1.0, 2.0, 3.0], 4))


def test_dtypes():
    for schedule in (
        round_robin(2, 5),
        round_robin(2, 0),
        from_arrivals([], []),
        from_arrivals(np.array([1, 0], np.uint8), [1, 2]),
        from_compute_times([[1, 2, 3]], 2),
    ):
        assert (schedule.worker.dtype, schedule.staleness.dtype) == (np.int32, np.int32)
        assert schedule.clock.dtype == np.float64


def test_a_schedule_is_a_pytree_of_its_columns():
    schedule = round_robin(3, 9)
    tail = jax.tree.map(lambda column: column[6:], schedule)
    assert isinstance(tail, Schedule)
    assert tail.num_workers == 3
    np.testing.assert_array_equal(tail.clock, [3.0, 3.0, 3.0])
    # The number of workers is static: it shapes the snapshots.
    assert jax.jit(lambda s: np.zeros(s.num_workers).shape[0] + s.worker[0])(schedule) == 3


def test_a_million_events_are_made_whole():
    times = np.random.default_rng(0).gamma(100, 0.01, size=(16, 70_000))
    schedule = from_compute_times(times, 1_000_000)
    assert abs(schedule.staleness.mean() - 15) < 0.01
    assert np.all(np.diff(schedule.clock) >= 0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: round_robin(0, 5), "num_workers=0"),
        (lambda: round_robin(2, -1), "num_steps=-1"),
        (lambda: round_robin(2, 5, compute_time=0.0), "finite and positive, got 0.0"),
        (lambda: from_compute_times([1.0, 2.0], 1), r"got shape \(2,\)"),
        (lambda: from_compute_times([[1.0, 0.0]], 1), "finite and positive"),
        (lambda: from_compute_times([[1.0, np.nan]], 1), "finite and positive"),
        (lambda: from_arrivals([0, 1], [1.0]), r"shapes \(2,\) and \(1,\)"),
        (lambda: from_arrivals([0.0, 1.0], [1.0, 2.0]), "got dtype float64"),
        (lambda: from_arrivals([0, 3], [1.0, 2.0], num_workers=3), "worker 3 at step 1"),
        (lambda: from_arrivals([-1, 0], [1.0, 2.0]), "worker -1 at step 0"),
        (lambda: from_arrivals([0, 1], [2.0, 1.0]), "never go back"),
        (lambda: from_arrivals([0, 1], [-1.0, 1.0]), "start at 0 or later"),
    ],
)
def test_errors_name_what_came(make, message):
    with pytest.raises(ValueError, match=message):
        make()
