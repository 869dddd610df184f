"""Which scales matrix products and convolutions pass on."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from gsgd_jax.tracing import find_gauge


def test_tied_kernels_leave_what_both_uses_allow(x64):
    def model(w, x):
        return jax.nn.relu(x @ w) @ w.T

    # relu(x W) W^T: c on a column acts twice, so only c = 1 is left.
    assert find_gauge(model, jnp.ones((3, 4)), jnp.ones((2, 3))).num_nodes == 0


@pytest.mark.parametrize("form", ["NHWC", "NCHW"])
def test_convolutions_in_any_layout(x64, form):
    kernels = {"NHWC": "HWIO", "NCHW": "OIHW"}[form]

    def conv(x, kernel, groups=1):
        numbers = (form, kernels, form)
        return lax.conv_general_dilated(
            x, kernel, (1, 1), "SAME", dimension_numbers=numbers, feature_group_count=groups
        )

    def model(p, x):
        return conv(jax.nn.relu(conv(jax.nn.relu(conv(x, p[0])), p[1], groups=2)), p[2])

    shapes = ((2, 2, 2, 4), (3, 3, 2, 6), (1, 1, 6, 2))
    if form == "NCHW":
        shapes = tuple((o, i, h, w) for h, w, i, o in shapes)
    rng = np.random.default_rng(0)
    params = [jnp.asarray(rng.normal(size=shape)) for shape in shapes]
    x = jnp.asarray(rng.normal(size=(2, 5, 5, 2) if form == "NHWC" else (2, 2, 5, 5)))
    gauge = find_gauge(model, params, x)
    assert gauge.num_nodes == 10
    assert gauge.verify(model, params, x, tolerance=1e-9) < 1e-9
