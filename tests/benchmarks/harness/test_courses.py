"""The courses of step sizes."""

import numpy as np
import pytest

from benchmarks.harness.courses import rates_of


def test_steps_are_divided_by_ten_after_half_and_after_three_quarters():
    found = rates_of("drops", 2.0, epochs=8, per_epoch=3)
    np.testing.assert_allclose(found, np.repeat([2.0, 0.2, 0.02], [12, 6, 6]), rtol=1e-6)
    assert found.dtype == np.float32


def test_the_other_course_rises_and_falls_once():
    found = rates_of("rise and fall", 2.0, epochs=5, per_epoch=10)
    assert (found.shape, found.dtype) == ((50,), np.float32)
    np.testing.assert_allclose(found[[0, 5, 10, 30, 49]], [0.2, 1.1, 2.0, 1.0, 0.05], rtol=1e-6)
    assert np.all(np.diff(found[:11]) > 0)
    assert np.all(np.diff(found[10:]) < 0)
    with pytest.raises(ValueError, match=r"one of .*'drops'.* got 'cosine'"):
        rates_of("cosine", 2.0, epochs=5, per_epoch=10)
