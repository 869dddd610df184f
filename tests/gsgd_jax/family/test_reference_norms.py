"""The reference code's scaling by norms, against its loops written out in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gsgd_jax import choose_skeleton, find_gauge, gsgd, mlp_gauge, skeleton_init
from gsgd_jax.family.reference_norms import in_path_space_with_reference_norms
from tests.gsgd_jax.networks import compiled_quickly, furthest, perceptron

pytestmark = pytest.mark.usefixtures("x64")

RATE, MOMENTUM, WIDTH = 0.1, 0.9, 3
SHAPES = [(3, 3, 2, WIDTH), (3, 3, WIDTH, WIDTH), (1, 1, WIDTH, 2)]


def network(params, x):
    for i, kernel in enumerate(params):
        x = jax.nn.relu(x) if i else x
        dimensions = ("NHWC", "HWIO", "NHWC")
        x = jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=dimensions)
    return x


def start():
    draw = np.random.default_rng(0).normal
    params = [jnp.asarray(0.3 * draw(size=shape)) for shape in SHAPES]
    gauge = find_gauge(network, params, jnp.ones((1, 3, 3, 2)))
    skeleton = choose_skeleton(gauge, params, basis="paths")
    return skeleton_init(params, skeleton), skeleton


def reference_steps(params, grads, skeleton, scale, steps):
    """Sums of changes of path values and of the momentum, from loops over channels and taps.

    Valid from the reset, where all skeleton entries are 1 and so is every denominator; gradients
    are held constant.
    """
    flat = np.concatenate([np.ravel(g) for g in grads])
    weights = np.concatenate([np.ravel(w) for w in params])
    offsets, shapes = skeleton.gauge.offsets, skeleton.gauge.shapes
    norms = np.zeros_like(flat)
    for k, (shape, kernel) in enumerate(zip(shapes, params, strict=True)):
        for place, index in enumerate(np.ndindex(shape)):
            i, j, _, o = index
            norms[offsets[k] + place] = np.linalg.norm(np.asarray(kernel)[i, j, :, o])
    slopes = np.where(np.isin(np.arange(flat.size), skeleton.in_edges), 0, flat)
    # sigmadwd: the flow through each channel of every layer on the way out of the tree.
    into = np.zeros(skeleton.gauge.num_nodes)
    for k, heads in enumerate(skeleton.gauge.heads):
        ids = np.broadcast_to(heads, shapes[k]).ravel()
        flow = (weights * slopes)[offsets[k] : offsets[k + 1]]
        for node, amount in zip(ids, flow, strict=True):
            if node >= 0:
                into[node] += amount
    red = skeleton.out_edges[skeleton.free_nodes]
    for node, amount in zip(skeleton.roots, into, strict=True):
        slopes[skeleton.out_edges[node]] -= amount
    momentum = np.zeros_like(slopes)
    for _ in range(steps):
        if scale == "gradients":
            scaled = slopes * norms
            scaled[red] = slopes[red] / norms[red]
            momentum = MOMENTUM * momentum + scaled
            change = -RATE * momentum
        else:
            momentum = MOMENTUM * momentum + slopes
            change = -RATE * momentum * norms
    return change, red


@pytest.mark.parametrize("scale", ["steps", "gradients"])
def test_first_step_from_the_reset_is_the_references(scale):
    params, skeleton = start()
    grads = [jnp.asarray(np.random.default_rng(1).normal(size=s) * 0.01) for s in SHAPES]
    tx = in_path_space_with_reference_norms(optax.sgd(RATE, MOMENTUM), skeleton, scale=scale)
    changes, state = compiled_quickly(tx.update)(grads, tx.init(params), params)
    change, red = reference_steps(params, grads, skeleton, scale, 1)
    # R and the allocation of the reference: w' = (w + u) / R of the way out of the head.
    ratio = np.append(1 + change[skeleton.out_edges[skeleton.roots]], 1)
    expected = []
    for k, shape in enumerate(SHAPES):
        part = change[skeleton.gauge.offsets[k] : skeleton.gauge.offsets[k + 1]].reshape(shape)
        moved = (np.asarray(params[k]) + part) / ratio[
            np.broadcast_to(skeleton.gauge.heads[k], shape)
        ]
        expected.append(moved - np.asarray(params[k]))
    flat = np.concatenate([e.ravel() for e in expected])
    flat[skeleton.in_edges] = 0
    np.testing.assert_allclose(np.concatenate([np.ravel(c) for c in changes]), flat, atol=1e-14)
    np.testing.assert_allclose(float(state.least_ratio), 1 + change[red].min(), rtol=1e-6)
    assert np.abs(flat).max() > 1e-4


def test_the_two_options_differ_and_neither_is_invariant():
    """The control that the docstring promises: a rescaled copy takes another step."""
    params, skeleton = start()
    x = jnp.asarray(np.random.default_rng(2).normal(size=(2, 3, 3, 2)))
    moved = skeleton.gauge.rescale(params, jax.random.key(0), spread=0.5)
    reached = {}
    for name, tx in {
        "steps": in_path_space_with_reference_norms(optax.sgd(RATE), skeleton),
        "gradients": in_path_space_with_reference_norms(
            optax.sgd(RATE), skeleton, scale="gradients"
        ),
        "exact": gsgd(RATE, skeleton),
    }.items():

        @compiled_quickly
        def outputs(start, tx=tx):
            grads = jax.grad(lambda w: jnp.mean(network(w, x) ** 2))(start)
            updates, _ = tx.update(grads, tx.init(start), start)
            return network(optax.apply_updates(start, updates), x)

        reached[name] = outputs(params), outputs(moved)
    gaps = {name: float(jnp.abs(one - two).max()) for name, (one, two) in reached.items()}
    assert gaps["exact"] < 1e-10
    assert min(gaps["steps"], gaps["gradients"]) > 1e-4
    assert jnp.abs(reached["steps"][0] - reached["gradients"][0]).max() > 1e-4


def test_dense_layers_are_not_scaled():
    params = perceptron([3, 4, 2], True)
    skeleton = choose_skeleton(mlp_gauge(params), params, rule="largest", basis="paths")
    grads = jax.tree.map(jnp.cos, params)
    one, two = (
        compiled_quickly(tx.update)(grads, tx.init(params), params)[0]
        for tx in (
            gsgd(RATE, skeleton, max_ratio=None),
            in_path_space_with_reference_norms(optax.sgd(RATE), skeleton),
        )
    )
    assert furthest(one, two) == 0


@pytest.mark.usefixtures("unchecked")
def test_bad_options_are_refused():
    params, skeleton = start()
    with pytest.raises(ValueError, match="'steps' or 'gradients', got 'weights'"):
        in_path_space_with_reference_norms(optax.sgd(RATE), skeleton, scale="weights")
    cycles = choose_skeleton(skeleton.gauge, params, basis="cycles")
    with pytest.raises(ValueError, match="basis 'paths'"):
        in_path_space_with_reference_norms(optax.sgd(RATE), cycles)
    with pytest.raises(ValueError, match="max_ratio must be above 1, got 1"):
        in_path_space_with_reference_norms(optax.sgd(RATE), skeleton, max_ratio=1.0)
    tx = in_path_space_with_reference_norms(optax.sgd(RATE), skeleton)
    with pytest.raises(ValueError, match="you are not passing `params`"):
        tx.update(params, tx.init(params))
