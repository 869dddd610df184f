"""Every public transformation on trees drawn at random: what goes in comes out of the same kind.

And, for those that know a network's rescaling group, on networks of widths drawn at random: the
step of a rescaled network is the rescaled step.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gsgd_jax import choose_skeleton, gsgd, in_path_space, mlp_gauge
from gsgd_jax.family import path_sgd, with_enorm
from tests.contract import test_dcasgd_jax, test_dcasgd_peers, test_gsgd_jax

RULES = {
    f"{package.__name__.rpartition('_')[2]}: {name}": factory
    for package in (test_gsgd_jax, test_dcasgd_jax, test_dcasgd_peers)
    for name, factory in package.FACTORIES.items()
}

# Few shapes and types, so that few programs are compiled; what varies is how they are put together.
LEAVES = st.tuples(
    st.sampled_from([(), (3,), (2, 3)]), st.sampled_from([jnp.float32, jnp.bfloat16])
)


@st.composite
def trees(draw):
    """Weights, gradients and a later gradient, alike in structure; some entries are zero."""
    leaves = draw(st.dictionaries(st.sampled_from("abcd"), LEAVES, min_size=1, max_size=3))
    nested = draw(st.booleans())
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    scale = draw(st.sampled_from([1e-3, 1.0, 30.0]))

    def numbers():
        tree = {
            name: jnp.asarray(scale * rng.normal(size=shape) * (rng.random(shape) < 0.8), dtype)
            for name, (shape, dtype) in leaves.items()
        }
        return [tree, ()] if nested else tree

    return numbers(), numbers(), numbers()


def types(tree):
    return jax.tree.map(lambda leaf: (jnp.shape(leaf), jnp.result_type(leaf)), tree)


@pytest.mark.parametrize("name", RULES)
@settings(derandomize=True, deadline=None, max_examples=4)
@given(drawn=trees())
@jax.numpy_dtype_promotion("standard")  # optax's own arithmetic: bias correction
def test_updates_are_like_the_weights_finite_and_pure(name, drawn):
    weights, first, second = drawn
    tx = RULES[name](1e-3)
    state = tx.init(weights)
    updates, after = tx.update(first, state, weights)
    assert types(updates) == types(weights)
    assert types(after) == types(state)
    again, _ = tx.update(first, state, weights)
    jax.tree.map(np.testing.assert_array_equal, again, updates)
    for _ in range(2):
        weights = optax.apply_updates(weights, updates)
        updates, after = tx.update(second, after, weights)
        assert types(updates) == types(weights)
        for leaf in jax.tree.leaves(updates):
            assert np.isfinite(np.asarray(leaf, np.float32)).all()


def perceptron(rng, widths):
    """Kernels [in, out], none near zero, where path values have no slope to speak of."""
    return [
        jnp.asarray(rng.choice([-1.0, 1.0], size=shape) * rng.uniform(0.3, 1.5, size=shape))
        for shape in itertools.pairwise(widths)
    ]


def apply(weights, inputs):
    for kernel in weights[:-1]:
        inputs = jax.nn.relu(inputs @ kernel)
    return inputs @ weights[-1]


PATH_RULES = {
    "gsgd": lambda gauge, skeleton, weights: gsgd(1e-2, skeleton, momentum=0.5),
    "g-adam": lambda gauge, skeleton, weights: in_path_space(optax.adam(1e-2), skeleton),
    "path-sgd": lambda gauge, skeleton, weights: path_sgd(1e-2, apply, jnp.ones((1, 3))),
    "enorm": lambda gauge, skeleton, weights: with_enorm(optax.sgd(1e-2), gauge, sweeps=30),
}  # fmt: skip


@pytest.mark.parametrize("name", PATH_RULES)
@settings(derandomize=True, deadline=None, max_examples=3)
@given(hidden=st.lists(st.integers(1, 4), min_size=1, max_size=2), seed=st.integers(0, 2**32 - 1))
@jax.enable_x64(True)
@jax.numpy_dtype_promotion("standard")
def test_the_step_of_a_rescaled_network_is_the_rescaled_step(name, hidden, seed):
    rng = np.random.default_rng(seed)
    weights = perceptron(rng, [3, *hidden, 2])
    gauge = mlp_gauge(weights)
    copy = gauge.rescale(weights, jax.random.key(seed), spread=0.5)
    inputs, target = jnp.asarray(rng.normal(size=(8, 3))), jnp.asarray(rng.normal(size=(8, 2)))
    # Rules by weights' sizes choose the same tree for both only if they choose it for one.
    skeleton = choose_skeleton(gauge, weights, rule="diagonal", basis="paths")

    def loss(weights):
        return jnp.mean((apply(weights, inputs) - target) ** 2)

    def after(weights):
        if name == "enorm":  # which balances after a step: both must be balanced before
            weights = balanced(weights)
        tx = PATH_RULES[name](gauge, skeleton, weights)
        updates, _ = tx.update(jax.grad(loss)(weights), tx.init(weights), weights)
        return apply(optax.apply_updates(weights, updates), inputs)

    def balanced(weights):
        tx = with_enorm(optax.set_to_zero(), gauge, sweeps=60)
        updates, _ = tx.update(weights, tx.init(weights), weights)
        return optax.apply_updates(weights, updates)

    np.testing.assert_allclose(after(copy), after(weights), rtol=1e-7, atol=1e-9)
