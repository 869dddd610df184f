"""Choosing skeletons: by the papers' rule, and by the largest weights of the balanced network."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gsgd_jax import (
    GROUND,
    Balanced,
    Gauge,
    allocate,
    balance,
    choose_skeleton,
    dead_nodes,
    mlp_gauge,
    path_values,
)
from tests.gsgd_jax.networks import VALLEY, WIDTHS, furthest, perceptron, ravel

pytestmark = pytest.mark.usefixtures("x64")


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("widths", [*WIDTHS, VALLEY])
def test_diagonal_rule(widths, bias):
    """Unit j is entered from j mod n and left to j mod n', as the prototype has it."""
    params = perceptron(widths, bias)
    skeleton = choose_skeleton(mlp_gauge(params), params, basis="paths")
    first, into, out = 0, [], []
    for k in range(len(widths) - 1):
        fan_in, fan_out = widths[k], widths[k + 1]
        if k < len(widths) - 2:
            into += [first + (j % fan_in) * fan_out + j for j in range(fan_out)]
        if k > 0:
            out += [first + i * fan_out + i % fan_out for i in range(fan_in)]
        first += fan_in * fan_out + bias * fan_out
    np.testing.assert_array_equal(skeleton.in_edges, into)
    np.testing.assert_array_equal(skeleton.out_edges, out)


def test_diagonal_rule_takes_the_middle_of_a_convolution():
    ground = np.full((1, 1, 2, 1), GROUND)
    units = np.arange(3)
    gauge = Gauge(
        names=("conv", "bias", "head"),
        shapes=((3, 3, 2, 3), (3,), (3, 4)),
        tails=(ground, np.full(1, GROUND), units[:, None]),
        heads=(units.reshape(1, 1, 1, 3), units, np.full((1, 4), GROUND)),
        num_nodes=3,
    )
    params = [jnp.ones(shape) for shape in gauge.shapes]
    skeleton = choose_skeleton(gauge, params, basis="paths")
    where = np.unravel_index(skeleton.in_edges, (3, 3, 2, 3))
    np.testing.assert_array_equal(where, [[1, 1, 1], [1, 1, 1], [0, 1, 0], [0, 1, 2]])


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("widths", [*WIDTHS, VALLEY])
def test_largest_rule_takes_the_largest_balanced_weights(widths, bias):
    params = perceptron(widths, bias)
    gauge = mlp_gauge(params)
    skeleton = choose_skeleton(gauge, params, rule="largest", basis="paths")
    balanced = balance(params, gauge)
    entries = np.abs(np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(balanced)]))
    into, out = [], []
    for layer, following in itertools.pairwise(balanced):
        into.append(np.abs(np.concatenate([layer[0], *(b[None] for b in layer[1:])])).max(0))
        out.append(np.abs(following[0]).max(1))
    np.testing.assert_allclose(entries[skeleton.in_edges], np.concatenate(into), rtol=1e-12)
    np.testing.assert_allclose(entries[skeleton.out_edges], np.concatenate(out), rtol=1e-12)


@pytest.mark.parametrize("basis", ["paths", "cycles"])
@pytest.mark.parametrize("rule", ["diagonal", "largest"])
def test_choice_does_not_depend_on_the_representative(rule, basis):
    params = perceptron([4, 9, 3, 6, 2], True)
    gauge = mlp_gauge(params)
    values = "balanced" if basis == "cycles" else "ones"
    one = choose_skeleton(gauge, params, rule=rule, basis=basis, tree_values=values)
    for seed in range(5):
        moved = gauge.rescale(params, jax.random.key(seed), spread=2.0)
        two = choose_skeleton(gauge, moved, rule=rule, basis=basis, tree_values=values)
        np.testing.assert_array_equal(one.in_edges, two.in_edges)
        np.testing.assert_array_equal(one.out_edges, two.out_edges)
        if basis == "cycles":
            np.testing.assert_allclose(one.tree_scales, two.tree_scales, rtol=1e-12)


def test_rules_differ_and_write_nothing():
    params = perceptron([4, 9, 3, 6, 2], True)
    before = jax.tree.map(jnp.copy, params)
    gauge = mlp_gauge(params)
    assert choose_skeleton(gauge, params, basis="paths") != choose_skeleton(
        gauge, params, rule="largest", basis="paths"
    )
    assert furthest(params, before) == 0


def test_balanced_tree_values_are_those_of_the_balanced_network():
    params = [jnp.array([[4.0]]), jnp.array([[1.0]])]
    gauge = mlp_gauge(params)
    skeleton = choose_skeleton(gauge, params, basis="cycles", tree_values="balanced")
    np.testing.assert_allclose(skeleton.tree_scales, [2.0], rtol=1e-12)
    assert choose_skeleton(gauge, params, basis="cycles").tree_scales is None


def test_half_precision_and_abstract_gauges():
    params = perceptron([3, 5, 2], True, dtype=jnp.bfloat16)
    skeleton = choose_skeleton(mlp_gauge(params), params, rule="largest", basis="paths")
    assert skeleton.gauge == mlp_gauge(jax.eval_shape(lambda: params))


def kernels(one, two):
    return [jnp.asarray(one, jnp.float32), jnp.asarray(two, jnp.float32)]


@pytest.mark.parametrize(
    ("params", "options", "message"),
    [
        (kernels([[1, 2], [3, 0]], [[1], [1]]), {}, r"0\[1, 1\] is, and 0 more .* rule='largest'"),
        (kernels([[1, np.nan]], [[1], [1]]), {}, "0 is not finite"),
        (kernels([[1, 1e-30]], [[1], [1e-30]]), {}, r"products .* range .* got 1.0e-60 to 1.0e"),
        (kernels([[1e30, 1]], [[1e30], [1]]), {}, r"range of their dtype, 1.2e-38 to 3.4e\+38"),
        (kernels([[1, 2]], [[1], [1]]), {"rule": "random"}, "needs key=, a PRNG key"),
        (kernels([[1, 2]], [[1], [1]]), {"rule": "nearest"}, "rule must be .* or a Skeleton, got"),
        (kernels([[1, 2]], [[1], [1]]), {"tree_values": "twos"}, "must be 'ones' or 'balanced'"),
        (kernels([[1, 2]], [[1], [1]]), {"tree_values": "balanced"}, "belongs to the basis"),
        (kernels([[1, 2]], [[1], [1]]), {"basis": "trees"}, "basis must be"),
        (
            kernels([[1, 2]], [[1], [1]]),
            {"basis": "balanced", "rule": "largest"},
            "a rule chooses the edges of a skeleton",
        ),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_what_cannot_be_inverted_or_is_unknown_is_refused(params, options, message):
    with pytest.raises(ValueError, match=message):
        choose_skeleton(mlp_gauge(params), params, **({"basis": "paths"} | options))


def test_the_default_is_the_balanced_copy_and_needs_no_skeleton():
    params = perceptron([4, 9, 3, 6, 2], True)
    gauge = mlp_gauge(params)
    assert choose_skeleton(gauge, params) == Balanced(gauge)
    other = mlp_gauge(perceptron([3, 2], True))
    with pytest.raises(ValueError, match="leaves that the gauge was built for"):
        choose_skeleton(other, params)


@pytest.mark.parametrize("rule", ["diagonal", "largest"])
def test_nodes_without_an_edge_leave_the_group_and_are_listed(rule):
    """Unit 1 is entered by zeros alone, unit 3 left by none: one is dead, the other unread."""
    params = kernels([[1, 0, 3, 4], [5, 0, 6, 7]], [[1], [2], [3], [0]])
    gauge = mlp_gauge(params)
    skeleton = choose_skeleton(gauge, params, rule=rule, basis="paths")
    assert skeleton.left_out == (1, 3)
    assert skeleton.gauge == gauge.without([1, 3])
    assert "2 dead or constant nodes left out: 1, 3" in str(skeleton)
    np.testing.assert_array_equal(dead_nodes(gauge, params), [1, 3])
    # With cycles a way in is enough.
    assert choose_skeleton(gauge, params, rule=rule, basis="cycles").left_out == (1,)
    back = allocate(path_values(params, skeleton), params, skeleton)
    np.testing.assert_allclose(ravel(back), ravel(params), rtol=1e-6)


def test_traced_parameters_are_refused():
    params = kernels([[1, 2]], [[1], [1]])
    with pytest.raises(ValueError, match="from concrete parameters, got traced ones"):
        jax.jit(lambda params: choose_skeleton(mlp_gauge(params), params, basis="paths").in_edges)(
            params
        )
