"""Which scales arithmetic on entries passes on, ties or pins."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.ad_checkpoint import checkpoint_name

from gsgd_jax.tracing import find_gauge
from tests.gsgd_jax.tracing.rules.two_kernels import assert_scales_left

MASK = np.array([True, False, True, True])


def _printed(h):
    """What is shown ties nothing, though its mean adds all units up."""
    jax.debug.print("{} {}", h.mean(), jnp.tanh(h))
    return h


def _printed_in_a_loop(h):
    def body(h, _):
        jax.debug.callback(lambda total: None, jax.jit(jnp.sum)(h))
        lax.cond(h[0, 0] > 0, lambda: _printed(h.sum()), lambda: h.max())
        return jax.checkpoint(_printed)(2.0 * h), None

    return lax.scan(body, h, None, length=3)[0]


# Between h = x @ w, four hidden units, and the output kernel v: how many scales are left.
PASSED = {
    "relu": (jax.nn.relu, 4),
    "leaky relu": (jax.nn.leaky_relu, 4),
    "abs": (jnp.abs, 4),
    "masked": (lambda h: jnp.where(MASK[None], h, 0.0), 4),
    "constant factor": (lambda h: 3.0 * h / 7.0, 4),
    "square": (lambda h: jnp.square(jax.nn.relu(h)), 4),
    "cube": (lambda h: h**3, 4),
    "square root": (lambda h: jnp.sqrt(jax.nn.relu(h)), 4),
    "selected": (lambda h: lax.select(h > 0, h, 0.2 * h), 4),
    "divided": (lambda h: h / jnp.arange(1.0, 5.0)[None], 4),
    "least of two": (lambda h: jnp.minimum(h, -h), 4),
    "stopped": (lambda h: h - lax.stop_gradient(0.5 * h), 4),
    "half precision": (lambda h: h.astype(jnp.bfloat16).astype(h.dtype), 4),
    "normalised": (lambda h: h / jnp.sum(jnp.abs(h), axis=1, keepdims=True), 1),
    "named": (lambda h: checkpoint_name(h, "hidden"), 4),
    "printed": (_printed, 4),
    "printed in a loop": (_printed_in_a_loop, 4),
    "complex": (lambda h: jnp.abs(jnp.conj(lax.complex(h, 2.0 * h))) + lax.complex(h, h).imag, 4),
    "complex with a constant": (lambda h: lax.complex(h, jnp.ones_like(h)).real, 0),
    "barrier": (lambda h: lax.optimization_barrier((h, h))[1], 4),
    "rounded": (jnp.round, 0),
    "tanh": (jnp.tanh, 0),
    "softplus": (jax.nn.softplus, 0),
    "gelu": (jax.nn.gelu, 0),
    "relu6": (jax.nn.relu6, 0),
    "plus one": (lambda h: h + 1.0, 0),
    "threshold": (lambda h: jnp.where(h > 0.5, h, 0.0), 0),
    "shifted in one unit": (lambda h: h + np.array([[0.0, 1.0, 0.0, 0.0]]), 3),
    "clipped in two units": (lambda h: jnp.minimum(h, np.array([[1, np.inf, 2, np.inf]])), 2),
    "shifted in one example": (lambda h: h + np.eye(5)[:, :1], 0),
    "unless it is small": (lambda h: jnp.where(h > np.eye(1, 4), h, 0.0), 3),
    "as integers": (lambda h: h.astype(jnp.int32).astype(h.dtype), 0),
}


@pytest.mark.parametrize("name", PASSED)
def test_scales_left_between_two_kernels(x64, name):
    # Two dtypes are met in one case, and rounding in bfloat16 is not scaled exactly.
    tolerance = 0.05 if name == "half precision" else 1e-9
    assert_scales_left(*PASSED[name], tolerance=tolerance)


def test_prelu_slopes_stay(x64):
    def model(p, x):
        h = x @ p["w"]
        return jnp.where(h > 0, h, p["slope"][None] * h) @ p["v"]

    params = {"w": jnp.ones((3, 4)), "slope": jnp.ones(4), "v": jnp.ones((4, 2))}
    gauge = find_gauge(model, params, jnp.ones((2, 3)))
    assert gauge.num_nodes == 4
    assert not gauge.touches(gauge.names.index("slope"))
