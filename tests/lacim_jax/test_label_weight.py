"""The weight of the label's term by default: the label is fitted, whatever the images are like."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lacim_jax import (
    BERNOULLI,
    ERM,
    MLP,
    Examples,
    LaCIM,
    MLPDecoder,
    MLPEncoder,
    balanced_weight,
    erm_loss,
    fit,
    gaussian_likelihood,
    lacim_loss,
)
from lacim_jax.model.likelihoods import CATEGORICAL, Likelihood

KEY = jax.random.key(0)


def small(**options):
    sizes = {"num_domains": 1, "s_dim": 2, "v_dim": 2} | options
    outputs = sizes.pop("outputs", 4)
    return LaCIM(MLPEncoder((4,)), MLPDecoder((3, 3), (4,)), MLP((outputs,)), **sizes)


@pytest.mark.parametrize(
    ("likelihood", "per_pixel"),
    [
        # The best constant is the mean, 1/2: log 2 nats a pixel are left where pixels are 0 or 1.
        (BERNOULLI, np.log(2)),
        (gaussian_likelihood(0.1), 0.25 / (2 * 0.1**2)),
        (gaussian_likelihood(1.0), 0.25 / 2),
    ],
)
def test_the_label_is_weighed_by_what_there_is_to_be_explained(likelihood, per_pixel):
    model = small(likelihood=likelihood)
    images = jnp.repeat(jnp.asarray([0.0, 1.0]), 8)[:, None, None] * jnp.ones((16, 3, 3))
    labels = jnp.arange(16, dtype=jnp.int32) % 4
    examples = Examples(images, labels, jnp.zeros(16, jnp.int32))
    expected = max(8 * 9 * per_pixel / np.log(4), 50)
    np.testing.assert_allclose(balanced_weight(model, examples), expected, rtol=1e-4)
    params = jax.jit(model.init)(KEY, images[:1], examples.domains[:1])["params"]
    step = jnp.zeros([], jnp.int32)
    loss, (_, terms) = lacim_loss(model)(params, step, examples, KEY)
    given, _ = lacim_loss(model, label_weight=float(expected))(params, step, examples, KEY)
    np.testing.assert_allclose(loss, given, rtol=1e-4)
    np.testing.assert_allclose(terms["label_weight"], expected, rtol=1e-4)
    with pytest.raises(ValueError, match="num_samples must be at least 1, got 0"):
        lacim_loss(model, num_samples=0)(params, step, examples, KEY)
    # A TypeError where annotations are checked, as here: they refuse another word first.
    with pytest.raises((ValueError, TypeError), match=r"(?s)label_weight.*even"):
        lacim_loss(model, label_weight="even")
    # Images that are all alike leave nothing to explain. One class: no infinity.
    blank = examples._replace(images=jnp.ones((16, 3, 3)))
    assert balanced_weight(model, blank) == 50
    assert np.isfinite(balanced_weight(model, examples._replace(labels=jnp.zeros(16, jnp.int32))))


def test_the_weight_of_a_batch_does_not_depend_on_its_labels():
    """If it did, batches without a rare class would count for more or less than those with it."""
    model = small()
    images = jax.random.uniform(KEY, (16, 3, 3))
    params = jax.jit(model.init)(KEY, images[:1], jnp.zeros(1, jnp.int32))["params"]
    loss = jax.jit(lacim_loss(model))
    found = []
    for rare in (0, 1, 8):
        labels = (jnp.arange(16) < rare).astype(jnp.int32)
        batch = Examples(images, labels, jnp.zeros(16, jnp.int32))
        found.append(loss(params, jnp.zeros([], jnp.int32), batch, KEY)[1][1]["label_weight"])
    np.testing.assert_array_equal(found, found[0])
    # As of labels that are all equally frequent, of which the classifier tells apart four.
    even = Examples(images, jnp.arange(16, dtype=jnp.int32) % 4, jnp.zeros(16, jnp.int32))
    np.testing.assert_allclose(found[0], balanced_weight(model, even), rtol=1e-5)


def test_the_entropy_of_the_labels_is_that_of_their_shares():
    labels = np.random.default_rng(0).choice(5, size=1000, p=[0.6, 0.3, 0.05, 0.05, 0.0])
    share = np.bincount(labels) / 1000
    assert CATEGORICAL.unexplained is not None
    found = jax.jit(CATEGORICAL.unexplained)(jnp.asarray(labels, jnp.int32))
    np.testing.assert_allclose(found, -(share * np.log(share)).sum(), rtol=1e-5)
    # Nothing is of the size of all pairs of labels: a training set has very many.
    assert CATEGORICAL.unexplained(jnp.zeros(300_000, jnp.int32)) == 0


def mean_label(model, data):
    """What a model fitted in small batches takes labels to be, on average over the images."""
    falling = optax.adam(optax.cosine_decay_schedule(0.03, 400))
    fitted = fit(model, data, KEY, num_steps=400, batch_size=16, optimiser=falling)
    np.testing.assert_array_equal(fitted.terms["label_weight"], fitted.terms["label_weight"][0])

    @jax.jit
    def labels(images):
        domains = jnp.zeros(len(images), jnp.int32)
        mean = model.apply(fitted.variables, images, domains, method="encode").mean
        logits = model.apply(fitted.variables, model.split(mean).s, method="classify")
        return model.label_likelihood.mean(logits)[:, -1].mean()

    return labels(data.images)


@pytest.mark.usefixtures("standard_promotion")
@pytest.mark.parametrize("real", [False, True])
def test_what_is_fitted_of_rare_labels_is_the_datas_rate(real):
    """Images that say nothing of the label: small batches have one class, or one rare label."""
    images = np.random.default_rng(0).uniform(size=(2000, 3, 3)).astype(np.float32)
    labels, domains = np.arange(2000) % 10 == 0, np.zeros(2000, np.int32)
    if real:
        model = small(outputs=1, label_likelihood=gaussian_likelihood(0.5))
        data = Examples(images, labels[:, None].astype(np.float32), domains)
    else:
        model, data = small(outputs=2), Examples(images, labels.astype(np.int32), domains)
    np.testing.assert_allclose(mean_label(model, data), 0.1, atol=0.025)


def test_where_no_weight_is_known_one_is_asked_for():
    with pytest.raises(ValueError, match=r"real-valued labels .*balanced_weight\(model, data\)"):
        lacim_loss(small(outputs=1, label_likelihood=gaussian_likelihood(0.5)))
    silent = Likelihood(*CATEGORICAL[:3])
    for options in ({"likelihood": Likelihood(*BERNOULLI[:3])}, {"label_likelihood": silent}):
        with pytest.raises(ValueError, match="one has no `unexplained`"):
            lacim_loss(small(**options))
        lacim_loss(small(**options), label_weight=2.0)


def test_grey_pixels_are_explained_up_to_their_own_entropy():
    images = jnp.asarray(np.random.default_rng(0).uniform(size=(64, 3, 3)), jnp.float32)
    logits = jax.scipy.special.logit(images.mean(0))
    own = jax.scipy.special.logit(images)
    log_prob = jax.vmap(BERNOULLI.log_prob, in_axes=(None, 0))(logits, images)
    best = jax.vmap(BERNOULLI.log_prob)(own, images)
    assert BERNOULLI.unexplained is not None
    np.testing.assert_allclose(BERNOULLI.unexplained(images), (best - log_prob).mean(), rtol=1e-3)


@pytest.mark.usefixtures("standard_promotion")
@pytest.mark.parametrize("scale", [1, 4])
def test_by_default_labels_are_fitted_about_as_well_as_by_erm(scale):
    """Images of two sizes, most of whose nats have nothing to do with the label."""
    rng = np.random.default_rng(0)
    labels = rng.integers(4, size=512)
    patterns = rng.uniform(size=(4, 4, 4)) > 0.5
    images = 0.35 * rng.uniform(size=(512, 4, 4)) + 0.3 * patterns[labels] + 0.15
    images = np.kron(images, np.ones((1, scale, scale))).astype(np.float32)
    data = Examples(
        jnp.asarray(images), jnp.asarray(labels, jnp.int32), jnp.arange(512, dtype=jnp.int32) % 2
    )
    side = 4 * scale

    def trained(loss, params):
        tx = optax.adam(3e-3)

        def step(carry, key):
            params, state, count = carry
            gradients, (count, _) = jax.grad(loss, has_aux=True)(params, count, data, key)
            updates, state = tx.update(gradients, state)
            return (optax.apply_updates(params, updates), state, count), None

        first = (params, tx.init(params), jnp.zeros([], jnp.int32))
        return jax.jit(lambda: jax.lax.scan(step, first, jax.random.split(KEY, 250))[0][0])()

    erm = ERM(MLPEncoder((32,)), MLP((16, 4)), s_dim=4)
    params = jax.jit(erm.init)(KEY, data.images[:1])["params"]
    by_erm = erm.apply({"params": trained(erm_loss(erm), params)}, data.images)
    model = LaCIM(
        MLPEncoder((32,)), MLPDecoder((side, side), (32,)), MLP((16, 4)), num_domains=2, s_dim=4,
        v_dim=4,
    )  # fmt: skip
    params = jax.jit(model.init)(KEY, data.images[:1], data.domains[:1])["params"]

    def accuracy(loss):
        variables = {"params": trained(loss, params)}
        mean = model.apply(variables, data.images, data.domains, method="encode").mean
        logits = model.apply(variables, mean[:, :4], method="classify")
        return float((logits.argmax(-1) == data.labels).mean())

    erms = float((by_erm.argmax(-1) == data.labels).mean())
    assert erms > 0.9
    found = accuracy(lacim_loss(model))
    assert found >= erms - 0.01
    # The bound itself, in which pixels outweigh labels, fits them no better.
    assert accuracy(lacim_loss(model, label_weight=1.0)) <= found
