"""Normalisation makes nodes that absorb a scale, exactly but for its epsilon."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from common.networks import resnet
from gsgd_jax import choose_skeleton
from gsgd_jax.tracing import FoundGauge, RescalingGroup, find_gauge
from tests.gsgd_jax.tracing.normalised import NORMALISED
from tests.oracles.null_space import null_space_dimension

every_model = pytest.mark.parametrize("name", NORMALISED)


@every_model
def test_counts_absorbing_and_approximate_nodes(x64, name):
    model = NORMALISED[name]
    at = model.at(1e-5)
    params, x = at.draw(0)
    found = find_gauge(at.apply, params, x)
    assert isinstance(found, RescalingGroup)
    assert (found.num_nodes, found.num_absorbing) == (model.nodes, model.absorbing)
    assert len(found.approximate) == model.nodes - model.exact
    assert set(found.absorbing) <= set(found.approximate)
    assert {note.epsilon for note in found.approximations} == {1e-5}
    assert sum(note.nodes for note in found.approximations) == len(found.approximate)
    assert found.num_free == found.num_entries - model.nodes
    assert isinstance(found.gauge, FoundGauge)
    assert found.gauge.num_nodes == model.exact
    assert found.gauge.verify(at.apply, params, x, tolerance=1e-9) < 1e-9
    assert find_gauge(at.apply, params, x, absorbing=False) == found.gauge


@every_model
def test_is_exact_as_epsilon_goes_to_zero(x64, name):
    model = NORMALISED[name]
    at = model.at(1e-5)
    params, x = at.draw(0)
    found = find_gauge(at.apply, params, x)
    moved = found.rescale(params, jax.random.key(1))

    @jax.jit
    def run(p, epsilon):
        return model.apply(p, x, epsilon)

    def gap(epsilon):
        before, after = run(params, epsilon), run(moved, epsilon)
        return float(jnp.abs(before - after).max() / jnp.abs(before).max())

    assert gap(0.0) < 1e-9
    if name == "unit_kernels":  # its epsilon is the least norm, and bounds nothing here
        assert gap(1e-5) < 1e-9
    else:
        np.testing.assert_allclose(gap(1e-5) / gap(1e-6), 10, rtol=0.05)
    exact = find_gauge(model.at(0.0).apply, params, x)
    assert (exact.num_nodes, getattr(exact, "approximate", ())) == (model.nodes, ())
    assert exact.verify(model.at(0.0).apply, params, x, tolerance=1e-9) < 1e-9


@every_model
def test_agrees_with_the_null_space(x64, name):
    model = NORMALISED[name]

    def dimension(epsilon, floor):
        at = model.at(epsilon)
        seeds = range(model.seed, model.seed + 3)
        draws = ((p, (x,)) for p, x in (at.draw(seed, batch=96) for seed in seeds))
        return null_space_dimension(at.apply, draws, floor=floor)

    expected = model.nodes + model.shifts
    if model.linear:
        assert dimension(0.0, expected) > expected
        return
    assert dimension(0.0, expected) == expected
    if name in ("layer_norms", "rms_norms", "group_norms"):
        # With an epsilon the scales of the exact part are left. (Where a norm has one variance for
        # all inputs of a batch, on that batch its scale makes up for any change of the epsilon.)
        assert dimension(1e-2, model.exact + model.shifts) == model.exact + model.shifts


def test_verify_allows_for_epsilon_alone(x64):
    model = NORMALISED["residual"].at(1e-5)
    params, x = model.draw(0)
    found = find_gauge(model.apply, params, x)
    assert 1e-9 < found.verify(model.apply, params, x) < 1e-5**0.5
    with pytest.raises(ValueError, match=r"tolerance 1e-09"):
        found.verify(model.apply, params, x, tolerance=1e-9)
    # A model whose exact nodes are wrong by far less than epsilon's allowance is still refused.
    with pytest.raises(ValueError, match=r"tolerance 1.5e-08"):
        found.verify(lambda p, x: model.apply(p, x) + 1e-6 * p["out"].sum(), params, x)


def test_summary_names_them(x64):
    model = NORMALISED["residual"].at(1e-5)
    found = find_gauge(model.apply, *model.draw(0))
    head, *lines = str(found).split("\n")
    assert head == (
        "rescaling group: 22 nodes, 13 of them absorbing, 13 of them approximate, 142 of 142 "
        "parameters in the group, 120 free dimensions"
    )
    (first,) = [line for line in lines if line.split()[0] == "first"]
    assert "moves with 9 nodes (5 absorbing), 80 edges" in first
    free = [int(line.split()[-2]) for line in lines if line.endswith(" free")]
    assert sum(free) == found.num_free
    assert sum("approximate by epsilon 1e-05 in add at normalised.py" in line for line in lines)


def test_the_exact_part_has_skeletons(x64):
    model = NORMALISED["layer_norms"].at(1e-5)
    params, x = model.draw(0)
    found = find_gauge(model.apply, params, x)
    assert isinstance(found, RescalingGroup)
    assert found.gauge is not None
    assert choose_skeleton(found.gauge, params, rule="largest", basis="paths").gauge.num_nodes == 9


@pytest.mark.parametrize("side", ["added", "read", "large", "signed"])
def test_constants_that_are_no_epsilon_pin(x64, side):
    def model(p, x):
        h = x @ p["w"]
        size = (h * h).mean(0, keepdims=True)
        if side == "added":  # not divided by
            h = h * jnp.sqrt(size + 1e-5)
        elif side == "read":  # divided by, and seen besides
            size = size + 1e-5
            h = jnp.concatenate([h / jnp.sqrt(size), jnp.tanh(size)])
        elif side == "large":
            h = h / jnp.sqrt(size + 1.0)
        else:
            h = h / (h.mean(0, keepdims=True) + 1e-5)
        return h @ p["v"]

    params = {"w": jnp.ones((3, 4)), "v": jnp.ones((4, 2))}
    found = find_gauge(model, params, jnp.ones((5, 3)))
    assert isinstance(found, FoundGauge)
    assert found.num_nodes == 0
    (pin,) = (pin for pin in found.pins if pin.primitive == "add")
    assert pin.scales == 4


@pytest.mark.parametrize(
    "weight", ["signed", "less", "parameter", "mask of parameters", "activations", "rounded"]
)
def test_weights_that_may_be_negative_or_are_parameters_pin(x64, weight):
    def model(p, x, counts):
        weights = {
            "signed": x[:, :1],
            "less": (x[:, :1] > 0).astype(x.dtype) - 0.5,
            "parameter": p["m"],
            "mask of parameters": (p["m"] > 0).astype(x.dtype),
            "activations": ((x @ p["w"])[:, :1] > 0).astype(x.dtype),
            "rounded": counts.astype(jnp.int8).astype(x.dtype),  # 200 becomes -56
        }[weight]
        h = x @ p["w"]
        size = (weights * h**2).mean(0, keepdims=True)
        return (h / jnp.sqrt(size + 1e-5)) @ p["v"]

    params = {"w": jnp.ones((3, 4)), "v": jnp.ones((4, 2)), "m": jnp.ones((5, 1))}
    found = find_gauge(model, params, jnp.ones((5, 3)), jnp.ones((5, 1), jnp.uint8))
    assert getattr(found, "approximate", ()) == ()
    # The parameter as it is takes up one scale of all channels, exactly, and the epsilon the rest.
    assert found.num_nodes == (weight == "parameter")
    assert [pin.scales for pin in found.pins if pin.primitive == "add"] == [4]


@pytest.mark.parametrize("power", ["odd", "fraction", "unknown", "parameter", "mixed"])
def test_powers_that_may_be_negative_pin(x64, power):
    def model(p, x, exponent):
        exponents = {
            "odd": 3.0,
            "fraction": 2.5,
            "unknown": exponent,
            "parameter": p["y"],
            "mixed": jnp.array([[2.0, 3.0, 2.0, 2.0]]),
        }
        h = x @ p["w"]
        return (h / (jnp.mean(h ** exponents[power], 0, keepdims=True) + 1e-5)) @ p["v"]

    params = {"w": jnp.ones((3, 4)), "v": jnp.ones((4, 2)), "y": jnp.array(2.0)}
    found = find_gauge(model, params, jnp.ones((5, 3)), jnp.array(2.0))
    assert found.num_nodes == 0


def test_steps_of_a_recurrent_network_are_masked(x64):
    """Each step normalises the rows that its own mask says."""

    def model(p, xs, masks):
        def step(h, args):
            x, keep = args
            drive = x @ p["w"]
            size = jnp.mean(drive**2, 0, where=keep, keepdims=True)
            return jax.nn.relu(h + drive / jnp.sqrt(size + 1e-5)), None

        h, _ = jax.lax.scan(step, jnp.zeros((xs.shape[1], 4)), (xs, masks))
        return h @ p["v"]

    rng = np.random.default_rng(0)
    params = {"w": jnp.asarray(rng.normal(size=(3, 4))), "v": jnp.asarray(rng.normal(size=(4, 2)))}
    xs = jnp.asarray(rng.normal(size=(6, 5, 3)))
    masks = jnp.asarray(rng.random((6, 5, 1)) < 0.7)
    found = find_gauge(model, params, xs, masks)
    assert isinstance(found, RescalingGroup)
    assert (found.num_nodes, found.num_absorbing) == (4, 4)
    assert found.verify(model, params, xs, masks) < 1e-3


class Normal(nn.Module):
    norm: str
    train: bool = True

    @nn.compact
    def __call__(self, x, mask=None):
        x = nn.Dense(6, use_bias=False)(x)
        if self.norm == "batch":
            x = nn.BatchNorm(use_running_average=not self.train)(x, mask=mask)
        elif self.norm == "layer":
            x = nn.remat(nn.LayerNorm)()(x)
        elif self.norm == "rms":
            x = nn.RMSNorm()(x)
        else:
            x = nn.GroupNorm(num_groups=3)(x)
        return nn.Dense(2)(nn.relu(x))


FLAX = {"batch": (12, 6), "layer": (7, 1), "rms": (7, 1), "group": (9, 3)}


@pytest.mark.parametrize("norm", FLAX)
def test_linen(norm):
    model = Normal(norm)
    x = jax.random.normal(jax.random.key(0), (9, 4, 3))
    variables = jax.jit(model.init)(jax.random.key(1), x)

    def apply(params, x):
        return model.apply(variables | {"params": params}, x, mutable=["batch_stats"])[0]

    found = find_gauge(apply, variables["params"], x)
    assert isinstance(found, RescalingGroup)
    assert (found.num_nodes, found.num_absorbing) == FLAX[norm]
    assert found.verify(apply, variables["params"], x) < 3e-3


@pytest.mark.parametrize("where", ["given", "closed over", "in a jitted function"])
def test_linen_with_a_mask(where):
    model = Normal("batch")
    x = jax.random.normal(jax.random.key(0), (9, 3))
    mask = jnp.arange(9)[:, None] < 6
    variables = jax.jit(model.init)(jax.random.key(1), x)

    def masked(params, x, mask):
        given = variables | {"params": params}
        return model.apply(given, x, mask, mutable=["batch_stats"])[0]

    if where == "closed over":
        apply, inputs = lambda params, x: masked(params, x, mask), (x,)
    else:
        apply, inputs = jax.jit(masked) if where != "given" else masked, (x, mask)
    found = find_gauge(apply, variables["params"], *inputs)
    assert isinstance(found, RescalingGroup)
    assert (found.num_nodes, found.num_absorbing) == (12, 6)
    assert found.verify(apply, variables["params"], *inputs) < 3e-3


def test_nnx():
    class Net(nnx.Module):
        def __init__(self, rngs):
            self.first = nnx.Linear(3, 6, use_bias=False, rngs=rngs)
            self.norm = nnx.BatchNorm(6, rngs=rngs)
            self.last = nnx.Linear(6, 2, rngs=rngs)

        def __call__(self, x):
            return self.last(nnx.relu(self.norm(self.first(x))))

    graph, params, rest = nnx.split(Net(nnx.Rngs(0)), nnx.Param, ...)

    def apply(params, x):
        return nnx.merge(graph, params, rest, copy=True)(x)

    x = jax.random.normal(jax.random.key(0), (9, 3))
    found = find_gauge(apply, params, x)
    assert isinstance(found, RescalingGroup)
    assert (found.num_nodes, found.num_absorbing) == (12, 6)
    assert found.verify(apply, params, x) < 3e-3


def test_running_averages_move_if_they_are_parameters():
    model = Normal("batch", train=False)
    x = jax.random.normal(jax.random.key(0), (9, 3))
    variables = jax.jit(model.init)(jax.random.key(1), x)
    drawn = np.random.default_rng(0)
    variables = jax.tree.map(lambda a: jnp.asarray(drawn.uniform(0.5, 1, a.shape)), variables)
    # Kernel and running mean in, scale out: a second node a channel, and nothing approximate.
    together = find_gauge(model.apply, variables, x)
    assert isinstance(together, FoundGauge)
    assert together.num_nodes == 12
    assert together.verify(model.apply, variables, x) < 1e-5
    assert not together.touches(together.names.index("batch_stats/BatchNorm_0/var"))

    def closed(params, x):
        return model.apply(variables | {"params": params}, x)

    def beside(params, stats, x):
        return model.apply({"params": params, "batch_stats": stats}, x)

    params, stats = variables["params"], variables["batch_stats"]
    assert find_gauge(closed, params, x).num_nodes == 6
    assert find_gauge(beside, params, stats, x).num_nodes == 6


def test_residual_networks_of_the_experiments():
    network = resnet(8, 10, width=0.25)
    x = jax.ShapeDtypeStruct((2, 8, 8, 3), jnp.float32)
    variables = jax.eval_shape(network.init, jax.random.key(0), x)

    def apply(params, stats, x):
        given = {"params": params, "batch_stats": stats}
        return network.apply(given, x, train=True, mutable=["batch_stats"])[0]

    found = find_gauge(apply, variables["params"], variables["batch_stats"], x)
    # Every kernel's channels before their norm: 4 of the stem, twice 4 + 8 + 16 of the blocks.
    # After norms 4 + 8 + 16 within the blocks; the stream has 16, since shortcuts add no scale.
    assert isinstance(found, RescalingGroup)
    assert found.num_absorbing == 60
    assert found.num_nodes == 60 + 28 + 16
