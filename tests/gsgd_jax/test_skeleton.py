"""Skeletons: two arborescences, checked (section 2 of the derivation)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gsgd_jax import Skeleton, choose_skeleton, mlp_gauge, path_values
from tests.gsgd_jax.networks import WIDTHS, perceptron

pytestmark = pytest.mark.usefixtures("x64")


def two_hidden_layers():
    """2-2-2-1: entries 0-3, 4-7, 8-9; nodes 0, 1 and 2, 3."""
    return mlp_gauge([np.ones((2, 2)), np.ones((2, 2)), np.ones((2, 1))])


def skeleton(**changes):
    fields = {"in_edges": [0, 3, 4, 7], "out_edges": [4, 7, 8, 9], "basis": "paths"}
    fields |= changes
    fields |= {key: np.array(fields[key]) for key in ("in_edges", "out_edges")}
    return Skeleton(two_hidden_layers(), **fields)


def test_roots_are_where_the_way_out_leaves_the_tree():
    np.testing.assert_array_equal(skeleton().roots, [2, 3, 2, 3])
    np.testing.assert_array_equal(skeleton().free_nodes, [2, 3])
    crossed = skeleton(out_edges=[5, 6, 8, 9])  # the way out of 0 leads to 3 by an entry off T
    np.testing.assert_array_equal(crossed.roots, [0, 1, 2, 3])
    np.testing.assert_array_equal(crossed.free_nodes, [0, 1, 2, 3])


@pytest.mark.parametrize("widths", WIDTHS)
def test_tree_has_one_entry_a_node(widths):
    params = perceptron(widths, True)
    found = choose_skeleton(mlp_gauge(params), params, basis="paths")
    assert len(set(found.in_edges)) == found.gauge.num_nodes == sum(widths[1:-1])
    assert len(set(found.out_edges)) == found.gauge.num_nodes


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"in_edges": [0, 3, 4]}, r"in_edges must be 4 integers in 0 \.\.\. 9"),
        ({"in_edges": [0, 3, 4, 10]}, r"in 0 \.\.\. 9"),
        ({"in_edges": [0, 3, 4, 6.5]}, r"in 0 \.\.\. 9"),
        ({"in_edges": [0, 3, 4, 6]}, r"in_edges\[3\] .* whose head is node 3, .* entry 6 is 2"),
        ({"in_edges": [0, 3, 4, 9]}, r"entry 9 is -1"),
        ({"out_edges": [4, 5, 8, 9]}, r"out_edges\[1\] .* whose tail is node 1, .* entry 5 is 0"),
        ({"basis": "trees"}, "basis must be 'paths' or 'cycles', got 'trees'"),
        ({"tree_scales": np.ones(4)}, "tree_scales belong to the basis 'cycles'"),
        ({"basis": "cycles", "tree_scales": np.ones(3)}, "must be 4 positive numbers"),
        ({"basis": "cycles", "tree_scales": -np.ones(4)}, "must be 4 positive numbers"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_bad_skeletons_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        skeleton(**changes)


def test_edges_must_reach_ground():
    """A recurrent layer: hidden units feed one another, and a cycle of in-edges has no input."""
    from gsgd_jax import GROUND, Gauge

    ground, units = np.full((1, 1), GROUND), np.arange(2)
    gauge = Gauge(
        names=("in", "recurrent", "out"),
        shapes=((1, 2), (2, 2), (2, 1)),
        tails=(ground, units[:, None], units[:, None]),
        heads=(units[None], units[None], ground),
        num_nodes=2,
    )
    fine = Skeleton(gauge, in_edges=np.array([0, 3]), out_edges=np.array([3, 7]))
    np.testing.assert_array_equal(fine.roots, [1, 1])
    with pytest.raises(ValueError, match=r"following in_edges .* input, but 2 nodes .* cycle"):
        Skeleton(gauge, in_edges=np.array([4, 3]), out_edges=np.array([6, 7]))
    with pytest.raises(ValueError, match=r"following out_edges .* output, but 1 nodes"):
        Skeleton(gauge, in_edges=np.array([0, 1]), out_edges=np.array([2, 7]))


def test_skeletons_are_equal_and_hashed_by_content():
    assert skeleton() == skeleton()
    assert hash(skeleton()) == hash(skeleton())
    assert skeleton() != skeleton(out_edges=[5, 6, 8, 9])
    assert skeleton() != skeleton(basis="cycles")
    scaled = skeleton(basis="cycles", tree_scales=np.ones(4))
    assert skeleton(basis="cycles") != scaled
    assert scaled != skeleton(basis="cycles", tree_scales=2 * np.ones(4))


def test_skeleton_is_a_static_argument_of_jit():
    traced = []

    def values(params, skeleton):
        traced.append(skeleton)
        return path_values(params, skeleton)

    compiled = jax.jit(values, static_argnums=1)
    params = [2 * jnp.ones((2, 2)), 3 * jnp.ones((2, 2)), 5 * jnp.ones((2, 1))]
    for _ in range(2):
        found = compiled(params, skeleton())
    assert len(traced) == 1
    np.testing.assert_array_equal(found[1], [[3, 30], [30, 3]])
    with pytest.raises(ValueError, match="read-only"):
        skeleton().in_edges[0] = 1


def test_summary():
    assert str(skeleton()).splitlines() == [
        "skeleton: 4 tree entries, 2 free skeleton entries, 6 paths",
        "  0  2 tree, 0 free of 4",
        "  1  2 tree, 0 free of 4",
        "  2  0 tree, 2 free of 2",
    ]
    assert repr(skeleton()) == "Skeleton(paths over Gauge(4 nodes, 10 edges, 6 free))"
