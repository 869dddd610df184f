"""Parts of parameters: where the scales of each are looked for."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.nn import relu

from gsgd_jax.tracing import find_gauge, partition


def _scanned(h, layers):
    return lax.scan(lambda h, w: (relu(h @ w), None), h, layers)[0]


PARTS = {
    "in order": lambda h, w: _scanned(h, w),
    "halves": lambda h, w: _scanned(_scanned(h, w[:2]), w[2:]),
    "every other": lambda h, w: _scanned(_scanned(h, w[::2]), w[1::2]),
    "split": lambda h, w: functools.reduce(_scanned, jnp.split(w, [1, 3]), h),
    "none and others": lambda h, w: functools.reduce(_scanned, jnp.split(w, [0, 2]), h),
    "last first": lambda h, w: _scanned(h, w[::-1]),
    "in groups": lambda h, w: lax.scan(
        lambda h, group: (_scanned(h, group), None), h, w.reshape(2, 2, *w.shape[1:])
    )[0],
    "in groups, last first": lambda h, w: _scanned(
        h, w.reshape(2, 2, *w.shape[1:])[::-1].reshape(w.shape)
    ),
    "by parts of columns": lambda h, w: _scanned(
        relu(h @ jnp.concatenate(jnp.split(w[0], 2, axis=1), axis=1)), w[1:]
    ),
}


@pytest.mark.parametrize("way", PARTS)
def test_parts_of_a_large_stack_keep_the_scales_of_their_layers(x64, way):
    """Where a table of all entries would be too large, layers have to be followed."""
    width, layers = 70, 4
    assert layers * width**2 > partition._SMALL
    rng = np.random.default_rng(0)
    shapes = {"first": (3, width), "stack": (layers, width, width), "last": (width, 2)}
    params = {n: jnp.asarray(rng.normal(0, 0.3, shape)) for n, shape in shapes.items()}
    x = jnp.asarray(rng.normal(size=(5, 3)))

    def model(p, x):
        return PARTS[way](relu(x @ p["first"]), p["stack"]) @ p["last"]

    group = find_gauge(model, params, x)
    assert group.num_nodes == (layers + 1) * width
    moved = group.rescale(params, jax.random.key(1))
    np.testing.assert_allclose(model(moved, x), model(params, x), rtol=1e-9)


def _packed(x, w, i):
    """One of two kernels of four heads of two in one array, taken out by number."""
    return jnp.einsum("td,dhk->thk", x, w.reshape(8, 2, 8)[:, i].reshape(8, 4, 2))


SPLIT = {
    "by number": (lambda w, x: relu(x @ w.reshape(2, 8, 8)[0]) @ w.reshape(2, 8, 8)[1], (16, 8)),
    "by columns": (lambda w, x: relu(x @ w.reshape(8, 2, 8)[:, 0]) @ w.reshape(8, 2, 8)[:, 1].T,
                   (8, 16)),
    "into heads": (lambda w, x: jnp.einsum(
        "thk,thk->t", relu(_packed(x, w, 0)), relu(_packed(x, w, 1))), (8, 16)),
    "a scan": (lambda w, x: _scanned(x, w.reshape(2, 8, 8)), (16, 8)),
}  # fmt: skip


@pytest.mark.parametrize("way", SPLIT)
def test_kernels_that_are_packed_into_one_vary_apart(x64, way):
    """An axis that becomes two is not one of layers before both are gone."""
    model, shape = SPLIT[way]
    w, x = np.random.default_rng(0).normal(size=(2, 16, 8))
    w, x = jnp.asarray(w).reshape(shape), jnp.asarray(x[:5])
    group = find_gauge(model, w, x)
    assert group.num_nodes == 8  # the units between
    moved = group.rescale(w, jax.random.key(1))
    np.testing.assert_allclose(model(moved, x), model(w, x), rtol=1e-9)
