"""Snapshot slots: every gradient finds the version it was taken at, in no more than M slots."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from dcasgd_jax.schedules.snapshot_slots import allocate, neighbours, slots_of_trace
from tests.oracles.event_queue import versions_read

EXACT = settings(derandomize=True, deadline=None, max_examples=100)


@st.composite
def histories(draw):
    """(worker, version, num_workers): any workers that hold one version each at a time.

    Upon each arrival, and between arrivals, workers pull or keep what they have; some send
    several gradients from one pull, some never report, some join late.
    """
    num_workers = draw(st.integers(1, 6))
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    pull_own, pull_other = rng.random(), rng.choice([0.0, 0.05, 0.5])
    held, worker, version = np.zeros(num_workers, int), [], []
    for step in range(draw(st.integers(0, 60))):
        who = int(rng.integers(num_workers))
        worker.append(who)
        version.append(held[who])
        pulls = rng.random(num_workers) < pull_other
        pulls[who] |= rng.random() < pull_own
        held[pulls] = step + 1
    return np.array(worker, np.int64), np.array(version, np.int64), num_workers


@EXACT
@given(histories())
def test_every_gradient_finds_its_version(history):
    worker, version, num_workers = history
    reads, writes = slots_of_trace(np.arange(worker.size) - version, num_workers)
    assert ((reads >= 0) & (reads < num_workers)).all()
    assert ((writes >= 0) & (writes <= num_workers)).all()
    assert versions_read(reads, writes, num_workers) == version.tolist()
    # Nothing is kept that no later gradient is taken at.
    np.testing.assert_array_equal(
        writes < num_workers, np.isin(np.arange(1, worker.size + 1), version)
    )


@EXACT
@given(st.lists(st.integers(0, 5), max_size=40))
def test_neighbours_by_definition(worker):
    before, after = neighbours(np.array(worker, np.int64))
    for i, who in enumerate(worker):
        same = [j for j, other in enumerate(worker) if other == who]
        assert before[i] == max((j for j in same if j < i), default=-1)
        assert after[i] == min((j for j in same if j > i), default=len(worker))


def test_neighbours_of_workers_beyond_sixteen_bits():
    worker = np.array([70_000, 70_000 - 2**16, 70_000], np.int64)
    before, after = neighbours(worker)
    np.testing.assert_array_equal(before, [-1, -1, 0])
    np.testing.assert_array_equal(after, [2, 3, 3])


def test_links_across_many_versions_are_followed_to_their_slots():
    versions = 10_000
    freed = np.arange(1, versions + 1)  # each given up when the next one is made
    np.testing.assert_array_equal(allocate(freed, 1, never=versions + 1), np.zeros(versions))
    np.testing.assert_array_equal(
        allocate(freed + 2, 3, never=versions + 9), np.arange(versions) % 3
    )


def test_a_version_held_for_ever_keeps_its_slot():
    freed = np.array([99, 2, 3, 4, 5])
    np.testing.assert_array_equal(allocate(freed, 2, never=99), [0, 1, 1, 1, 1])
