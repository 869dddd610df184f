"""Sources of known spread in every segment, and a mixing that loses none of them."""

import jax
import numpy as np
import pytest

from common.data.generated import segments

DATA = segments(jax.random.key(0), num_segments=5, size=4000)


def test_sources_are_independent_and_centred_and_their_spread_changes_between_segments():
    spreads = []
    for d in range(5):
        z = DATA.z[DATA.domains == d]
        assert len(z) == 4000
        assert np.abs(z.mean(0)).max() < 0.2
        assert abs(np.corrcoef(z.T)[0, 1]) < 0.06
        spreads.append(z.std(0))
    assert np.min(spreads) > 0.45
    assert np.max(spreads) < 3.1
    assert np.std(spreads, axis=0).min() > 0.2


def test_mixing_is_smooth_invertible_and_not_linear():
    design = np.column_stack([DATA.z, np.ones(len(DATA.z))])
    left = DATA.x - design @ np.linalg.lstsq(design, DATA.x, rcond=None)[0]
    assert left.var() > 0.01 * DATA.x.var()
    # What is near in x is near in z: neighbours along x differ less than any two examples.
    near = np.linalg.norm(DATA.x[:500, None] - DATA.x[None, 500:], axis=-1).argmin(1) + 500
    apart = np.linalg.norm(DATA.z[:500] - DATA.z[near], axis=1)
    assert np.median(apart) < 0.2


def test_seeds_differ_and_repeat():
    again, other = (segments(jax.random.key(s), num_segments=5, size=4000) for s in (0, 1))
    np.testing.assert_array_equal(again.x, DATA.x)
    assert np.abs(other.x - DATA.x).max() > 1
    with pytest.raises(ValueError, match=r"at least 1, got 40, 0, 2 and 3\."):
        segments(jax.random.key(0), size=0)
