"""Names and codes become whole numbers from 0 on, and lead back."""

import jax
import numpy as np
import pytest

from lacim_jax import coded, fit
from tests.lacim_jax.test_training import examples, model_of

pytestmark = pytest.mark.usefixtures("standard_promotion")


def test_names_and_codes_become_numbers_and_lead_back():
    for values in (["b", "a", "b"], np.array([20, 10, 20]), [True, False, True]):
        found = coded(values)
        np.testing.assert_array_equal(found.codes, [1, 0, 1])
        np.testing.assert_array_equal(found.names[found.codes], values)
    for bad in (np.ones(3), [], np.ones((2, 2), int)):
        with pytest.raises(ValueError, match="integers or strings of shape"):
            coded(bad)
    data = examples()
    data = data._replace(domains=coded(np.where(data.domains, "rome", "oslo")).codes)
    fit(model_of(), data, jax.random.key(0), num_steps=1)
