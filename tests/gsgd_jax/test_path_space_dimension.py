"""The dimension of path space: section 1 of the derivation."""

import jax
import numpy as np
import pytest

from gsgd_jax import mlp_gauge
from tests.gsgd_jax.networks import NETWORKS, WIDTHS, perceptron
from tests.oracles.path_enumeration import all_paths, num_entries, rank, structure_matrix

pytestmark = pytest.mark.usefixtures("x64")


WIDEST = tuple(WIDTHS[3])


# The widest network's 27,648 paths once, with biases.
@pytest.mark.parametrize(("widths", "bias"), [n for n in NETWORKS if n != (WIDEST, False)])
def test_rank_of_the_structure_matrix_is_entries_minus_nodes(widths, bias):
    paths, num = all_paths(widths, bias), num_entries(widths, bias)
    gauge = mlp_gauge(jax.eval_shape(lambda: perceptron(widths, bias)))
    assert (gauge.num_entries, gauge.num_nodes) == (num, sum(widths[1:-1]))
    assert rank(paths, num) == gauge.num_free


@pytest.mark.parametrize(("widths", "bias"), NETWORKS)
def test_every_path_is_invariant_under_the_group_of_the_gauge(widths, bias):
    """A path enters and leaves a node once, or not at all: hence the bound m - H on the rank."""
    gauge = mlp_gauge(jax.eval_shape(lambda: perceptron(widths, bias)))
    incidence = np.zeros((gauge.num_entries, gauge.num_nodes + 1))
    for i, shape in enumerate(gauge.shapes):
        numbers = gauge.offsets[i] + np.arange(gauge.sizes[i])
        np.add.at(incidence, (numbers, np.broadcast_to(gauge.heads[i], shape).ravel()), 1)
        np.add.at(incidence, (numbers, np.broadcast_to(gauge.tails[i], shape).ravel()), -1)
    incidence = incidence[:, :-1]
    assert np.linalg.matrix_rank(incidence) == gauge.num_nodes
    paths = all_paths(widths, bias)[:5000]
    assert not (incidence.T @ structure_matrix(paths, gauge.num_entries)).any()
