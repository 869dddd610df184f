"""Which scales rearranging, reducing and selecting entries pass on."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from gsgd_jax.tracing import find_gauge
from tests.gsgd_jax.tracing.rules.two_kernels import assert_scales_left

ORDER = np.array([2, 0, 3, 1])

PLACES = np.array([0, 2, 1, 2, 0])

# Between h = x @ w, four hidden units, and the output kernel v: how many scales are left.
PASSED = {
    "permuted": (lambda h: h[:, ORDER], 4),
    "reversed": (lambda h: h[:, ::-1], 4),
    "split heads": (lambda h: h.reshape(-1, 2, 2).swapaxes(1, 2).reshape(-1, 4), 4),
    "halves": (lambda h: jnp.concatenate(jnp.split(h, 2, axis=1)[::-1], axis=1), 4),
    "stacked": (lambda h: jnp.stack([h, 2.0 * h], axis=1).sum(1), 4),
    "unstacked": (lambda h: jnp.stack(jnp.unstack(h, axis=1)[::-1], axis=1), 4),
    "padded": (lambda h: jnp.pad(h[:, 1:3], ((0, 0), (1, 1))) + h, 4),
    "mean pooled": (
        lambda h: lax.reduce_window(h, 0.0, lax.add, (2, 1), (1, 1), "SAME") / 2.0,
        4,
    ),
    "gathered by a table": (lambda h: h[:, np.array([[0, 2], [1, 3]])].reshape(-1, 4), 4),
    "padded inside": (lambda h: lax.pad(h, jnp.zeros((), h.dtype), ((0, 0, 1), (0, 0, 0))), 4),
    "running sum": (lambda h: jnp.cumsum(h, axis=0), 4),
    "sorted batch": (lambda h: jnp.sort(h, axis=0), 4),
    "chosen by input": (lambda h: lax.dynamic_slice_in_dim(h, jnp.argmax(h[:, 0]), 1, 0), 4),
    "pooled pairs": (lambda h: jnp.repeat(jnp.max(h.reshape(-1, 2, 2), axis=2), 2, axis=1), 2),
    "greatest": (lambda h: h - jnp.max(h, axis=1, keepdims=True), 1),
    "sorted by the first": (
        lambda h: lax.sort((h[:, :1] * jnp.ones_like(h), h), dimension=0)[1],
        4,
    ),
    "sorted units": (lambda h: jnp.sort(h, axis=1), 1),
    "running sum of units": (lambda h: jnp.cumsum(h, axis=1), 1),
    "best units": (lambda h: jnp.tile(lax.top_k(h, 2)[0], (1, 2)), 1),
    "one of the batch for each": (
        lambda h: jnp.take_along_axis(
            jnp.stack([h, 2.0 * h, h], axis=1), (jnp.argsort(h[:, 0]) % 3)[:, None, None], axis=1
        )[:, 0],
        4,
    ),
    "one of the steps, by example": (
        jax.vmap(lambda row: jnp.stack([row, 2.0 * row])[jnp.argmax(row[:1] * 0)]),
        4,
    ),
    "a unit for each": (
        lambda h: h + jnp.take_along_axis(h, jnp.argmax(h, axis=1)[:, None], axis=1),
        1,
    ),
    "taken off in places by input": (lambda h: (0 * h).at[jnp.argsort(h[:, 0])].subtract(h), 4),
    "unit by input": (lambda h: h[:, jnp.argmax(h[0])][:, None] + h, 1),
    "neighbours": (lambda h: h + jnp.roll(h, 1, axis=1), 1),
    "segments by input": (lambda h: jax.ops.segment_sum(h, jnp.argsort(h[:, 0]) % 3, 3), 4),
    "greatest of segments": (lambda h: jax.ops.segment_max(h, PLACES, 3), 4),
    "put in places by input": (lambda h: h.at[jnp.argsort(h[:, 0])].set(2.0 * h), 4),
    "added to a constant": (lambda h: jnp.ones_like(h).at[PLACES].add(h), 0),
    "units by input": (lambda h: jnp.zeros_like(h).at[:, jnp.argsort(h[0])].add(h), 1),
    "segments of examples": (
        jax.vmap(lambda row: jax.ops.segment_sum(row, jnp.argsort(row), 4)),
        0,
    ),
    "first unit": (lambda h: h.at[:, 0].set(jnp.sin(h[:, 0])), 3),
    "last unit again": (lambda h: h.at[:, -1].add(h[:, 0]), 3),
    "window": (lambda h: h.at[:, 1:3].add(h[:, :2]), 2),
    "first units": (lambda h: lax.dynamic_update_slice(h, jnp.sin(h[:, :2]), (0, 0)), 2),
    "units by input again": (
        lambda h: lax.dynamic_update_slice(h, h[:, :2], (0, jnp.argmax(h[0]) % 3)),
        1,
    ),
    "beyond the last": (lambda h: h.at[:, 9].set(h[:, 0], mode="drop"), 1),
}


@pytest.mark.parametrize("name", PASSED)
def test_scales_left_between_two_kernels(x64, name):
    assert_scales_left(*PASSED[name])


def test_embeddings_are_edges_from_ground(x64):
    def model(p, tokens):
        return jax.nn.relu(p["table"][tokens]) @ p["out"]

    params = {"table": jnp.ones((7, 4)), "out": jnp.ones((4, 2))}
    tokens = jnp.array([[1, 2], [0, 6]])
    gauge = find_gauge(model, params, tokens)
    assert gauge.num_nodes == 4
    assert gauge.verify(model, params, tokens, tolerance=1e-9) < 1e-9
