"""The rescaling group as a graph: section 1 of the derivation."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gsgd_jax import GROUND, Gauge, find_gauge, mlp_gauge, trivial_gauge
from tests.gsgd_jax.networks import WIDTHS, apply, batch, furthest, perceptron

pytestmark = pytest.mark.usefixtures("x64")


def one_hidden_layer(**changes):
    fields = {
        "names": ("hidden", "out"),
        "shapes": ((3, 2), (2, 1)),
        "tails": (np.full((3, 1), GROUND), np.array([[0], [1]])),
        "heads": (np.array([[0, 1]]), np.full((1, 1), GROUND)),
        "num_nodes": 2,
    }
    return Gauge(**{**fields, **changes})


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("widths", WIDTHS)
def test_rescaling_moves_the_weights_and_not_the_function(widths, bias):
    params = perceptron(widths, bias)
    gauge = mlp_gauge(params)
    moved = jax.jit(gauge.rescale)(params, jax.random.key(3))
    x, _ = batch(widths)
    outputs = jax.jit(apply)
    assert furthest(moved, params) > 0.1
    assert float(jnp.abs(outputs(params, x)).max()) > 0.1
    np.testing.assert_allclose(outputs(moved, x), outputs(params, x), rtol=1e-10, atol=1e-12)


def test_action_is_a_group_action():
    params = perceptron([4, 9, 3, 6, 2], True)
    gauge = mlp_gauge(params)
    one, two = np.exp(np.random.default_rng(0).normal(size=(2, gauge.num_nodes)))
    assert furthest(gauge.act(gauge.act(params, one), two), gauge.act(params, one * two)) < 1e-12
    assert furthest(gauge.act(params, np.ones(gauge.num_nodes)), params) == 0


def test_action_multiplies_by_head_over_tail():
    gauge = one_hidden_layer()
    params = [jnp.ones((3, 2)), jnp.ones((2, 1))]
    moved = gauge.act(params, np.array([2.0, 4.0]))
    np.testing.assert_array_equal(moved[0], [[2.0, 4.0]] * 3)
    np.testing.assert_array_equal(moved[1], [[0.5], [0.25]])


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32, jnp.float64])
def test_rescaling_keeps_dtypes(dtype):
    params = perceptron([3, 4, 2], True, dtype=dtype)
    moved = mlp_gauge(params).rescale(params, jax.random.key(0))
    assert {leaf.dtype for leaf in jax.tree.leaves(moved)} == {jnp.dtype(dtype)}


def test_spread_is_that_of_the_log_scales():
    params = [jnp.ones((1, 4000)), jnp.ones((4000, 1))]
    moved = mlp_gauge(params).rescale(params, jax.random.key(0), spread=0.2)
    np.testing.assert_allclose(jnp.log(moved[0]).std(), 0.2, rtol=0.05)


def test_dimensions():
    gauge = mlp_gauge(perceptron([4, 6, 5, 3], True))
    assert (gauge.num_nodes, gauge.num_entries, gauge.num_free) == (11, 83, 72)
    assert gauge.num_edges == 80  # the last bias is not moved


def test_gauges_are_equal_and_hashed_by_content():
    assert one_hidden_layer() == one_hidden_layer()
    assert hash(one_hidden_layer()) == hash(one_hidden_layer())
    other = one_hidden_layer(heads=(np.array([[1, 0]]), np.full((1, 1), GROUND)))
    assert one_hidden_layer() != other
    assert one_hidden_layer() != "gauge"


def test_gauge_is_a_static_argument_of_jit():
    traced = []

    @jax.jit
    def closed_over(params):
        return one_hidden_layer().act(params, jnp.ones(2))

    def passed(params, gauge):
        traced.append(gauge)
        return gauge.act(params, jnp.ones(2))

    params = [jnp.ones((3, 2)), jnp.ones((2, 1))]
    assert furthest(closed_over(params), params) == 0
    compiled = jax.jit(passed, static_argnums=1)
    compiled(params, one_hidden_layer())
    compiled(params, one_hidden_layer())
    assert len(traced) == 1


def test_arrays_cannot_be_written_to():
    with pytest.raises(ValueError, match="read-only"):
        one_hidden_layer().tails[0][0, 0] = 1


def test_summary():
    text = str(mlp_gauge(perceptron([2, 3, 1], True)))
    assert text.splitlines() == [
        "gauge: 3 nodes, 12 of 13 parameters in the group, 10 free dimensions",
        "  0/0  (2, 3)  ground -> nodes 0-2",
        "  0/1  (3,)    ground -> nodes 0-2",
        "  1/0  (3, 1)  nodes 0-2 -> ground",
        "  1/1  (1,)    outside the group",
    ]
    assert repr(one_hidden_layer()) == "Gauge(2 nodes, 8 edges, 6 free)"


def test_trivial_gauge_leaves_everything_alone():
    params = {"a": jnp.ones((2, 3)), "count": jnp.ones([], jnp.int32)}
    gauge = trivial_gauge(params)
    assert (gauge.num_nodes, gauge.num_edges, gauge.num_free) == (0, 0, 7)
    assert gauge.rescale(params, jax.random.key(0)) is not params
    np.testing.assert_array_equal(gauge.rescale(params, jax.random.key(0))["a"], params["a"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"names": ("hidden",)}, "one name, shape, tail and head a leaf"),
        (
            {"tails": (np.full((2, 1), -1), np.array([[0], [1]]))},
            r"hidden .* broadcasts to \(3, 2\)",
        ),
        ({"tails": (np.full((3, 1), -1.0), np.array([[0], [1]]))}, "must be integers"),
        ({"tails": (np.full((3, 1), -1), np.array([[0], [2]]))}, r"in -1 \.\.\. 1, got 0 \.\.\. 2"),
        ({"num_nodes": 3}, r"must be the tail of an edge, but 1 are of none, \[2\]"),
        (
            {"heads": (np.array([[0, 0]]), np.full((1, 1), -1))},
            r"must be the head of an edge, but 1 are of none, \[1\]",
        ),
    ],
)
def test_bad_graphs_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        one_hidden_layer(**changes)


def test_trees_that_do_not_fit_are_refused():
    gauge = one_hidden_layer()
    with pytest.raises(ValueError, match=r"hidden \(3, 2\), got \(2, 3\)"):
        gauge.leaves([jnp.ones((2, 3)), jnp.ones((2, 1))])
    with pytest.raises(ValueError, match="2 leaves, got 1"):
        gauge.leaves([jnp.ones((3, 2))])
    with pytest.raises(ValueError, match="put the mask inside"):
        gauge.leaves([jnp.ones((3, 2)), optax.MaskedNode()])
    with pytest.raises(TypeError, match="real floating-point parameters, got int32"):
        gauge.act([jnp.ones((3, 2), jnp.int32), jnp.ones((2, 1))], jnp.ones(2))


TREE = {"w": np.ones((2, 4)), "v": np.ones((4, 1))}


def test_a_tree_with_other_leaves_is_told_by_their_names():
    gauge = find_gauge(lambda p, x: jax.nn.relu(x @ p["w"]) @ p["v"], TREE, jnp.ones((1, 2)))
    with pytest.raises(ValueError, match="2 leaves, got 1 without v;"):
        gauge.leaves({"w": TREE["w"]})
    with pytest.raises(ValueError, match="2 leaves, got 3 with b;"):
        gauge.leaves(TREE | {"b": jnp.ones(4)})
    with pytest.raises(ValueError, match=r"w \(2, 4\), got \(2, 5\);"):
        gauge.leaves(TREE | {"w": jnp.ones((2, 5))})


def test_parameters_without_a_floating_point_number_are_refused():
    counts = jax.tree.map(lambda leaf: leaf.astype(np.int32), TREE)
    with pytest.raises(TypeError, match="real floating-point parameters, got int32 alone; cast"):
        find_gauge(lambda p, x: x @ p["w"] @ p["v"], counts, jnp.ones((1, 2)))


def test_other_containers_with_the_same_leaves_are_accepted():
    kernels = [jnp.ones((3, 2)), jnp.ones((2, 1))]
    wrapped = {"params": {"a": kernels[0], "b": kernels[1]}}
    moved = one_hidden_layer().act(wrapped, np.array([2.0, 4.0]))
    np.testing.assert_array_equal(moved["params"]["b"], [[0.5], [0.25]])


@pytest.mark.parametrize(
    ("scales", "got"),
    [
        (jnp.full(1, 2.0), r"got shape \(1,\)"),
        (np.full(3, 2.0), r"got shape \(3,\)"),
        (2.0, r"got shape \(\)"),
        (np.array([1.0, 0.0]), "got 0 among"),
        (jnp.array([1.0, -2.0]), "got -2 among"),
        (np.array([1.0, np.nan]), "got nan among"),
        (np.array([1.0, np.inf]), "got inf among"),
    ],
)
@pytest.mark.parametrize("graph", [True, False])
def test_what_is_no_element_of_the_group_is_refused(scales, got, graph):
    params = [jnp.ones((3, 2)), jnp.ones((2, 1))]
    group = one_hidden_layer()
    if not graph:
        params = [jnp.ones((3, 1)), jnp.ones((3, 1)), jnp.ones((1, 1))]
        group = find_gauge(lambda p, x: (jax.nn.relu(x @ p[0]) * (x @ p[1])) @ p[2], params,
                           jnp.ones((2, 3)))  # fmt: skip
    assert group.num_nodes == 2
    with pytest.raises(ValueError, match=rf"must be 2 positive finite numbers.*{got}"):
        group.act(params, scales)
    wrong = jnp.asarray(scales)
    if wrong.shape == (2,):  # a traced one is let through
        jax.eval_shape(group.act, params, wrong)
    else:
        with pytest.raises(ValueError, match="must be 2 positive"):
            jax.eval_shape(group.act, params, wrong)
