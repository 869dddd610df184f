"""The scale-invariant spaces of an attention layer and of a ReLU recurrent network."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gsgd_jax import choose_skeleton, find_gauge, gsgd, in_path_space
from gsgd_jax.structure import basis_paths, describe_path
from tests.gsgd_jax.networks import compiled_quickly
from tests.gsgd_jax.tracing.models import MODELS

pytestmark = pytest.mark.usefixtures("x64")


def steps(tx, model, params, x, count=5):
    @compiled_quickly
    def step(params, state):
        grads = jax.grad(lambda p: jnp.mean((model.apply(p, x) - 1.0) ** 2))(params)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    state = tx.init(params)
    for _ in range(count):
        params, state = step(params, state)
    return model.apply(params, x)


@pytest.mark.parametrize(("name", "rule"), [("flat_heads", "largest"), ("relu_rnn", "diagonal")])
def test_steps_in_path_space_do_not_see_the_scale_of_the_start(name, rule):
    """One node per query-key and value-output dimension; one per recurrent unit at all times."""
    model = MODELS[name]
    params, x = model.draw(0)
    gauge = find_gauge(model.apply, params, x)
    skeleton = choose_skeleton(gauge, params, rule=rule, basis="paths")
    moved = gauge.rescale(params, jax.random.key(0), spread=0.5)
    one, two = (steps(gsgd(1e-4, skeleton, momentum=0.9), model, p, x) for p in (params, moved))
    np.testing.assert_allclose(two, one, rtol=1e-9, atol=1e-9 * float(jnp.abs(one).max()))
    assert jnp.abs(one - model.apply(params, x)).max() > 1e-6


def test_the_control_sees_it():
    model = MODELS["flat_heads"]
    params, x = model.draw(0)
    moved = find_gauge(model.apply, params, x).rescale(params, jax.random.key(0), spread=0.5)
    one, two = (steps(optax.sgd(1e-4, 0.9), model, p, x) for p in (params, moved))
    assert jnp.abs(one - two).max() > 1e-6


def test_balanced_cycles_of_a_recurrent_layer_train():
    """The coordinates in which a network may keep its usual initialisation."""
    model = MODELS["relu_rnn"]
    params, x = model.draw(0)
    gauge = find_gauge(model.apply, params, x)
    skeleton = choose_skeleton(
        gauge, params, rule="largest", basis="cycles", tree_values="balanced"
    )
    inner = optax.sgd(1e-3)
    before = jnp.mean((model.apply(params, x) - 1.0) ** 2)
    after = steps(in_path_space(inner, skeleton), model, params, x, count=20)
    assert jnp.mean((after - 1.0) ** 2) < before


def test_paths_of_attention_run_through_queries_and_keys():
    """A scale of the logits is one of q times k: in by one and out by the other."""
    model = MODELS["flat_heads"]
    params, x = model.draw(0)
    gauge = find_gauge(model.apply, params, x)
    skeleton = choose_skeleton(gauge, params, basis="paths")
    words = [describe_path(path, gauge) for path in basis_paths(skeleton)]
    names = [{part.split("[")[0] for part in w.split(" -> ") if "[" in part} for w in words]
    assert {frozenset(pair) for pair in names} == {frozenset({"q", "k"}), frozenset({"v", "o"})}
    assert len(words) == gauge.num_free == 3 * 18 + 12 - 12
