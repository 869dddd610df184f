"""Parameters shared out over eight devices: path space keeps them so, and gathers none."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gsgd_jax import choose_section, choose_skeleton, find_gauge, in_path_space, mlp_gauge
from tests import on_eight_devices
from tests.compiled import compiled_quickly
from tests.contract.optax_suite import run_on_eight_devices
from tests.gsgd_jax.networks import perceptron

WAYS = ("rows", "columns", "largest")
LARGEST_VECTOR = 64
"""More than there are nodes in any of the groups below, and less than their smallest kernels."""


def convolutions(params, images):
    for kernel, bias in params[:-1]:
        numbers = ("NHWC", "HWIO", "NHWC")
        images = jax.lax.conv_general_dilated(images, kernel, (1, 1), "SAME", None, None, numbers)
        images = jax.nn.relu(images + bias[None, None, None])
    return images.mean((1, 2)) @ params[-1]


def gated(params, x):
    up, gate, down = params
    return (jax.nn.relu(x @ gate) * (x @ up)) @ down


def cases():
    """Of each kind of group and coordinates: a transformation, and parameters that it takes."""
    draw = np.random.default_rng(0).normal
    dense = perceptron([16, 24, 16, 8], bias=True)
    shapes = ((3, 3, 8, 16), (3, 3, 16, 8))
    image = [(jnp.asarray(draw(size=s)), jnp.asarray(draw(size=s[-1]))) for s in shapes]
    image.append(jnp.asarray(draw(size=(8, 16))))
    gate = [jnp.asarray(draw(size=s)) for s in ((16, 24), (16, 24), (24, 16))]
    gauge, group = mlp_gauge(dense), find_gauge(gated, gate, jnp.ones((1, 16)))
    found = find_gauge(convolutions, image, jnp.ones((1, 2, 2, 8)))
    momentum, adam = optax.sgd(1e-3, 0.9), optax.adam(1e-3)
    cycles = choose_skeleton(gauge, dense, rule="largest", basis="cycles", tree_values="balanced")
    return {
        "paths": (
            in_path_space(adam, choose_skeleton(gauge, dense, rule="largest", basis="paths")),
            dense,
        ),
        "cycles": (in_path_space(momentum, cycles), dense),
        "convolutions": (
            in_path_space(momentum, choose_skeleton(found, image, basis="paths")),
            image,
        ),
        "section": (in_path_space(adam, choose_section(group, gate)), gate),
    }


def states(transformations, params, shardings):
    """Initial states under jit, where jax puts what depends on nothing as it is told."""
    shapes = {name: jax.eval_shape(tx.init, params[name]) for name, tx in transformations.items()}
    whole = jax.sharding.NamedSharding(on_eight_devices.mesh(), jax.sharding.PartitionSpec())
    wanted = {
        name: optax.tree_map_params(
            tx, lambda _, s: s, shapes[name], shardings[name], transform_non_params=lambda _: whole
        )
        for name, tx in transformations.items()
    }
    init = jax.jit(
        lambda params: {name: tx.init(params[name]) for name, tx in transformations.items()},
        out_shardings=wanted,
    )
    return init(params), wanted


def sharded():
    """In a process with eight devices: two updates, against those of one device."""
    on_eight_devices.assert_gathers_are_found()
    with jax.enable_x64(True):
        made = cases()
        transformations = {name: tx for name, (tx, _) in made.items()}
        params = {name: tree for name, (_, tree) in made.items()}
        slopes = jax.tree.map(jnp.sin, params)
        smallest = min(w.size for w in jax.tree.leaves(params) if w.ndim > 1)
        assert smallest > LARGEST_VECTOR

        def update(slopes, state, params):
            found = {
                name: tx.update(slopes[name], state[name], params[name])
                for name, tx in transformations.items()
            }
            updates, after = ({k: v[i] for k, v in found.items()} for i in (0, 1))
            return updates, after

        init = compiled_quickly(
            lambda params: {name: tx.init(params[name]) for name, tx in transformations.items()}
        )
        expected, _ = compiled_quickly(update)(slopes, init(params), params)
        for way in WAYS:
            shardings = on_eight_devices.shardings(params, way)
            there, given = (jax.device_put(tree, shardings) for tree in (params, slopes))
            state, wanted = states(transformations, there, shardings)
            on_eight_devices.assert_sharded_like(state, wanted)
            compiled = compiled_quickly(update).lower(given, state, there).compile()
            assert 0 < on_eight_devices.largest_sent(compiled) <= LARGEST_VECTOR
            updates, after = compiled(given, state, there)
            on_eight_devices.assert_sharded_like(updates, shardings)
            on_eight_devices.assert_sharded_like(after, wanted)
            for got, due in zip(jax.tree.leaves(updates), jax.tree.leaves(expected), strict=True):
                np.testing.assert_allclose(got, due, rtol=1e-12, atol=1e-15)
        eager = transformations["section"].init(there["section"])
        on_eight_devices.assert_sharded_like(eager.inner_state[0].mu, shardings["section"])


def test_sharded_parameters_keep_their_shardings_and_none_is_gathered():
    run_on_eight_devices("tests.gsgd_jax.test_sharding:sharded")


def one_mesh(function):
    """A function inside of a manual mesh of one device, over a leading axis of size 1."""
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]), ("copies",))
    spec = jax.sharding.PartitionSpec("copies")

    def of_one(tree):
        found = function(jax.tree.map(lambda leaf: leaf[0], tree))
        return jax.tree.map(lambda leaf: leaf[None], found)

    return jax.jit(jax.shard_map(of_one, mesh=mesh, in_specs=spec, out_specs=spec))


def test_a_first_state_can_be_made_inside_of_a_manual_mesh():
    """Where loops must begin with values that vary over the mesh as later ones do."""
    draw = np.random.default_rng(0).normal
    recurrent = [jnp.asarray(draw(size=s), jnp.float32) for s in ((3, 4), (4, 4), (4, 2))]
    recurrent[2] = jnp.zeros_like(recurrent[2])  # so that a knot is looked at too

    def network(params, x):
        for _ in range(2):
            h = jax.nn.relu(x @ params[0])
            h = jax.nn.relu(x @ params[0] + h @ params[1])
        return h @ params[2]

    dense = perceptron([3, 5, 4, 2], bias=True, dtype=jnp.float32)
    groups = (mlp_gauge(dense), find_gauge(network, recurrent, jnp.ones((1, 3))))
    for params, group in zip((dense, recurrent), groups, strict=True):
        tx = in_path_space(optax.sgd(0.1), group)

        def step(params, tx=tx):
            state = tx.init(params)
            return tx.update(params, state, params)[0], state.frame.scales

        whole = jax.tree.map(lambda leaf: leaf[None], params)
        found = one_mesh(step)(whole)
        for got, due in zip(jax.tree.leaves(found), jax.tree.leaves(step(params)), strict=True):
            np.testing.assert_allclose(got[0], due, rtol=1e-5, atol=1e-6)
