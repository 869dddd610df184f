"""Which scales calls, loops and branches pass on."""

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from gsgd_jax.tracing import find_gauge
from tests.gsgd_jax.tracing.rules.two_kernels import assert_scales_left


@jax.custom_jvp
def softened(x):
    return jnp.where(x > 0, x, 0.1 * x)


softened.defjvps(lambda t, _, x: t * jnp.where(x > 0, 1.0, 0.5))


@jax.custom_vjp
def straight_through(x):
    return jnp.maximum(x, 0.0)


straight_through.defvjp(lambda x: (jnp.maximum(x, 0.0), None), lambda _, g: (g,))


def repeated(x):
    return lax.fori_loop(0, 3, lambda _, y: jnp.maximum(y, 0.5 * y), x)


def until_large(x):
    return lax.while_loop(lambda c: c[1] < 3, lambda c: (0.5 * c[0], c[1] + 1), (x, 0))[0]


# Between h = x @ w, four hidden units, and the output kernel v: how many scales are left.
PASSED = {
    "custom jvp": (softened, 4),
    "custom vjp": (straight_through, 4),
    "remat": (jax.checkpoint(jax.nn.relu), 4),
    "jit": (jax.jit(jax.nn.relu), 4),
    "branch": (lambda h: lax.cond(h[0, 0] > 0, jax.nn.relu, jnp.negative, h), 4),
    "loop": (repeated, 4),
    "while": (until_large, 4),
}


@pytest.mark.parametrize("name", PASSED)
def test_scales_left_between_two_kernels(x64, name):
    assert_scales_left(*PASSED[name])


def test_arrays_without_entries_have_no_scales(x64):
    """An empty carry, and layers of which a loop takes none."""
    params = {"w": jnp.ones((3, 4)), "layers": jnp.ones((4, 4, 4)), "v": jnp.ones((4, 2))}

    def model(p, x):
        def layer(carry, w):
            h, nothing = carry
            return (jax.nn.relu(h @ w), nothing * 2), None

        carry = (jax.nn.relu(x @ p["w"]), jnp.zeros((0,)))
        for part in (p["layers"][:0], p["layers"]):
            carry, _ = lax.scan(layer, carry, part)
        start = (*carry, 0)
        h, *_ = lax.while_loop(lambda c: c[2] < 2, lambda c: (0.5 * c[0], c[1], c[2] + 1), start)
        return h @ p["v"]

    group = find_gauge(model, params, jnp.ones((5, 3)))
    assert group.num_nodes == 5 * 4
    group.verify(model, params, jnp.ones((5, 3)), tolerance=1e-9)
