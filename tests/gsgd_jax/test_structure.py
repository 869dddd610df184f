"""Paths listed and printed, and the rank of the structure matrix, on any graph."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gsgd_jax import choose_skeleton, find_gauge, mlp_gauge
from gsgd_jax.coordinates.skeleton import edge_ends
from gsgd_jax.structure import all_paths, basis_paths, describe_path, structure_matrix
from tests.gsgd_jax.networks import VALLEY, perceptron, ravel, values_of
from tests.gsgd_jax.tracing.models import MODELS
from tests.oracles import path_enumeration

pytestmark = pytest.mark.usefixtures("x64")

SMALL = [[3, 4, 2], VALLEY, [2, 3, 3, 2], [3, 2]]


def found_gauge(name):
    model = MODELS[name]
    params, x = model.draw(0)
    return find_gauge(model.apply, params, x), params


def residual():
    """A stream of 2 channels to which a block of 1 unit adds."""

    def apply(params, x):
        x = x @ params[0]
        return (x + jax.nn.relu(x @ params[1]) @ params[2]) @ params[3]

    params = [jnp.ones(shape) for shape in ((1, 2), (2, 1), (1, 2), (2, 1))]
    gauge = find_gauge(apply, params, jnp.ones((1, 1)))
    assert gauge.num_nodes == 3
    return gauge


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("widths", SMALL)
def test_paths_and_matrix_are_the_oracles(widths, bias):
    gauge = mlp_gauge(jax.eval_shape(lambda: perceptron(widths, bias)))
    paths = all_paths(gauge)
    expected = path_enumeration.all_paths(widths, bias)
    assert paths == sorted(expected)
    matrix = structure_matrix(gauge)
    np.testing.assert_array_equal(
        matrix, path_enumeration.structure_matrix(paths, gauge.num_entries)
    )
    assert np.linalg.matrix_rank(matrix) == gauge.num_free


@pytest.mark.parametrize(
    ("name", "visits"),
    [("relu_rnn", 2), ("residual", 2), ("depthwise_cnn", 1), ("densenet", 1)],
)
def test_rank_on_graphs_that_are_no_perceptron(name, visits):
    """Entries minus nodes; where nodes feed themselves, passing them twice is enough."""
    gauge = residual() if name == "residual" else found_gauge(name)[0]
    edges = np.arange(gauge.num_entries)
    taps = _parallel_classes(gauge, edges)
    # One tap stands for all that are parallel to it: each of the others adds one to the rank.
    paths = _paths_through(gauge, set(taps), visits)
    rank = np.linalg.matrix_rank(structure_matrix(gauge, paths))
    assert rank + gauge.num_entries - len(set(taps)) == gauge.num_free


def _parallel_classes(gauge, edges):
    """Of every entry the first one with the same ends."""
    tails, heads = edge_ends(gauge, edges)
    _, first, inverse = np.unique(
        np.stack([tails, heads]), axis=1, return_index=True, return_inverse=True
    )
    return first[inverse.ravel()].tolist()


def _paths_through(gauge, entries, visits):
    return [p for p in all_paths(gauge, max_visits=visits, limit=10**6) if set(p) <= entries]


@pytest.mark.parametrize("name", ["basic_block", "relu_rnn", "cnn", "flat_heads"])
@pytest.mark.parametrize("rule", ["diagonal", "largest"])
def test_basis_paths_have_the_coordinates_as_their_values_and_are_independent(name, rule):
    gauge, params = found_gauge(name)
    skeleton = choose_skeleton(gauge, params, rule=rule, basis="paths")
    paths = basis_paths(skeleton)
    matrix = structure_matrix(gauge, paths)
    assert np.linalg.matrix_rank(matrix) == len(paths) == gauge.num_free
    free = np.setdiff1d(np.arange(gauge.num_entries), skeleton.in_edges)
    weights = ravel(params)
    logs = matrix.T @ np.log(np.abs(weights))
    signs = np.prod(np.sign(weights)[:, None] ** matrix, axis=0)
    np.testing.assert_allclose(ravel(values_of(params, skeleton))[free], signs * np.exp(logs))
    for path in paths:
        assert describe_path(path, gauge).count(" -> ") == 2 * len(path)


def test_paths_are_printed_as_layers_and_units():
    gauge = mlp_gauge({"a": {"w": np.ones((2, 3)), "b": np.ones(3)}, "b": {"w": np.ones((3, 1))}})
    words = [describe_path(path, gauge) for path in all_paths(gauge)]
    assert words[0] == "input -> a/b[0] -> node 0 -> b/w[0, 0] -> output"
    assert words[-1] == "input -> a/w[1, 2] -> node 2 -> b/w[2, 0] -> output"


def test_outside_the_group_an_entry_is_a_path_by_itself():
    gauge, params = found_gauge("lstm")
    assert gauge.num_nodes == 0
    assert all_paths(gauge) == [(i,) for i in range(gauge.num_entries)]
    skeleton = choose_skeleton(gauge, params, basis="paths")
    assert basis_paths(skeleton) == all_paths(gauge)


def test_what_is_no_path_or_too_much_is_refused():
    gauge = mlp_gauge([np.ones((2, 3)), np.ones((3, 1))])
    for path in [(), (0,), (6,), (0, 7), (0, 6, 6)]:
        with pytest.raises(ValueError, match="leads from ground to ground"):
            describe_path(path, gauge)
    with pytest.raises(ValueError, match="more than 5; raise limit="):
        all_paths(gauge, limit=5)
    assert len(all_paths(gauge, limit=6)) == 6


def test_path_values_of_any_path_follow_from_the_basis():
    """Its column is an integer combination of the basis's; so is log|v|, exponents and all."""
    widths = VALLEY
    params = perceptron(widths, True)
    gauge = mlp_gauge(params)
    skeleton = choose_skeleton(gauge, params, basis="paths")
    basis = structure_matrix(gauge, basis_paths(skeleton))
    everything = structure_matrix(gauge)
    exponents, *_ = np.linalg.lstsq(basis.astype(float), everything.astype(float), rcond=None)
    np.testing.assert_allclose(exponents, np.round(exponents), atol=1e-10)
    np.testing.assert_array_equal(basis @ np.round(exponents).astype(int), everything)
    assert exponents.min() < -0.5  # division too: that is what the skeleton is for
    values = np.prod(ravel(params)[:, None] ** everything, axis=0)
    coordinates = np.prod(ravel(params)[:, None] ** basis, axis=0)
    found = np.prod(coordinates[:, None] ** np.round(exponents), axis=0)
    np.testing.assert_allclose(found, values, rtol=1e-9)
    assert jnp.isfinite(jnp.asarray(values)).all()
