"""Choices that lead to ground on every graph, cycles among the nodes or not."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gsgd_jax import GROUND, Gauge, Skeleton, balance, choose_skeleton, find_gauge
from gsgd_jax.coordinates.arborescence import arborescence
from gsgd_jax.coordinates.skeleton import edge_ends
from tests.gsgd_jax.networks import VALLEY, perceptron
from tests.gsgd_jax.tracing.models import MODELS

pytestmark = pytest.mark.usefixtures("x64")

CYCLIC = ["basic_block", "padded_block", "bottleneck", "relu_rnn"]
GRAPHS = [*CYCLIC, "cnn", "grouped_cnn", "depthwise_cnn", "densenet", "flat_heads"]
RULES = {
    "diagonal": {},
    "largest": {"rule": "largest"},
    "random": {"rule": "random", "key": jax.random.key(3)},
}


def dense(num_nodes, num_inputs=1):
    """Every node is fed by the inputs and by every node, itself included, and feeds one output."""
    units, ground = np.arange(num_nodes), np.full((1, 1), GROUND)
    return Gauge(
        names=("in", "recurrent", "out"),
        shapes=((num_inputs, num_nodes), (num_nodes, num_nodes), (num_nodes, 1)),
        tails=(ground, units[:, None], units[:, None]),
        heads=(units[None], units[None], ground),
        num_nodes=num_nodes,
    )


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", GRAPHS)
def test_every_rule_gives_a_skeleton_of_every_graph(name, rule):
    """Also from a rescaled copy, and then the same; residual and recurrent graphs have cycles."""
    model = MODELS[name]
    params, x = model.draw(0)
    gauge = find_gauge(model.apply, params, x)
    options = {"basis": "paths"} | RULES[rule]
    one = choose_skeleton(gauge, params, **options)  # which checks that it is one
    two = choose_skeleton(gauge, gauge.rescale(params, jax.random.key(1)), **options)
    assert one == two
    assert len(set(one.in_edges)) == gauge.num_nodes == model.nodes


@pytest.mark.parametrize("name", CYCLIC)
def test_cycles_are_what_this_is_for(name):
    """Each node's own largest entry closes a cycle here."""
    model = MODELS[name]
    params, x = model.draw(0)
    gauge = find_gauge(model.apply, params, x)
    balanced = [np.abs(leaf) for leaf in jax.tree.leaves(balance(params, gauge))]
    own = []
    for ids in (gauge.heads, gauge.tails):
        entries, nodes = (
            np.concatenate(
                [np.broadcast_to(a, s).ravel() for a, s in zip(b, gauge.shapes, strict=True)]
            )
            for b in (balanced, ids)
        )
        own.append(
            np.array([np.argmax(np.where(nodes == h, entries, -1)) for h in range(gauge.num_nodes)])
        )
    with pytest.raises(ValueError, match="must reach ground"):
        Skeleton(gauge, *own)
    choose_skeleton(gauge, params, rule="largest", basis="paths")  # and this does not


def ways(gauge, edges, end):
    """How many edges lead from each node to ground."""
    ends = edge_ends(gauge, edges)[end]
    lengths = np.zeros(len(edges), int)
    for start in range(len(edges)):
        node = start
        while node != GROUND:
            node, lengths[start] = ends[node], lengths[start] + 1
            assert lengths[start] <= len(edges)
    return lengths


def test_in_a_cycle_edges_lead_nearer_to_ground():
    """0 is fed by the input; 1 and 2 by 0 and by each other, which they like better."""
    preferences = [np.array([[1.0, 0.0, 0.0]]), np.zeros((3, 3)), np.ones((3, 1))]
    preferences[1][0, 1:] = 1
    preferences[1][1, 2] = preferences[1][2, 1] = preferences[1][1, 0] = 9
    edges = arborescence(dense(3), preferences, side="input")
    np.testing.assert_array_equal(edge_ends(dense(3), edges)[0], [GROUND, 0, 0])
    np.testing.assert_array_equal(arborescence(dense(3), preferences, side="output"), [12, 13, 14])


def test_ways_along_a_residual_stream_are_short():
    """Ten blocks tie one stream: without the limit ways wander, with it they are the shortest."""
    width, blocks = 6, 10
    stream = np.arange(width)
    inner = [width + b * width + stream for b in range(blocks)]
    ground = np.full((1, 1), GROUND)
    tails = [ground, *(ids[:, None] for unit in inner for ids in (stream, unit)), stream[:, None]]
    heads = [stream[None], *(ids[None] for unit in inner for ids in (unit, stream)), ground]
    shapes = [(2, width), *[(width, width)] * (2 * blocks), (width, 2)]
    names = tuple(map(str, range(len(shapes))))
    gauge = Gauge(names, tuple(shapes), tuple(tails), tuple(heads), width * (1 + blocks))
    draw = np.random.default_rng(0).normal
    params = [jnp.asarray(draw(size=shape)) for shape in shapes]
    for rule in RULES.values():
        skeleton = choose_skeleton(gauge, params, basis="paths", **rule)
        expected = np.where(np.arange(gauge.num_nodes) < width, 1, 2)
        np.testing.assert_array_equal(ways(gauge, skeleton.in_edges, 0), expected)
        np.testing.assert_array_equal(ways(gauge, skeleton.out_edges, 1), expected)


def test_a_bias_shortens_no_way_unless_it_is_the_only_one():
    """A recurrent layer with biases, one unit of which nothing else feeds."""
    units, ground = np.arange(2), np.full((1, 1), GROUND)
    gauge = Gauge(
        names=("bias", "in", "recurrent", "out"),
        shapes=((2,), (1, 2), (2, 2), (2, 1)),
        tails=(np.full(1, GROUND), ground, units[:, None], units[:, None]),
        heads=(units, units[None], units[None], ground),
        num_nodes=2,
    )
    preferences = [np.ones(2), np.array([[1.0, 0.0]]), np.zeros((2, 2)), np.ones((2, 1))]
    preferences[2][0, 1] = 2
    np.testing.assert_array_equal(arborescence(gauge, preferences, side="input"), [0, 5])
    preferences[2][0, 1] = 0
    np.testing.assert_array_equal(arborescence(gauge, preferences, side="input"), [0, 1])


def test_nodes_that_nothing_feeds_are_named():
    preferences = [np.array([[1.0, 0.0]]), np.diag([1.0, 1.0]), np.ones((2, 1))]
    with pytest.raises(ValueError, match=r"at the input .* but 1 nodes do not, \[1\]"):
        arborescence(dense(2), preferences, side="input")


@settings(derandomize=True, deadline=None, max_examples=60)
@given(
    widths=st.lists(st.integers(1, 4), min_size=1, max_size=4),
    edges=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=6),
    seed=st.integers(0, 10**6),
)
def test_any_graph_of_layers(widths, edges, seed):
    """Ground is reached on both sides; nodes off all cycles are entered by what they like best."""
    firsts = np.concatenate([[0], np.cumsum(widths)])
    layers = [np.arange(a, b) for a, b in itertools.pairwise(firsts)]
    joins = [(a % len(widths), b % len(widths)) for a, b in edges]
    joins += list(itertools.pairwise(range(len(widths))))  # every layer is fed, and feeds
    ends = [(np.array([GROUND]), layers[0]), (layers[-1], np.array([GROUND]))]
    ends += [(layers[a], layers[b]) for a, b in joins]
    gauge = Gauge(
        names=tuple(map(str, range(len(ends)))),
        shapes=tuple((len(tail), len(head)) for tail, head in ends),
        tails=tuple(tail[:, None] for tail, _ in ends),
        heads=tuple(head[None] for _, head in ends),
        num_nodes=int(firsts[-1]),
    )
    preferences = [np.random.default_rng(seed).uniform(0.1, 1, s) for s in gauge.shapes]
    skeleton = Skeleton(
        gauge,
        arborescence(gauge, preferences, side="input"),
        arborescence(gauge, preferences, side="output"),
    )
    leads = np.zeros((len(widths),) * 2, int)
    for a, b in joins:
        leads[a, b] = 1
    reach = np.linalg.matrix_power(leads + np.eye(len(widths), dtype=int), len(widths)) > 0
    flat = np.concatenate([p.ravel() for p in preferences])
    tails, heads = edge_ends(gauge, np.arange(gauge.num_entries))
    for k, layer in enumerate(layers):
        if not any(leads[k, j] and reach[j, k] for j in range(len(widths))):
            for node in layer:
                assert flat[skeleton.in_edges[node]] == flat[heads == node].max()
                assert flat[skeleton.out_edges[node]] == flat[tails == node].max()


def test_a_given_skeleton_is_taken_and_checked():
    params = perceptron(VALLEY, True)
    gauge = find_gauge(_forward, params, jnp.ones((1, VALLEY[0])))
    drawn = choose_skeleton(gauge, params, rule="random", key=jax.random.key(0), basis="paths")
    taken = choose_skeleton(gauge, params, rule=drawn, basis="paths")
    assert taken == drawn
    balanced = choose_skeleton(gauge, params, rule=drawn, basis="cycles", tree_values="balanced")
    np.testing.assert_array_equal(balanced.in_edges, drawn.in_edges)
    flat, unravel = jax.flatten_util.ravel_pytree(params)
    with pytest.raises(ValueError, match="no entry of the skeleton is zero"):
        choose_skeleton(
            gauge, unravel(flat.at[drawn.in_edges[0]].set(0)), rule=drawn, basis="paths"
        )


def test_random_choices_differ_by_key_and_avoid_zeros():
    params = perceptron(VALLEY, True)
    zeroed = [(kernel, jnp.zeros_like(bias)) for kernel, bias in params]
    gauge = find_gauge(_forward, params, jnp.ones((1, VALLEY[0])))
    found = {
        choose_skeleton(gauge, zeroed, rule="random", key=jax.random.key(k), basis="paths")
        for k in range(5)
    }
    assert len(found) == 5


@pytest.mark.usefixtures("unchecked")
def test_groups_that_are_no_graph_are_refused():
    model = MODELS["gated"]
    params, x = model.draw(0)
    with pytest.raises(ValueError, match=r"needs a graph, .* is `group.gauge`"):
        choose_skeleton(find_gauge(model.apply, params, x), params, basis="paths")


def _forward(params, x):
    for i, (kernel, bias) in enumerate(params):
        x = (jax.nn.relu(x) if i else x) @ kernel + jnp.broadcast_to(bias, (x.shape[0], bias.size))
    return x
