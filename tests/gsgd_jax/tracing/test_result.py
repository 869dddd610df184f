"""What was found acts on parameters, says what it is, and is verified."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gsgd_jax import choose_skeleton, mlp_gauge
from gsgd_jax.tracing import find_gauge
from tests.gsgd_jax.tracing.models import MODELS


@pytest.mark.parametrize("name", [name for name, model in MODELS.items() if not model.graph])
def test_says_what_has_no_skeleton(x64, name):
    model = MODELS[name]
    found = find_gauge(model.apply, *model.draw(0))
    assert found.obstacle in found.names
    assert str(found).startswith(f"rescaling group: {model.nodes} nodes")
    assert f"not a graph ({found.obstacle} moves" in str(found)
    assert "no skeleton; `choose_section` gives it" in str(found)
    with pytest.raises(ValueError, match="must have the leaves of the parameters that were"):
        found.rescale({"gate": jnp.ones((2, 2))}, jax.random.key(0))


def test_acts_as_mlp_gauge(x64):
    model = MODELS["mlp"]
    params, x = model.draw(0)
    found = find_gauge(model.apply, params, x)
    named = mlp_gauge(params, layers=[("w1", "b1"), ("w2", "b2"), ("w3", "b3")])
    scales = jnp.exp(jax.random.normal(jax.random.key(0), (11,)))
    for ours, theirs in zip(
        jax.tree.leaves(found.act(params, scales)),
        jax.tree.leaves(named.act(params, scales)),
        strict=True,
    ):
        np.testing.assert_array_equal(ours, theirs)
    assert found.num_edges == named.num_edges
    for rule in ("diagonal", "largest"):
        ours, theirs = (
            choose_skeleton(g, params, rule=rule, basis="paths") for g in (found, named)
        )
        np.testing.assert_array_equal(ours.in_edges, theirs.in_edges)
        np.testing.assert_array_equal(ours.out_edges, theirs.out_edges)


def test_summary_has_nodes_edges_and_free_dimensions_of_every_leaf(x64):
    model = MODELS["flat_heads"]
    lines = str(find_gauge(model.apply, *model.draw(0))).split("\n")[1:5]
    # A node takes its dimension from the leaf that has it first: query-key ones from k.
    assert [line.split("  ")[-1].strip() for line in lines] == [
        "18 edges, 12 free",
        "12 edges, 6 free",
        "18 edges, 18 free",
        "18 edges, 18 free",
    ]


def test_pins_name_primitive_and_line():
    def model(w, x):
        return jnp.tanh(x @ w[0]) @ w[1] + jax.nn.relu(x @ w[2]) @ w[3]

    w = [jnp.ones((2, 3)), jnp.ones((3, 2)), jnp.ones((2, 4)), jnp.ones((4, 2))]
    gauge = find_gauge(model, w, jnp.ones((1, 2)))
    assert gauge.num_nodes == 4
    (pin,) = gauge.pins
    assert (pin.primitive, pin.scales) == ("tanh", 3)
    line = model.__code__.co_firstlineno + 1
    assert pin.source == f"test_result.py:{line} ({model.__qualname__})"
    assert f"pinned by tanh at {pin.source}: 3 scales" in str(gauge)


def test_a_pin_within_a_library_names_the_line_that_calls_it():
    """Both calls share one traced function, whose own lines are JAX's."""

    def model(w, x):
        x = jax.nn.relu6(x @ w[0])
        return jax.nn.relu6(x @ w[1]) @ w[2]

    w = [jnp.ones((2, 3)), jnp.ones((3, 4)), jnp.ones((4, 2))]
    gauge = find_gauge(model, w, jnp.ones((1, 2)))
    first = model.__code__.co_firstlineno + 1
    assert [(pin.primitive, pin.source, pin.scales) for pin in gauge.pins] == [
        ("min", f"test_result.py:{first} ({model.__qualname__})", 3),
        ("min", f"test_result.py:{first + 1} ({model.__qualname__})", 4),
    ]


def test_a_pin_by_what_the_model_computes_of_nothing():
    """Waves of the position, as transformers add to what they look up."""

    def model(w, tokens):
        waves = jnp.sin(jnp.arange(5.0)[:, None] / 10.0 ** jnp.arange(3.0)[None])
        return jax.nn.relu((w[0][tokens] + waves) @ w[1]) @ w[2]

    w = [jnp.ones((7, 3)), jnp.ones((3, 4)), jnp.ones((4, 2))]
    gauge = find_gauge(model, w, jnp.zeros(5, jnp.int32))
    assert gauge.num_nodes == 4
    line = model.__code__.co_firstlineno + 2
    assert [(p.primitive, p.source, p.scales) for p in gauge.pins] == [
        ("add", f"test_result.py:{line} ({model.__qualname__})", 3)
    ]


def test_verify_says_by_how_much():
    model = MODELS["mlp"]
    params, x = jax.tree.map(lambda a: a.astype(jnp.float32), model.draw(0))
    gauge = find_gauge(model.apply, params, x)
    with pytest.raises(ValueError, match=r"moved them by \d.* of the largest"):
        gauge.verify(lambda p, x: jnp.tanh(x @ p["w1"]), params, x)


def test_verify_does_not_pass_where_nothing_can_be_seen():
    """A tanh network is none that a ReLU network's group fits, but with a head of zeros it was."""

    def network(activation):
        return lambda w, x: activation(x @ w[0]) @ w[1]

    draw = np.random.default_rng(0).normal
    params, x = [jnp.asarray(draw(size=(3, 4)), jnp.float32), jnp.zeros((4, 2))], jnp.ones((1, 3))
    gauge = find_gauge(network(jax.nn.relu), params, x)
    for activation in (jnp.tanh, jax.nn.relu):
        with pytest.raises(ValueError, match=r"these parameters and inputs all are .* w \+ 0.1"):
            gauge.verify(network(activation), params, x)
    there = jax.tree.map(lambda w: w + 0.1, params)
    assert gauge.verify(network(jax.nn.relu), there, x) < 1e-5
    with pytest.raises(ValueError, match="it moved them by"):
        gauge.verify(network(jnp.tanh), there, x)
