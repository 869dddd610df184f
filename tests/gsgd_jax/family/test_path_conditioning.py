"""PathCond: the convex problem's solution, against float64 BFGS on the problem as published."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize

from gsgd_jax import find_gauge, mlp_gauge
from gsgd_jax.family import condition, path_kernel
from tests.gsgd_jax.networks import VALLEY, apply, batch, furthest, perceptron, ravel
from tests.gsgd_jax.tracing.models import MODELS

pytestmark = pytest.mark.usefixtures("x64")


def log_exponents(params, group):
    """How log|w_e| moves with every log c_h, [entries, nodes], from the group's own action."""
    start = jnp.zeros(group.num_nodes)
    ones = jax.tree.map(jnp.ones_like, params)

    def moved(logs):
        leaves = jax.tree.leaves(group.act(ones, jnp.exp(logs)))
        return jnp.log(jnp.concatenate([leaf.ravel() for leaf in leaves]))

    return np.asarray(jax.jit(jax.jacobian(moved))(start))


def solution(kernel, exponents):
    """The minimum of the published objective, by BFGS: log c."""
    entries = len(kernel)

    def objective(logs):
        sizes = np.log(kernel) - 2 * exponents @ logs
        weights = np.exp(sizes - sizes.max())
        value = entries * (np.log(weights.sum()) + sizes.max()) + 2 * (exponents @ logs).sum()
        slope = 2 * exponents.sum(0) - 2 * entries * exponents.T @ weights / weights.sum()
        return value, slope

    start = np.zeros(exponents.shape[1])
    found = minimize(objective, start, jac=True, method="BFGS", options={"gtol": 1e-9})
    assert found.fun <= objective(start)[0]
    return found.x


@pytest.mark.parametrize("widths", [[4, 6, 5, 3], VALLEY])
def test_scales_solve_the_published_problem(widths):
    params = perceptron(widths, True)
    gauge = mlp_gauge(params)
    kernel = path_kernel(apply, params, batch(widths, size=1)[0])
    logs = solution(ravel(kernel), log_exponents(params, gauge))
    expected = gauge.act(params, jnp.exp(logs))
    assert furthest(condition(params, gauge), expected) < 1e-6
    assert furthest(expected, params) > 0.01
    # The graph of a perceptron has all of its paths.
    assert furthest(condition(params, gauge, kernel), condition(params, gauge)) < 1e-12


def test_the_diagonal_is_that_of_the_kernel_of_all_path_values():
    params = perceptron([2, 3, 2, 2], True)
    x = jnp.ones((1, 2))

    def values(params):
        """All products along paths, laid out by hand: [in + 1, 3 + 1, 2 + 1, out]."""
        (a, b), (c, d), (e, f) = params
        paths = [
            jnp.einsum("ij,jk,kl->ijkl", a, c, e).ravel(),
            jnp.einsum("j,jk,kl->jkl", b, c, e).ravel(),
            jnp.einsum("k,kl->kl", d, e).ravel(),
            f,
        ]
        return jnp.concatenate(paths)

    jacobian = jax.jacobian(values)(params)
    diagonal = [np.square(leaf).sum(0) for leaf in jax.tree.leaves(jacobian)]
    found = [np.asarray(leaf) for leaf in jax.tree.leaves(path_kernel(apply, params, x))]
    for one, other in zip(found, diagonal, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12)


@pytest.mark.parametrize("name", ["basic_block", "densenet", "grouped_cnn", "gated"])
def test_networks_that_no_table_lists(name):
    """Residual streams, concatenations, groups and gates: the same problem, the same answer."""
    model = MODELS[name]
    params, x = model.draw(0)
    group = find_gauge(model.apply, params, x)
    kernel = path_kernel(model.apply, params, x[:1])
    found = condition(params, group, kernel)
    logs = solution(ravel(kernel) + 0.0, log_exponents(params, group))
    assert furthest(found, group.act(params, jnp.exp(logs))) < 1e-6
    outputs = jax.jit(model.apply)
    np.testing.assert_allclose(outputs(found, x), outputs(params, x), rtol=1e-9, atol=1e-12)


def test_copies_have_one_conditioned_copy_and_dead_entries_do_not_matter():
    params = perceptron([4, 6, 5, 3], True)
    gauge = mlp_gauge(params)
    found = condition(params, gauge)
    moved = gauge.rescale(params, jax.random.key(0), spread=2.0)
    assert furthest(condition(moved, gauge), found) < 1e-12
    assert furthest(condition(found, gauge), found) < 1e-12
    # A unit that nothing enters: no path through it, so nothing of it counts.
    dead = params[0][0].at[:, 2].set(0), params[0][1].at[2].set(0)
    conditioned = condition([dead, *params[1:]], gauge)
    assert np.isfinite(ravel(conditioned)).all()
    x, _ = batch([4, 6, 5, 3])
    np.testing.assert_allclose(
        apply(conditioned, x), apply([dead, *params[1:]], x), rtol=1e-9, atol=1e-12
    )


def test_bad_input():
    params = perceptron([3, 4, 2], True)
    gauge = mlp_gauge(params)
    with pytest.raises(ValueError, match="finite and not negative, but at 0/0 it reaches -1"):
        condition(params, gauge, jax.tree.map(lambda w: -jnp.ones_like(w), params))
    with pytest.raises(ValueError, match="no path of weights that are not zero"):
        condition(jax.tree.map(jnp.zeros_like, params), gauge, jax.tree.map(jnp.zeros_like, params))
    with pytest.raises(ValueError, match="chosen before training, from concrete parameters"):
        jax.jit(lambda params: condition(params, gauge))(params)
    model = MODELS["basic_block"]
    params, x = model.draw(0)
    with pytest.raises(ValueError, match="feed themselves, as in residual streams"):
        condition(params, find_gauge(model.apply, params, x))
    model = MODELS["gated"]
    params, x = model.draw(0)
    with pytest.raises(ValueError, match="no graph, so it has no paths of its own"):
        condition(params, find_gauge(model.apply, params, x))


def test_counters_beside_the_weights_are_left_alone():
    weights = perceptron([3, 4, 2], False)
    alone = condition(weights, mlp_gauge(weights))
    names = [f"layer_{i}" for i in range(len(weights))]
    params = dict(zip(names, weights, strict=True)) | {"step": jnp.int32(7)}
    found = condition(params, mlp_gauge(params, layers=names))
    assert int(found["step"]) == 7
    assert furthest([found[name] for name in names], alone) == 0
