"""Prediction: from the causes alone, its disagreement written out, real-valued labels refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from lacim_jax import Examples, choose_search, infer, predict, predict_from
from tests.lacim_jax.exact import exact_model
from tests.lacim_jax.inference.small_model import IMAGES, KEY, MODEL, VARIABLES
from tests.oracles import linear_gaussian as oracle

# optax.adam corrects its bias by decay ** count, float32 by int32.
pytestmark = pytest.mark.usefixtures("standard_promotion")


def test_predictions_come_from_the_causes_alone():
    found = infer(MODEL, VARIABLES, IMAGES[:12], KEY, steps=5)
    prediction = predict(MODEL, VARIABLES, IMAGES[:12], KEY, steps=5)
    logits = MODEL.apply(VARIABLES, jnp.asarray(found.latents.s), method="classify")
    wanted = scipy.special.softmax(np.asarray(logits, np.float64), axis=-1)
    np.testing.assert_allclose(prediction.probabilities, wanted, rtol=1e-4)
    np.testing.assert_array_equal(prediction.objective_after, found.objective_after)
    np.testing.assert_array_equal(prediction.objective_before, found.objective_before)
    other_v = found._replace(latents=found.latents._replace(v=found.latents.v + 100))
    moved = predict_from(MODEL, VARIABLES, other_v)
    np.testing.assert_array_equal(moved.probabilities, prediction.probabilities)


def test_the_disagreement_is_the_jensen_shannon_divergence_of_the_starts():
    found = infer(MODEL, VARIABLES, IMAGES[:12], KEY, steps=2)
    every = jnp.asarray(found.candidates.s.reshape(-1, 2))
    logits = MODEL.apply(VARIABLES, every, method="classify")
    each = scipy.special.softmax(np.asarray(logits, np.float64), axis=-1).reshape(12, 10, 3)
    mixed = each.mean(axis=1, keepdims=True)
    wanted = scipy.special.rel_entr(each, mixed).sum(-1).mean(axis=1)  # the other form of it
    disagreement = predict_from(MODEL, VARIABLES, found).disagreement
    np.testing.assert_allclose(disagreement, wanted, rtol=1e-3, atol=1e-6)
    assert 0 < disagreement.max() <= np.log(3)
    same = found._replace(
        candidates=jax.tree.map(lambda c: np.repeat(c[:, :1], 10, axis=1), found.candidates)
    )
    np.testing.assert_allclose(predict_from(MODEL, VARIABLES, same).disagreement, 0, atol=1e-6)


def test_real_valued_labels_have_no_probabilities():
    model, variables = exact_model(oracle.instance(np.random.default_rng(0)))
    images = np.zeros((2, 6), np.float32)
    for steps in (0, 10**9):  # before a search is begun
        with pytest.raises(ValueError, match="not CATEGORICAL"):
            predict(model, variables, images, KEY, steps=steps)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.zeros((40, 1), np.int32), r"labels must be .*got int32\[40, 1\]"),
        (np.arange(40, dtype=np.int32) % 3 + 1, "between 0 and"),
        (np.zeros(39, np.int32), "one entry per example, got 40, 39"),
    ],
)
def test_held_out_labels_that_are_none_are_refused_before_the_search(labels, message, unchecked):
    images = jnp.asarray(IMAGES[:40])
    held_out = Examples(images, jnp.asarray(labels), jnp.zeros(40, jnp.int32))
    for search in (
        lambda: predict(MODEL, VARIABLES, images, KEY, steps=10**9, held_out=held_out),
        lambda: choose_search(MODEL, VARIABLES, held_out, KEY, steps=(0, 10**9)),
    ):
        with pytest.raises(ValueError, match=message):
            search()


@pytest.mark.parametrize("helps", [True, False])
def test_the_search_is_left_out_where_held_out_examples_speak_against_it(helps):
    images = IMAGES[:40]
    without, searched = (predict(MODEL, VARIABLES, images, KEY, steps=steps) for steps in (0, 20))
    assert (without.steps, searched.steps) == (0, 20)
    answers = [found.probabilities.argmax(-1) for found in (without, searched)]
    assert (answers[0] != answers[1]).any()
    labels = jnp.asarray(answers[helps], jnp.int32)
    held_out = Examples(jnp.asarray(images), labels, jnp.zeros(40, jnp.int32))
    found = predict(MODEL, VARIABLES, images, KEY, steps=20, held_out=held_out)
    assert found.steps == (20 if helps else 0)
    np.testing.assert_array_equal(found.probabilities, (without, searched)[helps].probabilities)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("size", [0, -1, 2.5, None])
def test_chunks_of_no_image_are_refused(size):
    found = infer(MODEL, VARIABLES, IMAGES[:2], KEY, steps=0)
    with pytest.raises(ValueError, match="chunk_size must be a whole number of images, at least 1"):
        predict_from(MODEL, VARIABLES, found, chunk_size=size)
