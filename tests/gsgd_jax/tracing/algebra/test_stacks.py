"""Layers run by a scan have the group that the same layers have in a loop."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax

from gsgd_jax import balance, choose_section, choose_skeleton, in_path_space
from gsgd_jax.tracing import FoundGauge, RescalingGroup, find_gauge
from tests.gsgd_jax.tracing.stacked_layers import LAYERS, STACKS, as_list, as_stack
from tests.gsgd_jax.trajectories import assert_one_function

every_stack = pytest.mark.parametrize("name", STACKS)


@every_stack
def test_scan_and_loop_have_equal_nodes(x64, name):
    stack = STACKS[name]
    params, x = stack.draw()
    group = find_gauge(stack.scanned, params, x)
    loop = find_gauge(stack.looped, as_list(params), x)
    assert group.num_nodes == loop.num_nodes == stack.nodes
    assert (group.num_edges, group.num_free) == (loop.num_edges, loop.num_free)
    assert getattr(group, "num_absorbing", 0) == getattr(loop, "num_absorbing", 0)
    assert type(group) is type(loop)
    assert group.verify(stack.scanned, params, x, tolerance=1e-9) < 1e-9
    moved = group.rescale(params, jax.random.key(1))
    np.testing.assert_allclose(
        stack.looped(as_list(moved), x), stack.looped(as_list(params), x), rtol=1e-9
    )


@every_stack
def test_scan_and_loop_balance_alike(x64, name):
    stack = STACKS[name]
    params, x = stack.draw()
    one = balance(params, find_gauge(stack.scanned, params, x))
    other = as_stack(balance(as_list(params), find_gauge(stack.looped, as_list(params), x)))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9), one, other)


@every_stack
def test_trajectories_in_path_space_are_invariant(x64, name):
    stack = STACKS[name]
    params, x = stack.draw()
    group = find_gauge(stack.scanned, params, x)
    assert_one_function(stack, params, x, group, in_path_space(optax.sgd(1e-3), group))


@pytest.mark.parametrize("name", ["dense", "residual"])
def test_graphs_of_stacks_have_skeletons(x64, name):
    stack = STACKS[name]
    params, x = stack.draw()
    gauge = find_gauge(stack.scanned, params, x)
    assert isinstance(gauge, FoundGauge)
    for rule in ("diagonal", "largest"):
        skeleton = choose_skeleton(gauge, params, rule=rule, basis="paths")
        tx = in_path_space(optax.sgd(1e-4, momentum=0.9), skeleton)
        assert_one_function(stack, params, x, gauge, tx)


@pytest.mark.parametrize("name", ["gated", "attention"])
def test_groups_of_stacks_have_sections(x64, name):
    stack = STACKS[name]
    params, x = stack.draw()
    group = find_gauge(stack.scanned, params, x)
    assert isinstance(group, RescalingGroup)
    tx = in_path_space(optax.sgd(1e-4), choose_section(group, params))
    assert_one_function(stack, params, x, group, tx)


def test_pruned_layers_stay_pruned(x64):
    """Entries that are zero stay so, each layer by its own mask."""
    stack = STACKS["residual"]
    params, x = stack.draw()
    rng = np.random.default_rng(0)
    masks = jax.tree.map(lambda p: (rng.random(p.shape) < 0.7).astype(p.dtype), params)
    params = jax.tree.map(jnp.multiply, params, masks)
    group = find_gauge(stack.scanned, params, x)
    tx = in_path_space(optax.sgd(1e-3), group)
    state = tx.init(params)
    grads = jax.grad(lambda p: jnp.mean(stack.scanned(p, x) ** 2))(params)
    grads = jax.tree.map(jnp.multiply, grads, masks)
    updates, _ = tx.update(grads, state, params)
    for update, mask in zip(*map(jax.tree.leaves, (updates, masks)), strict=True):
        assert np.isfinite(update).all()
        assert not np.asarray(update)[mask == 0].any()
    assert_one_function(stack, params, x, group, tx)


@pytest.mark.parametrize("options", [{"reverse": True}, {"unroll": 2}, {"unroll": True}])
def test_any_way_of_scanning(x64, options):
    stack = STACKS["dense"]
    params, x = stack.draw()

    def apply(params, x):
        return stack.scanned(params, x, **options)

    gauge = find_gauge(apply, params, x)
    assert gauge.num_nodes == stack.nodes
    assert gauge.verify(apply, params, x, tolerance=1e-9) < 1e-9


def _remat(stack, params, x):
    layer = jax.checkpoint(lambda h, p: (stack.layer(p, h, 0.0), None))
    return lax.scan(layer, x @ params["in"], params["layers"])[0] @ params["out"]


def _half_precision(stack, params, x):
    layers = jax.tree.map(lambda p: (0.5 * p).astype(jnp.float32), params["layers"])
    first, last = (params[name].astype(jnp.float32) for name in ("in", "out"))
    return stack.scanned({"in": first, "layers": layers, "out": last}, x.astype(jnp.float32))


def _layers_last(stack, params, x):
    layers = jax.tree.map(lambda p: jnp.moveaxis(p, -1, 0), params["layers"])
    return stack.scanned(params | {"layers": layers}, x)


def _with_data(stack, params, x):
    """Each layer reads its own part of the inputs, and its number, beside its parameters."""

    def body(h, operands):
        p, more, number = operands
        h = jnp.where(number % 2 == 0, stack.layer(p, h, 0.0), relu_of_negative(h, p, stack))
        return h * jnp.abs(more), jnp.sum(h, axis=-1)

    more = jnp.stack([x[:, :1] + i for i in range(LAYERS)])
    operands = (params["layers"], more, jnp.arange(LAYERS))
    return lax.scan(body, x @ params["in"], operands)[0] @ params["out"]


def relu_of_negative(h, p, stack):
    return stack.layer(p, -h, 0.0)


def _by_index(stack, params, x):
    h = x @ params["in"]
    for i in range(LAYERS):
        h = stack.layer(jax.tree.map(lambda p, i=i: p[i], params["layers"]), h, 0.0)
    return h @ params["out"]


def _counted(stack, params, x):
    def body(i, h):
        return stack.layer(jax.tree.map(lambda p: p[i], params["layers"]), h, 0.0)

    return lax.fori_loop(0, LAYERS, body, x @ params["in"]) @ params["out"]


def _of_a_list(stack, params, x):
    return stack.scanned(as_stack(params), x)


def _in_part(stack, params, x):
    """The first layer by itself, the others by a scan."""
    first, others = (jax.tree.map(lambda p, s=s: p[s], params["layers"]) for s in (0, slice(1, 3)))
    h = stack.layer(first, x @ params["in"], 0.0)
    h, _ = lax.scan(lambda h, p: (stack.layer(p, h, 0.0), None), h, others)
    return h @ params["out"]


WAYS = {
    "remat": _remat,
    "half precision": _half_precision,
    "layers last": _layers_last,
    "with data": _with_data,
    "by index": _by_index,
    "counted": _counted,
    "of a list": _of_a_list,
    "in part": _in_part,
}


@pytest.mark.parametrize("way", WAYS)
def test_stacks_of_parameters_are_followed(x64, way):
    stack = STACKS["dense"]
    params, x = stack.draw()
    if way == "layers last":
        layers = jax.tree.map(lambda p: jnp.moveaxis(p, 0, -1), params["layers"])
        params = params | {"layers": layers}
    if way == "of a list":
        params = as_list(params)

    def apply(params, x):
        return WAYS[way](stack, params, x)

    gauge = find_gauge(apply, params, x)
    # Negated inputs are of the same scales, and what is summed over a layer's units is not seen.
    assert gauge.num_nodes == stack.nodes
    tolerance = 1e-4 if way == "half precision" else 1e-9
    assert gauge.verify(apply, params, x, tolerance=tolerance) < tolerance


def test_collected_outputs_are_kept_apart(x64):
    """What a layer puts out is seen, and keeps its scale; the first kernel is before all."""
    stack = STACKS["residual"]
    params, x = stack.draw()

    def apply(params, x):
        def body(h, p):
            h = stack.layer(p, h, 0.0)
            return h, h @ params["out"]

        return lax.scan(body, x @ params["in"], params["layers"])[1]

    gauge = find_gauge(apply, params, x)
    assert gauge.num_nodes == stack.nodes
    assert gauge.verify(apply, params, x, tolerance=1e-9) < 1e-9


def test_layers_within_layers(x64):
    """Blocks of two layers: parameters [blocks, layers, ...]."""
    rng = np.random.default_rng(0)
    shapes = {"up": (3, 2, 4, 5), "down": (3, 2, 5, 4), "mix": (3, 4, 4)}
    params = {name: jnp.asarray(rng.normal(size=shape)) for name, shape in shapes.items()}
    params |= {"in": jnp.asarray(rng.normal(size=(3, 4))), "out": jnp.ones((4, 2))}
    x = jnp.asarray(rng.normal(size=(6, 3)))

    def apply(params, x):
        def layer(h, p):
            return h + jax.nn.relu(h @ p[0]) @ p[1], None

        def block(h, p):
            return jax.nn.relu(lax.scan(layer, h, p[:2])[0] @ p[2]), None

        layers = tuple(params[name] for name in ("up", "down", "mix"))
        return lax.scan(block, x @ params["in"], layers)[0] @ params["out"]

    gauge = find_gauge(apply, params, x)
    # A stream of 4 before and after every block, and 5 hidden units in each of 6 layers.
    assert gauge.num_nodes == 4 * 4 + 6 * 5
    assert isinstance(gauge, FoundGauge)
    assert gauge.verify(apply, params, x, tolerance=1e-9) < 1e-9
    assert np.isfinite(jnp.concatenate([p.ravel() for p in balance(params, gauge).values()])).all()


def test_large_stacks_from_shapes_alone():
    """No table over both axes of a kernel and its layers is made."""
    wide, layers = 192, 12

    def apply(params, x):
        return lax.scan(lambda h, p: (h + jax.nn.relu(h @ p[0]) @ p[1], None), x, params)[0]

    params = [
        jax.ShapeDtypeStruct((layers, *shape), jnp.float32) for shape in ((8, wide), (wide, 8))
    ]
    gauge = find_gauge(apply, params, jax.ShapeDtypeStruct((2, 8), jnp.float32))
    assert gauge.num_nodes == layers * wide
    assert isinstance(gauge, FoundGauge)
    assert [ids.shape for ids in gauge.tails] == [(1, 8, 1), (layers, wide, 1)]


def test_too_many_layers_share_their_scales_and_a_pin_says_so(x64):
    def apply(params, x):
        return lax.scan(lambda h, p: (h + jax.nn.relu(h @ p[0]) @ p[1], None), x, params)[0]

    rng = np.random.default_rng(0)
    params = [jnp.asarray(rng.normal(size=(200, *shape))) for shape in ((4, 3), (3, 4))]
    x = jnp.ones((2, 4))
    gauge = find_gauge(apply, params, x)
    assert gauge.num_nodes == 3
    assert any(pin.primitive == "scan" for pin in gauge.pins)
    assert gauge.verify(apply, jax.tree.map(lambda p: 0.1 * p, params), x, tolerance=1e-9) < 1e-9


class Block(nn.Module):
    @nn.compact
    def __call__(self, x, _):
        y = nn.RMSNorm()(x)
        return x + nn.Dense(4)(nn.relu(nn.Dense(6)(y))), None


class Blocks(nn.Module):
    scanned: bool
    axis: int = 0

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(4)(x)
        if self.scanned:
            options = {"variable_axes": {"params": self.axis}, "split_rngs": {"params": True}}
            x, _ = nn.scan(nn.remat(Block), length=LAYERS, **options)()(x, None)
        else:
            for _ in range(LAYERS):
                x, _ = Block()(x, None)
        return nn.Dense(2)(x)


@pytest.mark.parametrize("axis", [0, 1])
def test_linen_scan(axis):
    x = jax.random.normal(jax.random.key(0), (5, 3))
    groups = []
    for model in (Blocks(scanned=False), Blocks(scanned=True, axis=axis)):
        params = jax.jit(model.init)(jax.random.key(1), x)
        group = find_gauge(model.apply, params, x)
        assert group.verify(model.apply, params, x) < 5e-3
        groups.append(group)
    loop, scan = groups
    assert scan.num_nodes == loop.num_nodes == 1 + LAYERS * (4 + 6)
    assert (scan.num_absorbing, scan.approximate) == (loop.num_absorbing, loop.approximate)
