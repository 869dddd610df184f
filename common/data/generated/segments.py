"""Independent sources whose spread changes from segment to segment, mixed by a network.

    data = segments(streams(seed).data, num_segments=40, size=1000)
    data.x, data.domains, data.z

It is the generator that variational autoencoders for nonlinear independent component analysis are
tested on; nothing but the segments tells the sources from a mixture of them.
"""

from typing import NamedTuple

import jax
import numpy as np

from common.seeds import host_generator

_SPREAD = (0.5, 3.0)
_SLOPE = 0.1
_DRAWS = 1000


class SegmentData(NamedTuple):
    """Examples with their sources, in random order."""

    x: np.ndarray
    """float32, [n, dim]: what is observed, without noise."""
    domains: np.ndarray
    """int32, [n], counted from 0: the segment."""
    z: np.ndarray
    """float32, [n, dim]: the sources."""


def segments(
    key: jax.Array, *, num_segments: int = 40, size: int = 1000, dim: int = 2, layers: int = 3
) -> SegmentData:
    r"""Draws Gaussian sources of mean 0, their standard deviations uniform in each segment, mixed.

    $z_i \sim N(0, t_{di}^2)$ with $t_{di} \sim U(0.5, 3)$, and $x = f(\dots f(z A_1) \dots A_l)$,
    with $f(a) = \tanh(a) + 0.1 a$ between the layers. Columns of each A, of uniform entries, have
    length 1, and its condition number is below the first quartile of such matrices.

    Args:
        key: a typed PRNG key, scalar.
        num_segments: the number of domains, at least 1.
        size: examples of each, at least 1.
        dim: the number of sources, and of observed variables.
        layers: of the mixing network, at least 1.

    Returns:
        `num_segments * size` examples.

    Raises:
        ValueError: if a number is below 1.

    References:
        Khemakhem et al., *Variational autoencoders and nonlinear ICA*, AISTATS 2020, section 5.1;
        the numbers are those of the authors' configuration file (5 sources there).
    """
    if min(num_segments, size, dim, layers) < 1:
        raise ValueError(
            "segments, their size, sources and layers must be at least 1, got "
            f"{num_segments}, {size}, {dim} and {layers}."
        )
    rng = host_generator(key)
    spread = rng.uniform(*_SPREAD, (num_segments, dim))
    matrices = [_well_conditioned(rng, dim) for _ in range(layers)]
    domains = np.tile(np.arange(num_segments), size)
    z = rng.normal(size=(len(domains), dim)) * spread[domains]
    x = z
    for i, matrix in enumerate(matrices):
        x = (np.tanh(x) + _SLOPE * x if i else x) @ matrix
    order = rng.permutation(len(domains))
    return SegmentData(
        x[order].astype(np.float32), domains[order].astype(np.int32), z[order].astype(np.float32)
    )


def _well_conditioned(rng: np.random.Generator, dim: int) -> np.ndarray:
    """One of the best conditioned quarter of random matrices."""
    drawn = rng.uniform(-1, 1, (_DRAWS, dim, dim))
    drawn /= np.linalg.norm(drawn, axis=1, keepdims=True)
    condition = np.linalg.cond(drawn)
    good = np.flatnonzero(condition <= np.percentile(condition, 25))
    return drawn[good[0]]
