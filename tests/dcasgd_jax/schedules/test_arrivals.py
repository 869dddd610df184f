"""Given times of computation under every protocol, against a queue of events."""

import itertools

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dcasgd_jax import Schedule, from_compute_times, round_robin
from dcasgd_jax.schedules.arrivals import Attempts, draw_timelines, stream_of_attempts
from tests.oracles import event_queue

EXACT = settings(derandomize=True, deadline=None, max_examples=80)


@st.composite
def clusters(draw):
    """(times, lost): quarter seconds, so that ties are frequent and sums exact."""
    shape = draw(st.integers(1, 6)), draw(st.integers(4, 12))
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    times = rng.integers(1, draw(st.sampled_from([2, 4, 13])), size=shape) / 4
    lost = rng.random(shape) < draw(st.sampled_from([0.0, 0.1, 0.4]))
    # The last attempts succeed, so that a few arrivals at least are settled.
    lost[:, -2:] = False
    return times, lost


def replay(times, lost, num_steps, wait_for=None):
    """The oracle's run over arrays; workers that have run out never end anything more."""
    lost = np.zeros(times.shape, bool) if lost is None else lost
    nothing_more = itertools.repeat((np.inf, False))
    attempts = [
        itertools.chain(zip(t.tolist(), gone.tolist(), strict=True), nothing_more)
        for t, gone in zip(times, lost, strict=True)
    ]
    if wait_for is None:
        return event_queue.asynchronous(attempts, num_steps)
    return event_queue.rounds(attempts, num_steps, wait_for)


def settled(times, lost, wait_for):
    """How many arrivals are certain, as the refusal of one more says."""
    with pytest.raises(ValueError, match="settle the first") as refusal:
        from_compute_times(times, 10_000, lost=lost, wait_for=wait_for)
    return int(str(refusal.value).split("first ")[1].split()[0])


def assert_follows(schedule, run, num_workers):
    np.testing.assert_array_equal(schedule.worker, run.worker)
    np.testing.assert_array_equal(schedule.clock, run.clock)
    version = np.arange(schedule.worker.size) - schedule.staleness
    np.testing.assert_array_equal(version, run.version)
    reads = schedule.worker if schedule.reads is None else schedule.reads
    writes = schedule.worker if schedule.writes is None else schedule.writes
    assert event_queue.versions_read(reads, writes, num_workers) == run.version


@EXACT
@given(clusters(), st.booleans())
def test_asynchronous_arrivals_are_the_event_queues(cluster, none_lost):
    times, lost = cluster[0], None if none_lost else cluster[1]
    num_steps = settled(times, lost, None)
    schedule = from_compute_times(times, num_steps, lost=lost)
    assert_follows(schedule, replay(times, lost, num_steps), len(times))
    assert (schedule.reads is None) == none_lost


@EXACT
@given(clusters(), st.booleans(), st.data())
def test_rounds_are_the_event_queues(cluster, none_lost, data):
    times, lost = cluster[0], None if none_lost else cluster[1]
    wait_for = data.draw(st.integers(1, len(times)))
    num_steps = settled(times, lost, wait_for)
    assert num_steps % wait_for == 0
    num_steps -= data.draw(st.integers(0, min(num_steps, wait_for - 1)))
    schedule = from_compute_times(times, num_steps, lost=lost, wait_for=wait_for)
    assert_follows(schedule, replay(times, lost, num_steps, wait_for), len(times))


@EXACT
@given(clusters(), st.booleans(), st.data())
def test_steps_gone_by_make_up_what_staleness_and_ages_lack(cluster, in_rounds, data):
    """Closed form 2 where workers lose gradients, wait for a round to end, or are passed over."""
    times, lost = cluster
    wait_for = data.draw(st.integers(1, len(times))) if in_rounds else None
    num_steps = settled(times, lost, wait_for)  # whole rounds
    schedule = from_compute_times(times, num_steps, lost=lost, wait_for=wait_for)
    run = replay(times, lost, num_steps, wait_for)
    ages = num_steps * len(times) - sum(run.held)
    assert schedule.staleness.sum() + ages + run.gone == (len(times) - 1) * num_steps


@EXACT
@given(clusters(), st.booleans(), st.data())
def test_fewer_steps_are_a_prefix_slots_included(cluster, none_lost, data):
    times, lost = cluster[0], None if none_lost else cluster[1]
    wait_for = data.draw(st.none() | st.integers(1, len(times)))
    num_steps = settled(times, lost, wait_for)
    longer = from_compute_times(times, num_steps, lost=lost, wait_for=wait_for)
    fewer = data.draw(st.integers(0, num_steps))
    shorter = from_compute_times(times, fewer, lost=lost, wait_for=wait_for)
    jax.tree.map(np.testing.assert_array_equal, shorter, jax.tree.map(lambda x: x[:fewer], longer))


@EXACT
@given(clusters(), st.data())
def test_losses_that_do_not_happen_change_nothing(cluster, data):
    """Rounds go two ways, by sorting and round by round; both must be one."""
    times, _ = cluster
    wait_for = data.draw(st.none() | st.integers(1, len(times)))
    num_steps = settled(times, None, wait_for)
    without = from_compute_times(times, num_steps, wait_for=wait_for)
    never = from_compute_times(
        times, num_steps, lost=np.zeros(times.shape, bool), wait_for=wait_for
    )
    for column in ("worker", "staleness", "clock"):
        np.testing.assert_array_equal(getattr(never, column), getattr(without, column))


@pytest.mark.parametrize("losses", [False, True])
@pytest.mark.parametrize("wait_for", [None, 1, 4, 7])
def test_random_times_to_the_last_bit(wait_for, losses):
    rng = np.random.default_rng(0)
    times, lost = rng.gamma(4.0, 0.25, (7, 400)), rng.random((7, 400)) < 0.1
    lost = lost if losses else None
    num_steps = 1000 if wait_for is None else 300 * wait_for - 1
    schedule = from_compute_times(times, num_steps, lost=lost, wait_for=wait_for)
    assert_follows(schedule, replay(times, lost, num_steps, wait_for), 7)


def test_a_synchronous_round_lasts_as_long_as_its_slowest():
    times = np.random.default_rng(1).gamma(4.0, 0.25, (5, 50))
    schedule = from_compute_times(times, 250, wait_for=5)
    ends = schedule.clock.reshape(50, 5)[:, -1]
    np.testing.assert_array_equal(ends, np.cumsum(times.max(axis=0)))
    np.testing.assert_array_equal(schedule.staleness, np.tile(np.arange(5), 50))
    # Nobody pulls within a round, and all pull at its end: one slot does.
    np.testing.assert_array_equal(schedule.reads, np.zeros(250))
    np.testing.assert_array_equal(schedule.writes, np.tile([5, 5, 5, 5, 0], 50))


def test_an_m_synchronous_round_lasts_as_long_as_its_m_th():
    times = np.random.default_rng(2).gamma(4.0, 0.25, (5, 50))
    schedule = from_compute_times(times, 150, wait_for=3)
    ends = schedule.clock.reshape(50, 3)[:, -1]
    np.testing.assert_array_equal(ends, np.cumsum(np.sort(times, axis=0)[2]))
    by_round = np.sort(schedule.worker.reshape(50, 3))
    np.testing.assert_array_equal(by_round, np.sort(np.argsort(times, axis=0)[:3], axis=0).T)


def test_a_worker_out_of_reach_misses_rounds_and_joins_a_later_one():
    #        worker 1 is away until 2.5: rounds end at 1, 2, 3 without it, and it is done at 2.5 + 1
    times = [[1.0] * 6, [2.5, 1.0, 9.0, 9.0, 9.0, 9.0], [1.0] * 6]
    lost = np.zeros((3, 6), bool)
    lost[1, 0] = True
    schedule = from_compute_times(times, 8, lost=lost, wait_for=2)
    np.testing.assert_array_equal(schedule.worker, [0, 2, 0, 2, 0, 2, 0, 2])
    # Waited for by all, the first round lasts until it has made up for what it lost.
    schedule = from_compute_times(times, 3, lost=lost, wait_for=3)
    np.testing.assert_array_equal(schedule.worker, [0, 2, 1])
    np.testing.assert_array_equal(schedule.clock, [1.0, 1.0, 3.5])


def test_a_returning_worker_pulls_what_others_have_made():
    times = [[1.0] * 6, [2.5, 1.0, 1.0, 1.0, 1.0, 1.0]]
    lost = np.zeros((2, 6), bool)
    lost[1, 0] = True
    schedule = from_compute_times(times, 5, lost=lost)
    np.testing.assert_array_equal(schedule.worker, [0, 0, 0, 1, 0])
    # Back at 2.5, after two arrivals; done at 3.5, after a third.
    np.testing.assert_array_equal(schedule.staleness, [0, 0, 0, 1, 1])


@pytest.mark.parametrize("wait_for", [1, 3, 4])
def test_round_robin_in_rounds(wait_for):
    schedule = round_robin(4, 14, compute_time=0.5, wait_for=wait_for)
    by_events = from_compute_times(np.full((4, 14), 0.5), 14, wait_for=wait_for)
    jax.tree.map(np.testing.assert_array_equal, schedule, by_events)


def test_a_schedule_in_rounds_is_a_pytree_of_its_columns():
    schedule = round_robin(3, 9, wait_for=3)
    tail = jax.tree.map(lambda column: column[6:], schedule)
    assert isinstance(tail, Schedule)
    assert len(jax.tree.leaves(tail)) == 5
    np.testing.assert_array_equal(tail.writes, [3, 3, 0])
    for column in jax.tree.leaves(tail)[:2] + jax.tree.leaves(tail)[3:]:
        assert column.dtype == np.int32


@pytest.mark.parametrize("sizes", [[1] * 40, [7, 1, 32], [40]])
def test_timelines_do_not_depend_on_portions(sizes):
    """Sums run on from portion to portion, to the last bit."""
    times = np.random.default_rng(3).gamma(4.0, 0.25, 40)
    whole, parts = stream_of_attempts(times, None), stream_of_attempts(times, None)
    drawn = np.concatenate([parts(size).time for size in sizes])
    np.testing.assert_array_equal(drawn, whole(40).time)
    assert whole(1).time.size == 0

    def endless(portion):
        rng = np.random.default_rng(4)
        buffer = []

        def stream(count):
            while len(buffer) < count:
                buffer.extend(rng.standard_exponential(portion).tolist())
            taken, buffer[:] = buffer[:count], buffer[count:]
            return Attempts(np.array(taken), None)

        return stream

    (line,) = draw_timelines([endless(3)], 5000)
    assert line.end.size >= 5000
    reference = np.cumsum(np.random.default_rng(4).standard_exponential(3 * 3000))
    np.testing.assert_array_equal(line.end, reference[: line.end.size])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda t: from_compute_times(t, 2, wait_for=0), r"in \[1, 3\], .* got 0"),
        (lambda t: from_compute_times(t, 2, wait_for=4), r"in \[1, 3\], .* got 4"),
        (lambda t: round_robin(2, 2, wait_for=3), r"in \[1, 2\], .* got 3"),
        (lambda t: from_compute_times(t, 5, wait_for=3), "first 3 arrivals, not 5: draw more"),
        (lambda t: from_compute_times(t, 2, lost=[True] * 3), r"bool and of the shape .*\(3, 1\)"),
        (lambda t: from_compute_times(t, 2, lost=np.zeros((3, 1))), "got float64"),
        (lambda t: from_compute_times(t, 1, lost=np.ones((3, 1), bool)), "settle the first 0"),
    ],
)
def test_errors_name_what_came(make, message):
    with pytest.raises(ValueError, match=message):
        make(np.ones((3, 1)))
