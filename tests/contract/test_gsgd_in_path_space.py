"""The checks of optax's suite over a ReLU perceptron, whose path space is really entered."""

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from flax import nnx
from optax._src import test_utils

from gsgd_jax import (
    choose_skeleton,
    gsgd,
    in_path_space,
    in_path_space_with_reference_norms,
    mlp_gauge,
)
from gsgd_jax.family import path_sgd, with_enorm
from tests.contract.test_gsgd_jax import FACTORIES, g_adam

# Of optax's own arithmetic: bias correction, MultiSteps, injected hyperparameters.
optax_promotes = pytest.mark.usefixtures("standard_promotion")

ALONG_PATHS = ("gsgd", "g-rmsprop")

# A perceptron, 3-4-4-2 with biases.
SHAPES = {"l0": (3, 4), "l1": (4, 4), "l2": (4, 2)}
every_factory = pytest.mark.parametrize("name", FACTORIES)
# All precisions where there are moments to keep them in, and the narrowest everywhere.
every_dtype = pytest.mark.parametrize(
    ("name", "dtype"),
    [
        *itertools.product(["g-adam"], [jnp.float16, jnp.bfloat16, jnp.float32, jnp.float64]),
        *itertools.product(["gsgd", "g-momentum", "g-rmsprop"], [jnp.float16, jnp.bfloat16]),
    ],
)


def perceptron(dtype=jnp.float32, seed=0):
    draw = np.random.default_rng(seed).normal
    return {
        name: {
            "kernel": jnp.asarray(draw(size=shape) * (2 / shape[0]) ** 0.5, dtype),
            "bias": jnp.asarray(0.1 * draw(size=shape[1]), dtype),
        }
        for name, shape in SHAPES.items()
    }


def apply(params, x):
    for i, layer in enumerate(params.values()):
        x = jax.nn.relu(x) if i else x
        x = x @ layer["kernel"] + layer["bias"][None]
    return x


def objective(params):
    """Least squares against another perceptron, whose error can be brought near zero."""
    dtype = params["l0"]["kernel"].dtype
    x = jnp.asarray(np.random.default_rng(5).normal(size=(16, 3)), dtype)
    target = apply(perceptron(dtype, seed=1), x)
    return jnp.mean(jnp.square(apply(params, x) - target))


@functools.cache
def gradients():
    """Of the objective at the perceptron, worked out once."""
    return jax.jit(jax.grad(objective))(perceptron())


def real(name, params=None):
    """A factory over the perceptron: in the balanced coordinates, or along directed paths."""
    params = perceptron() if params is None else params
    coordinates = mlp_gauge(params)
    if name in ALONG_PATHS:
        coordinates = choose_skeleton(coordinates, params, rule="largest", basis="paths")
    return functools.partial(FACTORIES[name], skeleton=coordinates)


def same_types(one, two):
    assert jax.tree.map(jax.typeof, one) == jax.tree.map(jax.typeof, two)


@optax_promotes
@every_factory
def test_real_convergence(name):
    rate = 3e-3 if name in ("g-adam", "g-rmsprop") else 3e-2
    tx, params = real(name)(rate), perceptron()

    def step(carry, _):
        params, state = carry
        value, grads = jax.value_and_grad(objective)(params)
        updates, state = tx.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), value

    run = jax.jit(lambda params: jax.lax.scan(step, (params, tx.init(params)), length=3000))
    _, values = run(params)
    assert values[-1] < 0.05 * values[0]


@optax_promotes
@every_factory
def test_real_extra_args_and_no_second_compilation(name):
    tx, params = real(name)(1e-3), perceptron()
    state = tx.init(params)

    @jax.jit
    def step(params, state):
        grads = jax.grad(objective)(params)
        updates, state = tx.update(grads, state, params, nobody_expects_this=1)
        return optax.apply_updates(params, updates), state

    params, state = step(params, state)
    with test_utils.log_compilations() as compilations:
        step(params, state)
    assert compilations == []


@optax_promotes
@every_factory
def test_real_hyperparameters_can_be_injected(name):
    make, params = real(name), perceptron()
    grads = gradients()
    plain, injected = make(1e-3), optax.inject_hyperparams(make)(learning_rate=1e-3)
    expected, state = jax.jit(plain.update)(grads, plain.init(params), params)
    found, wrapped = jax.jit(injected.update)(grads, injected.init(params), params)
    test_utils.assert_trees_all_close(found, expected, rtol=1e-5)
    test_utils.assert_trees_all_close(wrapped.inner_state, state, rtol=1e-5, atol=1e-5)


@optax_promotes
@every_dtype
def test_real_shapes_dtypes_and_structures_are_stable(name, dtype):
    with jax.enable_x64(dtype == jnp.float64):
        params = perceptron(dtype)
        tx = real(name, params)(1e-3)
        state = jax.jit(tx.init)(params)
        same_types(state, tx.init(params))

        @jax.jit
        def step(params, state, take):
            grads = jax.grad(objective)(params)
            # Both branches must agree in structure, shapes, dtypes and weak types.
            updates, state = jax.lax.cond(
                take, lambda: tx.update(grads, state, params), lambda: (params, state)
            )
            return updates, state

        updates, after = step(params, state, True)
        same_types(updates, params)
        same_types(after, state)
        assert all(np.isfinite(np.asarray(u, np.float32)).all() for u in jax.tree.leaves(updates))


@optax_promotes
@every_factory
def test_real_gradient_accumulation(name):
    tx, params = optax.MultiSteps(real(name)(1e-3), every_k_schedule=2), perceptron()
    grads = gradients()
    update = jax.jit(tx.update)
    first, state = update(grads, tx.init(params), params)
    assert not any(leaf.any() for leaf in jax.tree.leaves(first))
    second, _ = update(grads, state, params)
    plain = real(name)(1e-3)
    expected, _ = jax.jit(plain.update)(grads, plain.init(params), params)
    test_utils.assert_trees_all_close(second, expected, rtol=1e-5, atol=1e-7)


@optax_promotes
@every_factory
def test_real_schedules(name):
    params = perceptron()
    grads = gradients()
    found = []
    for rate in (1e-3, optax.constant_schedule(1e-3)):
        tx = real(name)(rate)
        found.append(jax.jit(tx.update)(grads, tx.init(params), params)[0])
    test_utils.assert_trees_all_close(*found, rtol=1e-6)


@optax_promotes
@every_factory
def test_real_map_params_sees_what_in_the_state_is_like_the_parameters(name):
    tx, params = real(name)(1e-3), perceptron()
    state = tx.init(params)
    same = optax.tree.map_params(tx, lambda leaf: leaf, state)
    test_utils.assert_trees_all_equal(same, state)
    marked: Any = optax.tree.map_params(
        tx, lambda _: "like a parameter", state, transform_non_params=lambda _: "other"
    )
    copies = {"gsgd": 0, "g-momentum": 1, "g-adam": 2, "g-rmsprop": 1}[name]
    leaves = jax.tree.leaves(marked)
    assert leaves.count("like a parameter") == 6 * copies
    assert (marked.least_ratio, marked.bounded) == ("other", "other")


def family(skeleton):
    """The other transformations of the package, over the perceptron."""
    one = jnp.ones((1, 3))
    return {
        "path-sgd": path_sgd(1e-3, apply, one),
        "enorm": with_enorm(optax.sgd(1e-3, 0.9), skeleton.gauge, every=2),
        "reference": in_path_space_with_reference_norms(optax.sgd(1e-3, 0.9), skeleton),
    }


@pytest.mark.parametrize("name", ["path-sgd", "enorm", "reference"])
def test_real_family_keeps_the_contract(name):
    """Structures, shapes, dtypes and weak types under jit and cond, extra arguments, vmap."""
    params = perceptron(jnp.bfloat16)
    tx = optax.with_extra_args_support(
        family(choose_skeleton(mlp_gauge(params), params, rule="largest", basis="paths"))[name]
    )
    state, grads = tx.init(params), jax.tree.map(jnp.ones_like, params)

    @jax.jit
    def step(grads, state, params, take):
        return jax.lax.cond(
            take,
            lambda: tx.update(grads, state, params, nobody_expects_this=1),
            lambda: (params, state),
        )

    updates, after = step(grads, state, params, True)
    same_types(updates, params)
    same_types(after, state)
    assert any(np.asarray(u, np.float32).any() for u in jax.tree.leaves(updates))
    marked = optax.tree.map_params(
        tx, lambda _: "like a parameter", state, transform_non_params=lambda _: "other"
    )
    copies = 0 if name == "path-sgd" else 1
    assert jax.tree.leaves(marked).count("like a parameter") == 6 * copies
    batched = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), (grads, params))
    stacked, _ = jax.jit(jax.vmap(lambda g, w: tx.update(g, tx.init(w), w)))(*batched)
    first = jax.tree.map(lambda leaf: leaf[1], stacked)
    test_utils.assert_trees_all_close(first, updates, rtol=0.05, atol=1e-3)


def test_real_init_with_abstract_input():
    params = perceptron()
    abstract = jax.eval_shape(perceptron)
    tx = real("g-momentum")(1e-3)
    shapes = [jax.tree.map(jnp.shape, tx.init(tree)) for tree in (params, abstract)]
    assert shapes[0] == shapes[1]


@optax_promotes
def test_real_vmap_over_seeds_is_one_run_each():
    params = [perceptron(seed=seed) for seed in range(3)]
    skeleton = choose_skeleton(mlp_gauge(params[0]), params[0], basis="paths")
    tx = g_adam(1e-2, skeleton)

    def step(params):
        updates, state = tx.update(jax.grad(objective)(params), tx.init(params), params)
        return updates, state

    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *params)
    together, _ = jax.jit(jax.vmap(step))(stacked)
    alone, _ = jax.jit(step)(params[2])
    found = jax.tree.map(lambda leaf: leaf[2], together)
    test_utils.assert_trees_all_close(found, alone, rtol=1e-4, atol=1e-7)


def test_real_partition_and_masks_inside():
    params = perceptron()
    labels = {name: {"kernel": "fast", "bias": "slow"} for name in SHAPES}
    inner = optax.partition({"fast": optax.sgd(0.1), "slow": optax.sgd(0.0)}, labels)
    skeleton = real("gsgd").keywords["skeleton"]
    tx = in_path_space(inner, skeleton)
    grads = gradients()
    updates, state = jax.jit(tx.update)(grads, tx.init(params), params)
    assert not updates["l2"]["bias"].any()
    assert updates["l2"]["kernel"].any()
    same_types(state, tx.init(params))
    outside = optax.partition({"fast": tx, "slow": optax.sgd(0.0)}, labels)
    with pytest.raises(ValueError, match="put the mask inside"):
        outside.init(params)


def test_real_orbax_round_trip(tmp_path):
    params = perceptron()
    tx = real("g-momentum")(1e-3)
    grads = gradients()
    _, state = tx.update(grads, tx.init(params), params)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "state", state)
        checkpointer.wait_until_finished()
        restored = checkpointer.restore(tmp_path / "state", tx.init(params))
    test_utils.assert_trees_all_equal(restored, state)
    same_types(restored, state)


def test_real_nnx_optimizer():
    class Network(nnx.Module):
        def __init__(self, rngs):
            self.first = nnx.Linear(3, 5, rngs=rngs)
            self.second = nnx.Linear(5, 4, rngs=rngs)
            self.third = nnx.Linear(4, 2, rngs=rngs)

        def __call__(self, x):
            return self.third(jax.nn.relu(self.second(jax.nn.relu(self.first(x)))))

    network = Network(nnx.Rngs(0))
    params = nnx.state(network, nnx.Param)
    gauge = mlp_gauge(params)
    assert gauge.num_nodes == 9
    skeleton = choose_skeleton(gauge, params, rule="largest", basis="paths")
    optimizer = nnx.Optimizer(network, gsgd(0.1, skeleton), wrt=nnx.Param)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(16, 3)), jnp.float32)
    target = jnp.stack([x.sum(-1), x.max(-1)], axis=-1)

    @nnx.jit
    def step(network, optimizer):
        value, grads = nnx.value_and_grad(lambda net: jnp.mean((net(x) - target) ** 2))(network)
        optimizer.update(network, grads)
        return value

    values = [float(step(network, optimizer)) for _ in range(30)]
    assert values[-1] < 0.5 * values[0]
