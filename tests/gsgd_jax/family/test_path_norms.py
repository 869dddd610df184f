"""Path norms, the basis-path norm and Path-SGD, against all paths listed one by one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gsgd_jax import choose_skeleton, inverse_chain_rule, mlp_gauge
from gsgd_jax.family import (
    basis_path_norm,
    basis_path_penalty,
    path_norm,
    path_sgd,
    path_sum,
    scale_by_path_norm,
)
from gsgd_jax.structure import basis_paths, structure_matrix
from tests.gsgd_jax.networks import (
    VALLEY,
    apply,
    batch,
    compiled_quickly,
    loss_and_grads,
    perceptron,
    ravel,
    rescaled,
    train,
)
from tests.gsgd_jax.tracing.models import MODELS
from tests.oracles.path_enumeration import all_paths

pytestmark = pytest.mark.usefixtures("x64")

ONE = jnp.ones((1, VALLEY[0]))


def problem():
    params = perceptron(VALLEY, True)
    gauge = mlp_gauge(params)
    return params, gauge, choose_skeleton(gauge, params, rule="largest", basis="paths")


# Path norms.


@pytest.mark.parametrize("power", [1.0, 2.0, 0.5])
def test_one_forward_pass_is_the_sum_over_all_paths(power):
    params, gauge, _ = problem()
    weights = ravel(params)
    values = [np.prod(weights[list(path)]) for path in all_paths(VALLEY, bias=True)]
    expected = np.sum(np.abs(values) ** power) ** (1 / power)
    norm = compiled_quickly(lambda params: path_norm(apply, params, ONE, power=power))
    np.testing.assert_allclose(norm(params), expected, rtol=1e-12)
    np.testing.assert_allclose(norm(rescaled(gauge, params)), expected, rtol=1e-11)


@pytest.mark.parametrize("name", ["cnn", "relu_rnn"])
def test_invariant_on_networks_that_are_no_perceptron(name):
    from gsgd_jax import find_gauge

    model = MODELS[name]
    params, x = model.draw(0)
    moved = find_gauge(model.apply, params, x).rescale(params, jax.random.key(0))
    norm = compiled_quickly(lambda params: path_norm(model.apply, params, x[:1], power=2.0))
    np.testing.assert_allclose(norm(moved), norm(params), rtol=1e-11)


def test_half_precision_does_not_overflow_and_integers_pass():
    params = {"w": jnp.full((2, 2), 300.0, jnp.float16), "steps": jnp.asarray(3)}
    norm = path_norm(lambda p, x: x @ p["w"], params, jnp.ones((1, 2), jnp.float16), power=2.0)
    np.testing.assert_allclose(norm, 600.0, rtol=1e-6)
    assert norm.dtype == jnp.float32
    with pytest.raises(ValueError, match=r"power must be positive, got 0\.0"):
        path_norm(lambda p, x: x, params, jnp.ones(1), power=0.0)
    with pytest.raises(ValueError, match=r"input 1\['tokens'\] is of int32, .* one-hot"):
        path_norm(lambda p, x, y: x, params, jnp.ones(1), {"tokens": np.zeros(3, np.int32)})


# Path-SGD.


def test_kappa_is_the_sum_over_the_paths_through_an_entry():
    params, _, _ = problem()
    weights, kappas = ravel(params), np.zeros(sum(map(np.size, jax.tree.leaves(params))))
    for path in all_paths(VALLEY, bias=True):
        for entry in path:
            kappas[entry] += np.prod([weights[e] ** 2 for e in path if e != entry])
    tx = scale_by_path_norm(apply, ONE)
    grads = jax.tree.map(lambda w: jnp.cos(3 * w), params)
    updates, _ = compiled_quickly(tx.update)(grads, tx.init(params), params)
    np.testing.assert_allclose(ravel(updates), ravel(grads) / kappas, rtol=1e-11)


def test_path_sgd_does_not_see_the_scale_of_the_start():
    params, gauge, _ = problem()
    data, tx = batch(VALLEY), path_sgd(0.02, apply, ONE)
    moved = rescaled(gauge, params, 3, spread=0.7)
    one, two = (train(tx, start, data, 10)[0] for start in (params, moved))
    np.testing.assert_allclose(apply(one, data[0]), apply(two, data[0]), atol=1e-10)
    assert loss_and_grads(one, data)[0] < loss_and_grads(params, data)[0]


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.float64])
def test_dead_entries_rest_and_dtypes_are_kept(dtype):
    params = [jnp.asarray([[2.0, 0.0]], dtype), jnp.asarray([[5.0], [0.0]], dtype), np.int32(7)]
    tx = scale_by_path_norm(lambda w, x: jax.nn.relu(x @ w[0]) @ w[1], jnp.ones((1, 1)))
    grads = jax.tree.map(jnp.ones_like, params)
    updates, _ = tx.update(grads, tx.init(params), params)
    assert updates[2] == grads[2]  # no weight
    np.testing.assert_allclose(ravel(updates[:2]), [1 / 25, 0, 1 / 4, 0], rtol=1e-3)
    assert {leaf.dtype for leaf in updates[:2]} == {jnp.dtype(dtype)}
    with pytest.raises(ValueError, match="you are not passing `params`"):
        tx.update(grads, tx.init(params))


def test_path_sum_of_squares_and_its_slope_agree():
    """Euler: Σ_e w_e² κ_e counts every path once for each of its entries."""
    params, _, _ = problem()
    squares = jax.tree.map(jnp.square, params)
    total, kappas = compiled_quickly(jax.value_and_grad(lambda s: path_sum(apply, s, ONE)))(squares)
    weights = ravel(params)
    lengths = [len(p) * np.prod(weights[list(p)]) ** 2 for p in all_paths(VALLEY, bias=True)]
    np.testing.assert_allclose(np.sum(ravel(squares) * ravel(kappas)), np.sum(lengths), rtol=1e-11)
    assert total > 0


# The basis-path norm.


def test_basis_path_norm_is_the_supremum_over_listed_paths_of_both_kinds():
    params, gauge, skeleton = problem()
    weights, on = ravel(params), {*skeleton.out_edges.tolist()} - {*skeleton.in_edges.tolist()}
    free = np.setdiff1d(np.arange(gauge.num_entries), skeleton.in_edges)
    sizes = [abs(np.prod(weights[list(path)])) for path in basis_paths(skeleton)]
    terms = [
        abs(np.log(size)) if entry in on else size for entry, size in zip(free, sizes, strict=True)
    ]
    measures = compiled_quickly(
        lambda w: jnp.stack([basis_path_norm(w, skeleton), basis_path_penalty(w, skeleton)])
    )
    squares = [
        np.log(size) ** 2 if entry in on else size**2
        for entry, size in zip(free, sizes, strict=True)
    ]
    for start in (params, rescaled(gauge, params)):
        np.testing.assert_allclose(measures(start), [max(terms), 0.5 * sum(squares)], rtol=1e-11)


def test_only_free_skeleton_paths_are_ever_divided_by():
    """What tells the two kinds apart: the signs of exponents when any path is expressed."""
    _, gauge, skeleton = problem()
    basis, every = structure_matrix(gauge, basis_paths(skeleton)), structure_matrix(gauge)
    exponents, *_ = np.linalg.lstsq(basis.astype(float), every.astype(float), rcond=None)
    free = np.setdiff1d(np.arange(gauge.num_entries), skeleton.in_edges)
    on = np.isin(free, skeleton.out_edges)
    assert exponents[~on].min() > -1e-9
    assert (exponents[on].min(axis=1) < -0.5).all()


def test_slopes_of_the_penalty_in_path_space_are_each_values_own():
    params, gauge, skeleton = problem()

    @compiled_quickly
    def slopes(params):
        return inverse_chain_rule(jax.grad(basis_path_penalty)(params, skeleton), params, skeleton)

    weights = ravel(params)
    values = np.array([np.prod(weights[list(path)]) for path in basis_paths(skeleton)])
    free = np.setdiff1d(np.arange(gauge.num_entries), skeleton.in_edges)
    on = np.isin(free, skeleton.out_edges)
    expected = np.where(on, np.log(np.abs(values)) / values, values)
    np.testing.assert_allclose(ravel(slopes(params))[free], expected, rtol=1e-9, atol=1e-12)


def test_basis_path_norm_of_cycles_is_refused():
    params, gauge, _ = problem()
    cycles = choose_skeleton(gauge, params, basis="cycles")
    for function in (basis_path_norm, basis_path_penalty):
        with pytest.raises(ValueError, match="basis='paths'"):
            function(params, cycles)
