"""Flatness in path values: invariant, and the dense Hessian's."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from gsgd_jax import allocate, choose_skeleton, find_gauge, mlp_gauge, path_values
from gsgd_jax.family import basis_path_spread, psi_hessian_product, psi_sharpness, psi_trace
from tests.gsgd_jax.networks import (
    apply,
    batch,
    compiled_quickly,
    perceptron,
    ravel,
    rescaled,
    values_of,
)

pytestmark = pytest.mark.usefixtures("x64")

WIDTHS = [3, 4, 2]


def problem():
    params, (x, _) = perceptron(WIDTHS, True), batch(WIDTHS)
    gauge = mlp_gauge(params)
    skeleton = choose_skeleton(gauge, params, rule="largest", basis="paths")
    return params, gauge, skeleton, lambda params: jnp.mean((apply(params, x) - 1.0) ** 2)


@functools.cache
def measured():
    """Everything at the network and at a rescaled copy, compiled once."""
    params, gauge, skeleton, loss = problem()
    _, unravel = ravel_pytree(params)
    vector = jax.tree.map(lambda w: jnp.cos(7 * w), params)

    @compiled_quickly
    def everything(params):
        flat, _ = ravel_pytree(path_values(params, skeleton))
        weights, _ = ravel_pytree(params)
        key = jax.random.key(0)
        return {
            "dense": jax.hessian(lambda v: loss(allocate(unravel(v), params, skeleton)))(flat),
            "in_weights": jax.hessian(lambda w: loss(unravel(w)))(weights),
            "product": psi_hessian_product(loss, params, skeleton, vector),
            "trace": psi_trace(loss, params, skeleton, key, num_samples=400),
            "sharpness": psi_sharpness(loss, params, skeleton, key, num_steps=100),
            "spread": basis_path_spread(params, skeleton),
        }

    here, there = everything(params), everything(rescaled(gauge, params, 1, spread=1.0))
    free = np.setdiff1d(np.arange(gauge.num_entries), skeleton.in_edges)
    return params, skeleton, free, vector, here, there


def test_products_trace_and_sharpness_are_the_dense_hessians():
    _, skeleton, free, vector, here, _ = measured()
    dense = np.asarray(here["dense"])[np.ix_(free, free)]
    product = ravel(here["product"])
    np.testing.assert_allclose(product[free], dense @ ravel(vector)[free], rtol=1e-9)
    assert not product[skeleton.in_edges].any()
    values = np.linalg.eigvalsh(dense)
    np.testing.assert_allclose(here["sharpness"], values[np.abs(values).argmax()], rtol=1e-6)
    # Hutchinson's variance is 2 Σ_{i≠j} H_ij², over the number of samples.
    off = dense - np.diag(np.diag(dense))
    assert abs(here["trace"] - np.trace(dense)) < 4 * np.sqrt(2 * np.sum(off**2) / 400)


def test_rescaling_changes_flatness_in_weights_and_not_in_path_values():
    *_, here, there = measured()
    for name in ("trace", "sharpness", "spread"):
        np.testing.assert_allclose(there[name], here[name], rtol=1e-9)
    traces = [float(np.trace(found["in_weights"])) for found in (here, there)]
    assert abs(traces[1] / traces[0] - 1) > 0.2


def test_leaves_of_other_numbers_do_not_move():
    params, skeleton, _, vector, here, _ = measured()
    (x, _), count = batch(WIDTHS), np.asarray(3, np.int32)
    counted = {"network": params, "steps": count}
    gauge = find_gauge(lambda tree, x: apply(tree["network"], x), counted, x)
    own = choose_skeleton(gauge, counted, rule="largest", basis="paths")
    assert own.in_edges.shape == skeleton.in_edges.shape

    @compiled_quickly
    def everything(counted):
        def loss(tree):
            return jnp.mean((apply(tree["network"], x) - 1.0) ** 2)

        key, along = jax.random.key(0), {"network": vector, "steps": np.int32(9)}
        return (
            psi_hessian_product(loss, counted, own, along),
            psi_sharpness(loss, counted, own, key, num_steps=100),
            psi_trace(loss, counted, own, key),
        )

    product, sharpness, trace = everything(counted)
    assert (product["steps"], product["steps"].dtype) == (0, count.dtype)
    np.testing.assert_allclose(ravel(product["network"]), ravel(here["product"]), rtol=1e-9)
    np.testing.assert_allclose(sharpness, here["sharpness"], rtol=1e-6)
    assert np.isfinite(trace)


def test_spread_is_the_ratio_of_extreme_values():
    params, skeleton, free, _, here, _ = measured()
    sizes = np.abs(ravel(values_of(params, skeleton))[free])
    np.testing.assert_allclose(here["spread"], sizes.max() / sizes.min(), rtol=1e-12)
