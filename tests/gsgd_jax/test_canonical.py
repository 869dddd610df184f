"""One representative an orbit: equal for all copies, a copy itself; a metric between orbits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gsgd_jax import canonical, distance, find_gauge, mlp_gauge
from tests.gsgd_jax.networks import apply, batch, furthest, perceptron
from tests.gsgd_jax.tracing.models import MODELS

pytestmark = pytest.mark.usefixtures("x64")
WIDTHS = [4, 9, 3, 6, 2]


@pytest.mark.parametrize("name", MODELS)
def test_every_copy_has_the_same(name):
    model = MODELS[name]
    params, x = model.draw(0)
    group = find_gauge(model.apply, params, x)
    moved = group.rescale(params, jax.random.key(0))
    one, other = canonical(params, group), canonical(moved, group)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-11)
    again = canonical(one, group)
    assert furthest(again, one) < 1e-9
    assert distance(moved, params, group) < 1e-8
    if group.num_nodes:
        assert furthest(moved, params) > 0.01


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_powers_of_two_change_no_bit(dtype):
    params = perceptron(WIDTHS, True, dtype=dtype)
    gauge = mlp_gauge(params)
    powers = 2.0 ** np.random.default_rng(0).integers(-3, 4, gauge.num_nodes)
    copy = gauge.act(params, jnp.asarray(powers, jnp.float32))
    one, other = (jax.tree.leaves(canonical(p, gauge)) for p in (params, copy))
    for a, b in zip(one, other, strict=True):
        assert a.dtype == dtype
        np.testing.assert_array_equal(a.astype(jnp.float32), b.astype(jnp.float32))


def test_pruned_networks_have_one_too():
    params = perceptron(WIDTHS, True)
    params[0] = (params[0][0].at[:, 2].set(0), params[0][1].at[2].set(0))  # nothing enters
    params[1] = (params[1][0].at[5].set(0), params[1][1])  # nothing leaves
    gauge = mlp_gauge(params)
    moved = gauge.rescale(params, jax.random.key(1), spread=2.0)
    assert furthest(canonical(moved, gauge), canonical(params, gauge)) < 1e-10
    x, _ = batch(WIDTHS)
    np.testing.assert_allclose(apply(canonical(moved, gauge), x), apply(params, x), atol=1e-9)


def test_distances():
    gauge = mlp_gauge(perceptron(WIDTHS, True))
    a, b, c = (perceptron(WIDTHS, True, seed=seed) for seed in range(3))
    moved = gauge.rescale(b, jax.random.key(0), spread=2.0)
    np.testing.assert_allclose(distance(a, moved, gauge), distance(a, b, gauge), rtol=1e-9)
    assert distance(a, b, gauge) == distance(b, a, gauge) > 1
    assert distance(a, c, gauge) <= distance(a, b, gauge) + distance(b, c, gauge)


def test_bad_input():
    params = perceptron(WIDTHS, True)
    gauge = mlp_gauge(params)
    with pytest.raises(ValueError, match="from concrete parameters, got traced ones"):
        jax.jit(lambda params: canonical(params, gauge))(params)
    with pytest.raises(ValueError, match="8 leaves, got 6"):
        distance(params, params[:-1], gauge)


def test_both_parts_of_complex_leaves_count():
    layers = perceptron(WIDTHS, True)
    one, other = ({"net": layers, "z": jnp.array([z])} for z in (1 + 1j, 4 - 3j))
    gauge = mlp_gauge(one, layers=[f"net/{i}" for i in range(4)])
    np.testing.assert_allclose(distance(one, other, gauge), 5, rtol=1e-12)
    assert canonical(one, gauge)["z"] == one["z"]


def test_keys_count_for_nothing():
    layers = perceptron(WIDTHS, True)
    one, other = ({"net": layers, "key": jax.random.key(seed)} for seed in (0, 1))
    gauge = mlp_gauge(one, layers=[f"net/{i}" for i in range(4)])
    assert distance(one, other, gauge) == 0
    assert canonical(other, gauge)["key"] == other["key"]
