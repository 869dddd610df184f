"""optax's own suites over gsgd_jax: without a group, and over a ReLU network's path space."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gsgd_jax import choose_skeleton, gsgd, in_path_space, mlp_gauge, trivial_gauge
from tests.contract import optax_suite


def without_skeleton(learning_rate: optax.ScalarOrSchedule):
    return gsgd(learning_rate, None)


def without_skeleton_momentum(learning_rate: optax.ScalarOrSchedule):
    return gsgd(learning_rate, None, momentum=0.5, nesterov=True)


def without_skeleton_adam(learning_rate: optax.ScalarOrSchedule):
    return in_path_space(optax.adam(learning_rate), None)


FACTORIES = {
    "gsgd": without_skeleton,
    "gsgd-momentum": without_skeleton_momentum,
    "in_path_space-adam": without_skeleton_adam,
}


@pytest.mark.parametrize("case", optax_suite.cases(FACTORIES))
def test_common_suite(monkeypatch, case):
    optax_suite.run_case(monkeypatch, FACTORIES, case)


def test_sharding_suite():
    optax_suite.run_sharding("tests.contract.test_gsgd_jax:FACTORIES")


# The suite's targets are no networks. What it asks of a transformation, asked again where path
# space has nodes: a perceptron 3-5-4-2 with biases, in every dtype and for every inner optimiser.

INNER = {
    "sgd": optax.sgd,
    "momentum": lambda rate: optax.sgd(rate, momentum=0.9),
    "rmsprop": optax.rmsprop,
    "adam": optax.adam,
}
BASES = {
    "paths": {"rule": "diagonal"},
    "cycles": {"rule": "largest", "basis": "cycles", "tree_values": "balanced"},
}
DTYPES = [jnp.bfloat16, jnp.float32]


def network(dtype):
    """[(kernel, bias), ...] with no weight near zero, so that path values are well scaled."""
    draw = np.random.default_rng(0)
    shapes = [(3, 5), (5,), (5, 4), (4,), (4, 2), (2,)]
    leaves = [
        jnp.asarray(draw.choice([-1, 1], shape) * draw.uniform(0.5, 1.5, shape), dtype)
        for shape in shapes
    ]
    return [tuple(leaves[i : i + 2]) for i in range(0, 6, 2)]


def loss(params, x):
    for kernel, bias in params[:-1]:
        x = jax.nn.relu(x @ kernel + bias[None, :])
    kernel, bias = params[-1]
    return jnp.mean(jnp.square(x @ kernel + bias[None, :] - 1))


def transformation(inner, basis, params, rate=1e-3):
    skeleton = choose_skeleton(mlp_gauge(params), params, **BASES[basis])
    return in_path_space(INNER[inner](rate), skeleton)


def types(tree):
    return jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype, leaf.weak_type), tree)


@pytest.fixture(params=DTYPES, ids=lambda dtype: jnp.dtype(dtype).name)
def problem(request):
    params = network(request.param)
    x = jnp.asarray(np.random.default_rng(1).normal(size=(16, 3)), request.param)
    return params, x


@pytest.mark.parametrize("basis", BASES)
@pytest.mark.parametrize("inner", INNER)
@pytest.mark.usefixtures("standard_promotion")
class TestOnANetwork:
    def test_types_of_updates_and_state_stay(self, inner, basis, problem):
        params, x = problem
        tx = transformation(inner, basis, params)
        state = tx.init(params)
        grads = jax.grad(loss)(params, x)
        updates, after = jax.jit(tx.update)(grads, state, params)
        assert types(updates) == types(params)
        assert types(after) == types(state)
        abstract = jax.eval_shape(tx.init, params)
        assert types(abstract) == types(state)

    def test_jit_scan_and_the_plain_loop_agree(self, inner, basis, problem):
        params, x = problem
        tx = transformation(inner, basis, params)

        def step(carry, _):
            params, state = carry
            updates, state = tx.update(jax.grad(loss)(params, x), state, params)
            return (optax.apply_updates(params, updates), state), loss(params, x)

        (scanned, _), losses = jax.lax.scan(step, (params, tx.init(params)), length=5)
        carry = (params, tx.init(params))
        for _ in range(5):
            carry, _ = jax.jit(step)(carry, None)
        tolerance = 1e-5 if params[0][0].dtype == jnp.float32 else 0.05
        for a, b in zip(jax.tree.leaves(scanned), jax.tree.leaves(carry[0]), strict=True):
            np.testing.assert_allclose(
                np.asarray(a, np.float32), np.asarray(b, np.float32), rtol=tolerance, atol=tolerance
            )
        assert bool(jnp.isfinite(losses).all())

    def test_gradients_accumulate(self, inner, basis, problem):
        params, x = problem
        tx = optax.MultiSteps(transformation(inner, basis, params), 2)
        state = tx.init(params)
        grads = jax.grad(loss)(params, x)
        updates, state = tx.update(grads, state, params)
        assert all(not leaf.any() for leaf in jax.tree.leaves(updates))
        updates, state = tx.update(grads, state, params)
        assert any(bool(leaf.any()) for leaf in jax.tree.leaves(updates))

    def test_hyperparameters_can_be_injected(self, inner, basis, problem):
        params, x = problem
        skeleton = choose_skeleton(mlp_gauge(params), params, **BASES[basis])

        def rule(learning_rate):
            return in_path_space(INNER[inner](learning_rate), skeleton)

        grads = jax.grad(loss)(params, x)
        injected = optax.inject_hyperparams(rule)(learning_rate=1e-3)
        found, state = jax.jit(injected.update)(grads, injected.init(params), params)
        plain = rule(1e-3)
        wanted, _ = jax.jit(plain.update)(grads, plain.init(params), params)
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
            np.testing.assert_allclose(
                np.asarray(a, np.float32), np.asarray(b, np.float32), rtol=1e-2, atol=1e-5
            )
        assert float(state.hyperparams["learning_rate"]) == pytest.approx(1e-3, rel=1e-2)


@pytest.mark.parametrize("inner", INNER)
@pytest.mark.usefixtures("standard_promotion")
def test_a_gauge_without_nodes_is_the_inner_transformation(inner):
    params = {"a": jnp.arange(3.0), "b": (jnp.ones((2, 2)),)}
    skeleton = choose_skeleton(trivial_gauge(params), params)
    tx, plain = in_path_space(INNER[inner](0.1), skeleton), INNER[inner](0.1)
    grads = jax.tree.map(lambda leaf: 0.3 * leaf + 1, params)
    found, _ = tx.update(grads, tx.init(params), params)
    wanted, _ = plain.update(grads, plain.init(params), params)
    jax.tree.map(np.testing.assert_array_equal, found, wanted)
