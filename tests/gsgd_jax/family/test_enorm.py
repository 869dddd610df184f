"""Equi-normalisation node by node: the function stays, the norm falls, balance is the limit."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gsgd_jax import balance, find_gauge, mlp_gauge
from gsgd_jax.family import enorm, with_enorm
from gsgd_jax.family.enorm import _turns
from tests.gsgd_jax.networks import (
    batch,
    compiled_quickly,
    furthest,
    loss_and_grads,
    perceptron,
    ravel,
    rescaled,
    train,
)
from tests.gsgd_jax.tracing.models import MODELS

pytestmark = pytest.mark.usefixtures("x64")

WIDTHS = [4, 5, 3, 2]


def test_a_sweep_is_the_papers_loop_over_layers():
    params = perceptron(WIDTHS, True)
    kernels, biases = ([np.array(part) for part in parts] for parts in zip(*params, strict=True))
    for k in range(len(kernels) - 1):
        coming = (kernels[k] ** 2).sum(0) + biases[k] ** 2
        going = (kernels[k + 1] ** 2).sum(1)
        c = (going / coming) ** 0.25
        kernels[k], biases[k] = kernels[k] * c, biases[k] * c
        kernels[k + 1] = kernels[k + 1] / c[:, None]
    gauge = mlp_gauge(params)
    found = compiled_quickly(lambda params: enorm(params, gauge))(params)
    assert furthest(found, list(zip(kernels, biases, strict=True))) < 1e-14
    assert furthest(found, params) > 0.1


@pytest.mark.parametrize("name", ["basic_block", "relu_rnn"])
def test_the_function_stays_and_sweeps_lead_to_balance(name):
    model = MODELS[name]
    params, x = model.draw(0)
    gauge = find_gauge(model.apply, params, x)

    moved = gauge.rescale(params, jax.random.key(0))

    @compiled_quickly
    def sweeps(moved):
        def sweep(params, _):
            after = enorm(params, gauge)
            return after, optax.tree.norm(after, squared=True)

        after, sizes = jax.lax.scan(sweep, moved, length=200)
        return after, sizes, model.apply(moved, x), model.apply(after, x)

    after, sizes, outputs, now = sweeps(moved)
    np.testing.assert_allclose(now, outputs, rtol=1e-9, atol=1e-12)
    assert (np.diff(sizes) < 1e-12 * sizes[0]).all()
    assert furthest(after, balance(params, gauge)) < 1e-8


def test_nodes_that_take_turns_together_are_not_joined():
    for name in ("mlp", "basic_block", "relu_rnn"):
        model = MODELS[name]
        params, x = model.draw(0)
        gauge = find_gauge(model.apply, params, x)
        turns = _turns(gauge)
        np.testing.assert_array_equal(np.sort(np.concatenate(turns)), np.arange(gauge.num_nodes))
        for turn in turns:
            for tails, heads in zip(gauge.tails, gauge.heads, strict=True):
                one, other = np.broadcast_arrays(tails, heads)
                assert not (np.isin(one, turn) & np.isin(other, turn) & (one != other)).any()
    assert [turn.size for turn in _turns(gauge)] == [1, 1, 1]  # recurrent units, one by one


def test_any_power_equalises_its_own_norms():
    params = perceptron([3, 4, 2], True)
    gauge = mlp_gauge(params)
    found = compiled_quickly(lambda params: enorm(params, gauge, power=1.0))(params)
    (kernel, bias), (out, _) = (tuple(map(np.asarray, layer)) for layer in found)
    coming = np.abs(kernel).sum(0) + np.abs(bias)
    np.testing.assert_allclose(coming, np.abs(out).sum(1), rtol=1e-12)


def test_training_with_enorm_trains_and_stays_near_balance():
    params, data = perceptron(WIDTHS, True), batch(WIDTHS)
    gauge = mlp_gauge(params)
    moved = rescaled(gauge, params, 0)
    found, state = train(with_enorm(optax.sgd(0.05, 0.9), gauge, sweeps=3), moved, data, 30)
    assert loss_and_grads(found, data)[0] < loss_and_grads(params, data)[0]
    assert furthest(found, balance(found, gauge)) < 1e-2
    assert int(state.step) == 30
    assert furthest(moved, balance(moved, gauge)) > 0.1


def test_it_acts_every_so_many_steps():
    params = perceptron([3, 4, 2], True)
    gauge = mlp_gauge(params)
    tx = with_enorm(optax.sgd(0.1), gauge, every=3)
    grads = jax.tree.map(jnp.cos, params)
    update = compiled_quickly(tx.update)
    state, reached, plain = tx.init(params), params, params
    for step in range(1, 4):
        updates, state = update(grads, state, reached)
        reached = optax.apply_updates(reached, updates)
        plain = jax.tree.map(lambda w, g: w - 0.1 * g, plain, grads)
        expected = enorm(plain, gauge) if step == 3 else plain
        assert furthest(reached, expected) < 1e-14


@pytest.mark.usefixtures("standard_promotion")
def test_it_acts_on_updates_of_another_type_than_the_weights():
    """Weights in half precision, gradients in float32; traced, as a training step is."""
    params = [jnp.full((2, 3), 4.0, jnp.bfloat16), jnp.full((3, 1), 0.25, jnp.bfloat16)]
    grads = jax.tree.map(lambda w: jnp.zeros(w.shape, jnp.float32), params)
    tx = with_enorm(optax.sgd(0.1), mlp_gauge(params), every=2)
    state = tx.init(params)
    for step in (1, 2):
        updates, state = jax.jit(tx.update)(grads, state, params)
        assert [u.dtype for u in updates] == [jnp.float32] * 2
        assert bool(jnp.any(updates[0] != 0)) == (step == 2)


def test_dead_nodes_dtypes_and_borders():
    params = [jnp.asarray([[0.0, 4.0]], jnp.bfloat16), jnp.asarray([[3.0], [1.0]], jnp.bfloat16)]
    gauge = mlp_gauge(params)
    found = enorm(params, gauge)
    np.testing.assert_array_equal(ravel(found).astype(float), [0, 2, 3, 2])
    assert found[0].dtype == jnp.bfloat16
    with pytest.raises(ValueError, match="must be positive, got 0 and 2"):
        enorm(params, gauge, sweeps=0)
    with pytest.raises(ValueError, match="every must be a positive"):
        with_enorm(optax.sgd(0.1), gauge, every=0)
    tx = with_enorm(optax.sgd(0.1), gauge)
    with pytest.raises(ValueError, match="you are not passing `params`"):
        tx.update(params, tx.init(params))


def test_a_group_that_is_no_graph_is_refused(unchecked):
    model = MODELS["gated"]
    params, x = model.draw(0)
    group = find_gauge(model.apply, params, x)
    for refused in (lambda: enorm(params, group), lambda: with_enorm(optax.sgd(0.1), group)):
        with pytest.raises(ValueError, match="needs a group that is a graph"):
            refused()
