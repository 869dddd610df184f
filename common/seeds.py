"""One integer seed, and the separate random streams that come from it.

Initialisation, data order, noise and delays are drawn from keys of their own, so that two methods
compared at one seed share the initialisation and the data order even where only one of them draws
delays or latent samples.
"""

from typing import NamedTuple

import jax
import numpy as np


class Streams(NamedTuple):
    """The keys of one seed; each is a typed PRNG key, scalar."""

    data: jax.Array
    """Random parts of the data set itself: splits, colours, label noise."""
    init: jax.Array
    """Initial parameters."""
    order: jax.Array
    """The order in which examples are visited; folded with the epoch."""
    noise: jax.Array
    """Augmentation, dropout, latent samples; folded with the step."""
    delay: jax.Array
    """Compute times of simulated workers."""


def streams(seed: int) -> Streams:
    """The streams of a seed, derived by `fold_in` from `jax.random.key(seed)`.

    Args:
        seed: a whole number in [0, 2**32).

    Returns:
        Five keys, different from one another and from those of any other seed.

    Raises:
        ValueError: for other seeds: a key takes 32 bits, and would be that of another seed.

    Example:
        >>> keys = streams(0)
        >>> bool(jax.random.key_data(keys.init)[1] == jax.random.key_data(keys.order)[1])
        False
    """
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or not 0 <= seed < 2**32:
        raise ValueError(
            f"a seed must be a whole number in [0, 2**32), got {seed!r}; number the runs from 0 on."
        )
    root = jax.random.key(int(seed))
    return Streams(*(jax.random.fold_in(root, i) for i in range(len(Streams._fields))))


def host_generator(key: jax.Array) -> np.random.Generator:
    """A NumPy generator for host-side draws, seeded by the whole of `key`.

    Args:
        key: a typed PRNG key, scalar.
    """
    return np.random.default_rng(np.asarray(jax.random.key_data(key)).astype(np.uint32).tolist())
