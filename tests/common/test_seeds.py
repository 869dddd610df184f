"""Seeds: five streams a seed, all different, all reproducible."""

import itertools

import jax
import numpy as np
import pytest

from common.seeds import Streams, host_generator, streams


def test_streams_differ_within_and_between_seeds():
    drawn = {
        (seed, name): float(jax.random.normal(getattr(streams(seed), name)))
        for seed, name in itertools.product(range(20), Streams._fields)
    }
    assert len(set(drawn.values())) == 100


def test_streams_are_reproducible():
    for one, other in zip(streams(7), streams(7), strict=True):
        assert bool(jax.random.key_data(one)[0] == jax.random.key_data(other)[0])


@pytest.mark.parametrize("seed", [-1, 2**32, 2**40, 0.5, True, "0", None])
def test_seeds_that_have_no_streams_of_their_own_are_refused(seed):
    """A key takes 32 bits: of a larger seed it would be that of another."""
    with pytest.raises(ValueError, match=rf"a seed must be .* got {seed!r}; number the runs"):
        streams(seed)


def test_every_seed_of_32_bits_is_taken():
    first, last = streams(np.int64(0)), streams(2**32 - 1)
    assert not np.array_equal(*(jax.random.key_data(keys.init) for keys in (first, last)))


def test_host_draws_follow_the_key():
    first = host_generator(streams(0).delay).normal(size=3)
    np.testing.assert_array_equal(first, host_generator(streams(0).delay).normal(size=3))
    assert not np.array_equal(first, host_generator(streams(1).delay).normal(size=3))
