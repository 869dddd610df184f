"""The search is chosen by what it does for held-out examples, and left out if it does nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lacim_jax import (
    MLP,
    Examples,
    LaCIM,
    MLPDecoder,
    MLPEncoder,
    Search,
    choose_search,
    gaussian_likelihood,
    infer,
    mixture_prior,
    predict_from,
    squared_norm,
)
from tests.compiled import compiled_quickly

KEY = jax.random.key(0)
SEARCH = Search(optimiser=optax.sgd(0.2), draws=0, chunk_size=8)


@pytest.fixture(scope="module")
def blind():
    """An encoder that always says 0, a decoder that is the identity: only a search finds s."""
    model = LaCIM(
        MLPEncoder(()),
        MLPDecoder((2,), widths=()),
        MLP((2,)),
        num_domains=1,
        s_dim=1,
        v_dim=1,
        likelihood=gaussian_likelihood(1.0),
    )
    images = jnp.asarray(np.random.default_rng(0).normal(size=(16, 2)), jnp.float32)
    params = compiled_quickly(model.init)(KEY, images, jnp.zeros(16, jnp.int32))["params"]
    params = jax.tree.map(jnp.zeros_like, params)
    params["decoder"]["MLP_0"]["Dense_0"]["kernel"] = jnp.eye(2)
    params["classifier"]["Dense_0"]["kernel"] = jnp.asarray([[-5.0, 5.0]])
    labels = (images[:, 0] > 0).astype(jnp.int32)
    return model, {"params": params}, Examples(images, labels, jnp.zeros(16, jnp.int32))


def test_steps_are_chosen_where_they_help(blind):
    chosen = choose_search(*blind, KEY, steps=(0, 5, 20), weights=(0.0, 1.0), search=SEARCH)
    assert chosen.accuracy.shape == (1, 2, 3)
    assert chosen.steps == 5  # both 5 and 20 find every label; the fewer are enough
    assert chosen.search.weight == 0.0
    np.testing.assert_array_equal(chosen.accuracy[0, :, 1:], 1.0)
    assert (chosen.accuracy[0, :, 0] < 1).all()


def test_without_an_effect_the_search_is_left_out(blind):
    model, variables, held_out = blind
    constant = held_out._replace(labels=jnp.zeros(16, jnp.int32))
    still = Search(optimiser=optax.sgd(0.0), draws=0, chunk_size=8)
    chosen = choose_search(model, variables, constant, KEY, steps=(0, 3), search=still)
    assert chosen.steps == 0
    assert chosen.search.weight == 0


def test_the_graphs_own_weight_is_tried_by_default(blind):
    """A prior so far from the images that any weight on it leads astray."""
    model, variables, held_out = blind
    far = {**variables["params"], "prior_mean": jnp.full((1, 2), 100.0)}
    chosen = choose_search(model, {"params": far}, held_out, KEY, steps=(0, 80), search=SEARCH)
    assert (chosen.steps, chosen.search.weight) == (80, 0.0)
    assert chosen.accuracy.shape == (1, 3, 2)
    assert chosen.accuracy[0, 0, 1] == 1 > chosen.accuracy[0, 1:].max()


def test_each_entry_is_the_accuracy_of_that_search(blind):
    model, variables, held_out = blind
    chosen = choose_search(
        model,
        variables,
        held_out,
        KEY,
        steps=(1, 2),
        weights=(0.5,),
        regularisers=(mixture_prior, squared_norm),
        search=SEARCH,
    )
    for i, regulariser in enumerate((mixture_prior, squared_norm)):
        search = Search(
            optimiser=SEARCH.optimiser, draws=0, chunk_size=8, regulariser=regulariser, weight=0.5
        )
        for k, steps in enumerate((1, 2)):
            found = infer(model, variables, held_out.images, KEY, steps=steps, search=search)
            answer = predict_from(model, variables, found).probabilities.argmax(-1)
            due = np.mean(answer == np.asarray(held_out.labels))
            assert chosen.accuracy[i, 0, k] == due


def test_nothing_to_try_is_refused(blind):
    with pytest.raises(ValueError, match="must each have an entry"):
        choose_search(*blind, KEY, weights=())
