"""Waves, against their definition, and as long as they were found to be."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dcasgd_jax import from_arrivals, round_robin
from dcasgd_jax.schedules.compute_times import (
    exponential_times,
    failure_times,
    gamma_times,
    straggler_times,
)
from dcasgd_jax.schedules.waves import waves
from tests.dcasgd_jax.schedules.test_snapshot_slots import histories
from tests.oracles.event_queue import greedy_waves

EXACT = settings(derandomize=True, deadline=None, max_examples=100)


@EXACT
@given(histories(), st.none() | st.integers(1, 7))
def test_waves_by_definition(history, longest):
    worker, version, num_workers = history
    staleness = np.arange(worker.size) - version
    schedule = from_arrivals(
        worker, np.arange(worker.size), num_workers=num_workers, staleness=staleness
    )
    start, length = waves(schedule, longest=longest)
    assert length.tolist() == greedy_waves(version.tolist(), longest)
    np.testing.assert_array_equal(start, np.cumsum(length) - length)


@EXACT
@given(st.lists(st.integers(0, 6), max_size=60))
def test_workers_that_pull_upon_arrival_make_waves_of_distinct_workers(worker):
    schedule = from_arrivals(worker, np.arange(len(worker)), num_workers=7)
    lengths, seen = [], set()
    for who in worker:
        if who in seen or not lengths:
            lengths.append(0)
            seen = set()
        lengths[-1] += 1
        seen.add(who)
    assert waves(schedule).length.tolist() == lengths


@EXACT
@given(st.integers(0, 200), st.integers(0, 200))
def test_a_stretch_knows_what_was_made_before_it(start, stop):
    schedule = failure_times(5, 200, seed=1, time_to_failure=4.0, time_away=2.0)
    stretch = jax.tree.map(lambda column: column[start:stop], schedule)
    version = np.arange(200)[start:stop] - schedule.staleness[start:stop] - start
    assert waves(stretch).length.tolist() == greedy_waves(version.tolist())


@pytest.mark.parametrize("wait_for", [1, 5, 8])
def test_a_round_is_a_wave(wait_for):
    for make in (gamma_times, failure_times):
        schedule = make(8, 15 * wait_for, seed=0, wait_for=wait_for)
        np.testing.assert_array_equal(waves(schedule).length, np.full(15, wait_for))


@pytest.mark.parametrize(
    ("schedule", "mean"),
    [
        (round_robin(16, 40_000), 16.0),
        (gamma_times(16, 40_000, seed=0, variation=0.1), 15.2),
        (straggler_times(16, 40_000, seed=0, slowdown=10.0), 14.3),
        (exponential_times(16, 40_000, seed=0), 4.7),
    ],
    ids=["round robin", "gamma", "straggler", "exponential"],
)
def test_mean_waves_of_sixteen_workers(schedule, mean):
    assert waves(schedule).length.mean() == pytest.approx(mean, abs=0.1)


def test_mean_wave_of_exponential_workers_is_that_of_the_birthday_problem():
    """Arrivals are independent and uniform: Q(M) = sum over k of M! / ((M - k)! M^k)."""
    for num_workers in (2, 5, 16):
        chances = np.cumprod(1 - np.arange(num_workers) / num_workers)
        schedule = exponential_times(num_workers, 100_000, seed=2)
        length = waves(schedule).length
        assert abs(length.mean() - chances.sum()) < 4 * length.std() / np.sqrt(length.size)


def test_mean_waves_of_machines_that_differ():
    """Very different from draw to draw of the machines: 2 to 11 steps, 5.9 on average."""
    lengths = [
        waves(gamma_times(16, 5000, seed=(7, run), heterogeneity=0.6)).length.mean()
        for run in range(40)
    ]
    assert np.mean(lengths) == pytest.approx(5.9, abs=2 * np.std(lengths) / np.sqrt(40))
    # Mean times evenly from one second to six.
    graded = gamma_times(16, 40_000, seed=0, mean=np.linspace(1, 6, 16))
    assert waves(graded).length.mean() == pytest.approx(5.9, abs=0.1)


def test_nothing_makes_no_wave():
    start, length = waves(round_robin(3, 0))
    assert start.size == length.size == 0


def test_no_wave_is_shorter_than_one():
    with pytest.raises(ValueError, match="at least 1, got 0"):
        waves(round_robin(2, 3), longest=0)
