"""The unit-consistent gradient: on a rescaled copy the rescaled step, and its scales' equations."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gsgd_jax import find_gauge, mlp_gauge, trivial_gauge
from gsgd_jax.family import scale_by_unit_consistency
from tests.gsgd_jax.networks import apply, batch, furthest, loss, perceptron
from tests.gsgd_jax.tracing.models import MODELS

pytestmark = pytest.mark.usefixtures("x64")
WIDTHS = [4, 6, 5, 3]


def test_scales_are_the_least_squares_of_log_sizes():
    params = perceptron(WIDTHS, True)
    gauge = mlp_gauge(params)
    tx = scale_by_unit_consistency(gauge)
    ones = jax.tree.map(jnp.ones_like, params)
    steps, _ = tx.update(ones, tx.init(params), params)  # 1 / f², of every entry
    rows, target = [], []
    for i, leaf in enumerate(jax.tree.leaves(params)):
        tails, heads = (np.broadcast_to(x, leaf.shape) for x in (gauge.tails[i], gauge.heads[i]))
        for w, t, h in zip(leaf.ravel(), tails.ravel(), heads.ravel(), strict=True):
            row = np.zeros(gauge.num_nodes + 1)
            row[h] += 1
            row[t] -= 1
            rows.append(row[:-1])
            target.append(-np.log(abs(w)))
    logs, *_ = np.linalg.lstsq(np.array(rows), np.array(target))
    factors = gauge.act(ones, jnp.exp(logs))
    assert furthest(steps, jax.tree.map(lambda f: 1 / f**2, factors)) < 1e-9


@pytest.mark.parametrize("name", ["cnn", "basic_block", "gated"])
def test_the_step_on_a_copy_is_the_copy_of_the_step(name):
    model = MODELS[name]
    params, x = model.draw(0)
    group = find_gauge(model.apply, params, x)
    tx = optax.chain(scale_by_unit_consistency(group), optax.scale(-0.1))
    moved = group.rescale(params, jax.random.key(0), spread=1.0)

    @jax.jit
    def step(params):
        gradients = jax.grad(lambda p: jnp.sum(model.apply(p, x) ** 2))(params)
        updates, _ = tx.update(gradients, tx.init(params), params)
        return updates

    factors = jax.tree.map(lambda a, b: jnp.where(b == 0, 1, a / b), moved, params)
    expected = jax.tree.map(jnp.multiply, step(params), factors)
    for one, other in zip(jax.tree.leaves(step(moved)), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-7, atol=1e-9 * np.abs(other).max())


def test_it_trains_and_zeros_stay_finite():
    params, data = perceptron(WIDTHS, True), batch(WIDTHS)
    params[0] = (params[0][0].at[:, 1].set(0), params[0][1].at[1].set(0))  # nothing enters it
    params[1] = (params[1][0].at[1].set(0), params[1][1])  # nor leaves it: all zero
    gauge = mlp_gauge(params)
    tx = optax.chain(scale_by_unit_consistency(gauge), optax.scale(-0.02))

    @jax.jit
    def step(params):
        value, gradients = jax.value_and_grad(loss)(params, data)
        return optax.apply_updates(params, tx.update(gradients, tx.init(params), params)[0]), value

    losses = []
    for _ in range(30):
        params, value = step(params)
        losses.append(float(value))
    assert np.isfinite(losses).all()
    assert losses[-1] < losses[0] - 0.1
    assert np.isfinite(apply(params, data[0])).all()


def test_without_nodes_and_without_parameters():
    params = perceptron(WIDTHS, True)
    tx = scale_by_unit_consistency(trivial_gauge(params))
    assert furthest(tx.update(params, tx.init(params), params)[0], params) == 0
    with pytest.raises(ValueError, match="params"):
        tx.update(params, tx.init(params))
