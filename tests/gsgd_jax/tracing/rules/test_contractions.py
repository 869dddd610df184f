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


def test_experts_share_the_scales_of_their_units(x64):
    """Which tokens an expert gets is a matter of data: scales that fit one have to fit all."""

    def model(p, x):
        tokens = x[jnp.argsort(x[:, 0])]
        sizes = jnp.array([2, 4])
        hidden = jax.nn.relu(lax.ragged_dot(tokens, p["up"], sizes))
        return lax.ragged_dot(hidden, p["down"], sizes)

    rng = np.random.default_rng(0)
    shapes = {"up": (2, 3, 5), "down": (2, 5, 2)}
    params = {name: jnp.asarray(rng.normal(size=shape)) for name, shape in shapes.items()}
    x = jnp.asarray(rng.normal(size=(6, 3)))
    gauge = find_gauge(model, params, x)
    assert gauge.num_nodes == 5
    assert gauge.verify(model, params, x, tolerance=1e-9) < 1e-9

    def weights_too(p, x):  # a sum over rows of each group: what it means for scales is not known
        numbers = lax.RaggedDotDimensionNumbers(
            dot_dimension_numbers=(((0,), (0,)), ((), ())),
            lhs_ragged_dimensions=(0,), rhs_group_dimensions=(),
        )  # fmt: skip
        hidden = x @ p["in"]
        summed = lax.ragged_dot_general(hidden, hidden, jnp.array([2, 4]), numbers)
        return summed.sum(0) @ p["out"]

    params = {"in": params["up"][0], "out": params["down"][0]}
    assert find_gauge(weights_too, params, x).num_nodes == 0
