"""Rescaled starts, part by part: weight norm, products, damages, Muon's kernels, the search."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.path_space.rescaled import damage, weight_norm
from benchmarks.path_space.rescaled.kernels import muon_dimensions, output_axes
from benchmarks.path_space.rescaled.products import convolutions_as_products
from benchmarks.path_space.rescaled.rows import (
    BALANCED,
    NORMALISED,
    PATHS,
    RULES,
    WAYS,
    WEIGHTS,
    effective,
    first_parameters,
    transformation,
)
from benchmarks.path_space.rescaled.runs import Grid, Scores, search
from benchmarks.path_space.rescaled.tasks import ImageTask, SentenceTask, problem
from common.data.generated.translation import Lexicon
from common.networks import MLP, Transformer, resnet
from gsgd_jax import mlp_gauge
from tests.gsgd_jax.networks import furthest

TRANSFORMER = Transformer(7, 8, 12, 2, 1, length=5)


def perceptron(seed=0, widths=(6, 5, 3)):
    network, images = MLP(widths), jax.random.normal(jax.random.key(9), (40, 4))
    params = network.init(jax.random.key(seed), images)["params"]
    return network, params, images


# Weight normalisation.


@pytest.mark.parametrize("network", ["perceptron", "transformer", "resnet"])
def test_weight_norm_starts_at_the_weights(network):
    params = _params(network)
    assert furthest(weight_norm.weights(weight_norm.normalised(params)), params) < 1e-6


def test_the_length_of_a_direction_is_no_part_of_the_weights_and_slopes_are_at_right_angles():
    _, params, _ = perceptron()
    longer = {**params["layer_0"], "kernel": 3 * params["layer_0"]["kernel"]}
    trained = weight_norm.normalised(params)
    trained = {**trained, "directions": {**params, "layer_0": longer}}
    assert furthest(weight_norm.weights(trained), params) < 1e-6

    def total(directions):
        found = weight_norm.weights({**trained, "directions": directions})
        return sum(jnp.sin(leaf).sum() for leaf in jax.tree.leaves(found))

    slopes = jax.grad(total)(trained["directions"])["layer_0"]["kernel"]
    along = (slopes * trained["directions"]["layer_0"]["kernel"]).sum(0)
    assert np.abs(along).max() < 1e-6 < np.abs(slopes).max()


def test_a_channel_without_weights_stays_so_and_has_finite_slopes():
    _, params, _ = perceptron()
    kernel = params["layer_0"]["kernel"].at[:, 2].set(0)
    params = {**params, "layer_0": {**params["layer_0"], "kernel": kernel}}

    def total(trained):
        return sum(leaf.sum() for leaf in jax.tree.leaves(weight_norm.weights(trained)))

    trained = weight_norm.normalised(params)
    assert not np.any(weight_norm.weights(trained)["layer_0"]["kernel"][:, 2])
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(jax.grad(total)(trained)))


# Kernels.


def _params(network):
    if network == "perceptron":
        return perceptron()[1]
    if network == "transformer":
        return TRANSFORMER.init(jax.random.key(0), jnp.zeros((1, 5), jnp.int32))["params"]
    module = resnet(8, 10, width=0.25, norm=None)
    return module.init(jax.random.key(0), jnp.zeros((1, 8, 8, 1)))["params"]


def test_output_axes_are_those_that_number_channels():
    params = _params("transformer")
    axes = {
        jax.tree_util.keystr(path): output_axes(path, leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(params)
    }
    assert axes["['attention_0']['query']['kernel']"] == (1, 2)
    assert axes["['attention_0']['out']['kernel']"] == (2,)
    assert axes["['up_0']['kernel']"] == (1,)
    assert axes["['embedding']['embedding']"] is None
    assert axes["['up_0']['bias']"] is None


@pytest.mark.usefixtures("standard_promotion")
@pytest.mark.parametrize("network", ["perceptron", "transformer", "resnet"])
def test_muon_orthogonalises_kernels_in_both_spaces(network):
    params = _params(network)
    rule = next(rule for rule in RULES if rule.name == "Muon")
    for tree in (params, weight_norm.normalised(params)):
        tx = rule.make(0.1, 0.0)
        grads = jax.tree.map(lambda w: jnp.cos(jnp.arange(w.size, dtype=w.dtype) ** 2)
                             .reshape(w.shape), tree)  # fmt: skip
        updates, _ = tx.update(grads, tx.init(tree), tree)
        dimensions = muon_dimensions(tree)
        kernels = [
            (u, d)
            for u, d in zip(
                jax.tree.leaves(updates),
                jax.tree.leaves(dimensions, is_leaf=lambda x: x is None or hasattr(x, "_fields")),
                strict=True,
            )
            if d is not None
        ]
        assert kernels
        for update, axes in kernels:
            inputs = [update.shape[i] for i in axes.reduction_axis]
            matrix = np.asarray(update).reshape(int(np.prod(inputs)), -1)
            values = np.linalg.svd(matrix / max(1, matrix.shape[1] / matrix.shape[0]) ** 0.5)[1]
            assert values.max() < 0.13


# Products.


@pytest.mark.parametrize("size", [7, 8])
def test_products_are_the_convolutions(size):
    module = resnet(8, 10, width=0.25, norm=None)
    images = jax.random.normal(jax.random.key(1), (3, size, size, 1))
    params = module.init(jax.random.key(0), images)["params"]
    with convolutions_as_products():
        there = module.apply({"params": params}, images)
        text = str(jax.make_jaxpr(lambda p: module.apply({"params": p}, images))(params))
    np.testing.assert_allclose(there, module.apply({"params": params}, images), atol=1e-5)
    assert "conv_general_dilated" not in text


@pytest.mark.parametrize("padding", ["SAME", "VALID", 1, ((0, 2), (1, 0))])
@pytest.mark.parametrize("strides", [None, 2, (1, 2)])
def test_products_know_padding_and_strides(padding, strides):
    module = nn.Conv(3, (3, 2), strides=strides, padding=padding)
    images = jax.random.normal(jax.random.key(1), (2, 6, 5, 2))
    params = module.init(jax.random.key(0), images)
    with convolutions_as_products():
        found = module.apply(params, images)
    np.testing.assert_allclose(found, module.apply(params, images), atol=1e-5)


# Damages.


def test_pruning_keeps_the_largest_share_and_biases():
    _, params, _ = perceptron()
    mask = damage.kept_largest(params, 0.2)
    kernel, kept = params["layer_0"]["kernel"], mask["layer_0"]["kernel"]
    assert kept.sum() == pytest.approx(0.2 * kept.size, abs=1)
    assert np.abs(kernel[kept == 1]).min() > np.abs(kernel[kept == 0]).max()
    assert mask["layer_0"]["bias"].all()


def test_merging_undoes_a_permutation():
    network, params, images = perceptron()
    order = np.array([3, 0, 5, 1, 4, 2])
    moved = {**params}
    moved["layer_0"] = {k: w[..., order] for k, w in params["layer_0"].items()}
    moved["layer_1"] = {**params["layer_1"], "kernel": params["layer_1"]["kernel"][order]}
    alive = (jax.nn.relu(images @ params["layer_0"]["kernel"]) > 0).any(0)
    assert alive.all()
    assert furthest(damage.merged(params, moved, images), params) < 1e-6
    other = perceptron(1)[1]
    total = damage.merged(params, other, images)
    assert network.apply({"params": total}, images).shape == (40, 3)


def test_equalising_keeps_the_function_and_makes_ranges_equal():
    network, params, images = perceptron()
    params = mlp_gauge(params).rescale(params, jax.random.key(2), spread=1.0)
    for made in (damage.equalised(params), damage.ranges_at_one(params)):
        np.testing.assert_allclose(
            network.apply({"params": made}, images),
            network.apply({"params": params}, images),
            rtol=1e-4, atol=1e-4,
        )  # fmt: skip
        assert furthest(made, params) > 0.1
    ranges = damage.ranges_at_one(params)
    np.testing.assert_allclose(jnp.abs(ranges["layer_0"]["kernel"]).max(0), 1, rtol=1e-5)
    np.testing.assert_allclose(jnp.abs(ranges["layer_1"]["kernel"]).max(0), 1, rtol=1e-5)
    equal = damage.equalised(params)
    before = jnp.abs(equal["layer_0"]["kernel"]).max(0)
    behind = jnp.abs(equal["layer_1"]["kernel"]).max(1)
    np.testing.assert_allclose(before, behind, rtol=1e-3)


# Rows.


@pytest.mark.usefixtures("standard_promotion")
@pytest.mark.parametrize("way", WAYS)
def test_every_way_trains_the_same_function_and_keeps_pruned_entries_out(way):
    _, params, _ = perceptron()
    gauge, mask = mlp_gauge(params), damage.kept_largest(params, 0.5)
    params = jax.tree.map(jnp.multiply, params, mask)
    trained = first_parameters(way, params, gauge)
    start = effective(way.space, trained, mask)
    assert (furthest(start, params) < 1e-6) == (way != BALANCED)
    for rule in RULES:
        tx = transformation(rule.make, way.space, gauge, 10)(learning_rate=0.1, momentum=0.5)
        updates, _ = tx.update(jax.tree.map(jnp.ones_like, trained), tx.init(trained), trained)
        moved = jax.tree.map(jnp.add, trained, updates)
        found = effective(way.space, moved, mask)
        assert furthest(found, start) > 1e-4
        for leaf, kept in zip(jax.tree.leaves(found), jax.tree.leaves(mask), strict=True):
            assert not np.any(np.asarray(leaf)[np.asarray(kept) == 0])


def test_ways_have_names_of_their_own():
    assert len({way.name for way in WAYS}) == 4
    assert (WEIGHTS.space, NORMALISED.space, PATHS.space) == (
        "weights", "lengths and directions", "path space",
    )  # fmt: skip


# The search.


def test_the_search_refines_each_start_and_keeps_the_first_ones_choice():
    best = np.array([0.1, 0.003])

    def runs(rates):
        apart = np.abs(np.log10(rates / best))[:, None] * np.ones(2)
        return Scores(1 - apart, apart)

    found = search(runs, 2, Grid((0.001, 0.01, 0.1), 3.0))
    chosen = found.rates[found.tuned, np.arange(2)]
    np.testing.assert_allclose(chosen, [0.1, 0.003])
    assert found.kept_rate == 0.1
    np.testing.assert_allclose(found.kept.test[:, 0], [0, np.log10(0.1 / 0.003)])


def test_a_rate_that_diverges_once_is_never_chosen_before_one_that_does_not():
    def runs(rates):
        scores = np.where(rates[:, None] > 0.05, [[0.9, np.nan]], [[0.1, 0.1]])
        return Scores(scores, scores)

    found = search(runs, 1, Grid((0.01, 0.1), 2.0))
    assert found.rates[found.tuned[0], 0] < 0.05


# Tasks.


@pytest.mark.parametrize("network", ["MLP", "CNN", "ResNet"])
def test_image_tasks_have_groups_and_finite_losses(network):
    sizes = {"MLP": (6,), "CNN": (4,), "ResNet": (8,)}[network]
    task = ImageTask(network, data="digits8x8", pool=1, sizes=sizes, width=0.125, train_size=50)
    given = problem(task, None)
    params = given.init(jax.random.key(0))
    batch = (given.train[0][:8], given.train[1][:8])
    moved = given.gauge.rescale(params, jax.random.key(1), spread=1.0)
    losses = [float(given.loss(p, (), batch, jax.random.key(0))[0]) for p in (params, moved)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert given.gauge.num_nodes > 0
    assert given.size == 50


def test_the_sentence_task_has_a_group():
    lexicon = Lexicon(nouns=4, adjectives=2, verbs=2)
    task = SentenceTask(lexicon=lexicon, train_size=20, validation_size=5, test_size=5)
    given = problem(task, None)
    assert given.gauge.num_nodes > 0
    assert given.score == "token_accuracy"
