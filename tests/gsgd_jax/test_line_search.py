"""What a line search in path space has kept is handed out as a gradient of weights."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gsgd_jax import (
    choose_section,
    choose_skeleton,
    find_gauge,
    in_path_space,
    value_and_grad_from_state,
)
from tests.gsgd_jax.networks import compiled_quickly, furthest, loss
from tests.gsgd_jax.transformations import optax_promotes, problem

pytestmark = [pytest.mark.usefixtures("x64"), optax_promotes]

SEARCHES = {
    "lbfgs": optax.lbfgs(memory_size=3),
    "backtracking": optax.chain(
        optax.sgd(0.5), optax.scale_by_backtracking_linesearch(15, store_grad=True)
    ),
}


@pytest.mark.parametrize(
    ("search", "basis"),
    [("lbfgs", "group"), ("lbfgs", "paths"), ("backtracking", "group"), ("backtracking", "cycles")],
)
def test_the_kept_gradient_is_that_of_the_weights(search, basis):
    params, gauge, _, data = problem([3, 4, 2])
    coordinates = gauge
    if basis != "group":
        coordinates = choose_skeleton(gauge, params, basis=basis, rule="largest")
    # In a chain, as it usually is.
    tx = optax.chain(optax.identity(), in_path_space(SEARCHES[search], coordinates, max_ratio=None))
    value_and_grad = value_and_grad_from_state(loss, coordinates)

    @compiled_quickly
    def step(params, state):
        value, grads = value_and_grad(params, data, state=state)
        updates, state = tx.update(
            grads,
            state,
            params,
            value=value,
            grad=grads,
            value_fn=functools.partial(loss, data=data),
        )
        return optax.apply_updates(params, updates), state

    state, start = tx.init(params), loss(params, data)
    for _ in range(3):
        value, grads = value_and_grad(params, data, state=state)
        expected, due = jax.value_and_grad(loss)(params, data)
        np.testing.assert_allclose(value, expected, rtol=1e-9)
        assert furthest(grads, due) < 1e-8
        params, state = step(params, state)
    assert loss(params, data) < start
    # The helper of optax hands out what is kept as it is.
    _, raw = optax.value_and_grad_from_state(loss)(params, data, state=state)
    assert furthest(raw, jax.grad(loss)(params, data)) > 1e-4


def test_sections_and_no_group():
    def gated(params, x):
        up, gate, down = params
        return (jax.nn.relu(x @ gate) * (x @ up)) @ down

    rng = np.random.default_rng(0)
    params = [jnp.asarray(rng.normal(size=shape)) for shape in ((3, 4), (3, 4), (4, 2))]
    x = jnp.asarray(rng.normal(size=(6, 3)))

    def objective(params):
        return jnp.mean((gated(params, x) - 1) ** 2)

    for coordinates in (choose_section(find_gauge(gated, params, x), params), None):
        tx = in_path_space(SEARCHES["backtracking"], coordinates)
        value_and_grad = value_and_grad_from_state(objective, coordinates)
        moved, state = params, tx.init(params)
        for _ in range(3):
            value, grads = value_and_grad(moved, state=state)
            assert furthest(grads, jax.grad(objective)(moved)) < 1e-9
            updates, state = tx.update(
                grads, state, moved, value=value, grad=grads, value_fn=objective
            )
            moved = optax.apply_updates(moved, updates)


@pytest.mark.usefixtures("unchecked")
def test_refuses_states_without_a_gradient():
    params, gauge, _, _ = problem([3, 4, 2])
    value_and_grad = value_and_grad_from_state(loss, gauge)
    with pytest.raises(ValueError, match=r"one part that is of in_path_space, got 0 in a tuple"):
        value_and_grad(params, state=SEARCHES["lbfgs"].init(params))
    for inner in (optax.adam(0.1), optax.scale_by_backtracking_linesearch(15)):
        with pytest.raises(ValueError, match=r"a value and a gradient in it.*got none"):
            value_and_grad(params, state=in_path_space(inner, gauge).init(params))
    with pytest.raises(TypeError, match="coordinates must be"):
        value_and_grad_from_state(loss, params)
