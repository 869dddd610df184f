"""DIVA, CSG and iVAE against their formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats

from lacim_jax import (
    MLP,
    CorrelatedGaussian,
    DomainHeads,
    Examples,
    LaCIM,
    Likelihood,
    MLPDecoder,
    MLPEncoder,
    SharedEvidence,
    gaussian_likelihood,
    lacim_loss,
)
from lacim_jax.baselines import DIVA, csg_loss, csg_probabilities, diva_loss, ivae
from lacim_jax.baselines.csg import independent_version
from tests.compiled import compiled_quickly
from tests.lacim_jax.exact import Identity

KEY = jax.random.key(0)
UNIT = gaussian_likelihood(1.0)
STEP = jnp.zeros([], jnp.int32)


def examples(n=8):
    images = jax.random.normal(KEY, (n, 5))
    return Examples(images, (images[:, 0] > 0).astype(jnp.int32), jnp.arange(n) % 3)


def shaken(params):
    """Parameters away from where they start, so that nothing is zero by chance."""
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    noisy = [w + 0.3 * jax.random.normal(k, w.shape) for w, k in zip(leaves, keys, strict=True)]
    return jax.tree.unflatten(tree, noisy)


DIVA_MODEL = DIVA(
    MLPEncoder((8,)), MLPDecoder((5,), (8,)), MLP((2,)), num_domains=3, dim=2, likelihood=UNIT
)
CSG_MODEL = LaCIM(
    MLPEncoder((8,)),
    MLPDecoder((5,), (8,)),
    MLP((2,)),
    num_domains=1,
    s_dim=2,
    v_dim=2,
    likelihood=UNIT,
    correlated_prior=True,
    posterior=DomainHeads(),
)


@pytest.fixture(scope="module")
def diva():
    init = compiled_quickly(lambda images: shaken(DIVA_MODEL.init(KEY, images)["params"]))
    return init(examples().images)


def test_the_loss_of_diva_is_its_formula(diva):
    data = examples()
    loss = diva_loss(
        DIVA_MODEL,
        beta=0.5,
        label_weight=3.0,
        domain_weight=lambda step: jnp.where(step == 0, 2.0, 0.0),
    )
    value, (step, _) = compiled_quickly(loss)(diva, STEP, data, KEY)

    def bound(raw):
        return 8 * np.tanh(np.asarray(raw, np.float64) / 8)

    features = np.maximum(MLP((8,)).apply({"params": diva["encoder"]["MLP_0"]}, data.images), 0)
    heads = np.asarray(features) @ np.asarray(diva["head"]["kernel"]) + np.asarray(
        diva["head"]["bias"]
    )
    means, log_vars = heads[:, :6], bound(heads[:, 6:])
    noise = np.asarray(jax.random.normal(KEY, (8, 6)))
    draws = means + np.exp(log_vars / 2) * noise
    prior_means = np.concatenate(
        [diva["domain_mean"][data.domains], np.zeros((8, 2)), diva["label_mean"][data.labels]], 1
    )
    prior_vars = np.exp(
        np.concatenate(
            [
                bound(diva["domain_raw"])[data.domains],
                np.zeros((8, 2)),
                bound(diva["label_raw"])[data.labels],
            ],
            1,
        )
    )
    kl = 0.5 * (
        np.exp(log_vars) / prior_vars
        - 1
        - log_vars
        + np.log(prior_vars)
        + (means - prior_means) ** 2 / prior_vars
    )
    draw = jnp.asarray(draws, jnp.float32)
    pixels = MLPDecoder((5,), (8,)).apply({"params": diva["decoder"]}, draw)
    log_x = scipy.stats.norm.logpdf(data.images, pixels, 1.0).sum(1)
    logits = MLP((2,)).apply({"params": diva["classifier"]}, draw[:, 4:])
    weights = diva["domain_classifier"]
    domain_logits = np.maximum(draws[:, :2], 0) @ np.asarray(weights["kernel"])
    domain_logits += np.asarray(weights["bias"])
    cross = optax.softmax_cross_entropy_with_integer_labels
    due = (
        -log_x.mean()
        + 0.5 * kl.sum(1).mean()
        + 3.0 * cross(logits, data.labels).mean()
        + 2.0 * cross(jnp.asarray(domain_logits, jnp.float32), data.domains).mean()
    )
    np.testing.assert_allclose(value, due, rtol=1e-4)
    assert step == 1


def test_diva_predicts_from_the_labels_latents_alone(diva):
    images = examples().images
    before = DIVA_MODEL.apply({"params": diva}, images)
    head = diva["head"]
    # Means of the domain's and the rest's latents are the first four outputs of the head.
    others = jnp.concatenate([jnp.arange(1.0, 5.0), jnp.zeros(8)])
    moved = diva | {"head": {**head, "bias": head["bias"] + others}}
    np.testing.assert_array_equal(DIVA_MODEL.apply({"params": moved}, images), before)


def test_diva_shows_a_domain_that_was_not_trained(diva):
    data = examples()
    strange = data._replace(domains=data.domains + 1)
    value, _ = compiled_quickly(diva_loss(DIVA_MODEL))(diva, STEP, strange, KEY)
    assert np.isnan(value)


@pytest.mark.usefixtures("unchecked")
def test_diva_takes_parameters_of_numpy(diva):
    loss, data = diva_loss(DIVA_MODEL), examples()
    found, _ = loss(jax.tree.map(np.asarray, diva), STEP, data, KEY)
    np.testing.assert_allclose(found, loss(diva, STEP, data, KEY)[0], rtol=1e-6)


@pytest.fixture(scope="module")
def csg():
    data = examples()
    init = compiled_quickly(lambda *given: shaken(CSG_MODEL.init(KEY, *given)["params"]))
    return init(data.images, data.domains * 0)


@pytest.mark.usefixtures("x64")
def test_the_independent_version_has_the_margins_of_the_prior():
    rng = np.random.default_rng(0)
    prior = CorrelatedGaussian(
        *(jnp.asarray(rng.normal(size=shape)) for shape in ((1, 5), (1, 5), (1, 5, 5)))
    )
    covariance, mean = np.asarray(prior.covariance())[0], np.asarray(prior.mean)[0]
    latents = jnp.asarray(rng.normal(size=(3, 4, 5)))
    found = independent_version(prior, latents, s_dim=2)
    normal = scipy.stats.multivariate_normal
    np.testing.assert_allclose(found.trained, normal(mean, covariance).logpdf(latents), rtol=1e-10)
    due = normal(mean[:2], covariance[:2, :2]).logpdf(latents[..., :2])
    due = due + normal(mean[2:], covariance[2:, 2:]).logpdf(latents[..., 2:])
    np.testing.assert_allclose(found.independent, due, rtol=1e-10)


def test_without_correlation_csg_is_the_bound_of_pooled_lacim(csg):
    data = examples()
    params = csg | {"prior_mixing": jnp.zeros_like(csg["prior_mixing"])}
    pooled = data._replace(domains=data.domains * 0)
    for num_samples in (1, 6):
        weights = {"num_samples": num_samples, "beta": 0.5, "label_weight": 2.0}
        found, due = compiled_quickly(
            lambda p, weights=weights: [
                loss(CSG_MODEL, **weights)(p, STEP, part, KEY)[0]
                for loss, part in ((csg_loss, data), (lacim_loss, pooled))
            ]
        )(params)
        np.testing.assert_allclose(found, due, rtol=1e-5)


def test_correlation_weights_the_draws_by_the_ratio_of_the_priors(csg):
    """The formula, term by term, from the model's own densities at the same draws."""
    data = examples()
    loss = csg_loss(CSG_MODEL, num_samples=6, label_weight=1.0)
    found, (_, terms) = compiled_quickly(loss)(csg, STEP, data, KEY)

    @compiled_quickly
    def densities(params):
        variables = {"params": params}
        posterior = CSG_MODEL.apply(variables, data.images, data.domains * 0, method="encode")
        draws = jax.vmap(posterior.sample)(jax.random.normal(KEY, (6, 8, 4)))
        ratio = independent_version(CSG_MODEL.apply(variables, method="priors"), draws, s_dim=2)
        flat = draws.reshape(48, 4)
        pixels = CSG_MODEL.apply(variables, flat, method="decode").reshape(6, 8, 5)
        logits = CSG_MODEL.apply(variables, flat[:, :2], method="classify").reshape(6, 8, 2)
        return posterior, draws, ratio, pixels, jax.nn.log_softmax(logits)

    posterior, draws, ratio, every_pixel, log_probs = jax.tree.map(np.asarray, densities(csg))
    bounds = []
    for i in range(8):
        pixels = every_pixel[:, i]
        log_y = log_probs[:, i, data.labels[i]]
        log_x = scipy.stats.norm.logpdf(data.images[i][None], pixels, 1.0).sum(1)
        scale = np.exp(posterior.log_var[i] / 2)
        log_q = scipy.stats.norm.logpdf(draws[:, i], posterior.mean[i][None], scale[None]).sum(1)
        weight = np.exp(log_y + ratio.trained[:, i] - ratio.independent[:, i])
        inside = ratio.independent[:, i] + log_x - log_q
        bounds.append(np.log(weight.mean()) + (weight * inside).sum() / weight.sum())
    np.testing.assert_allclose(-found, np.mean(bounds), rtol=1e-4)
    assert set(terms) == {"label", "ratio", "reconstruction", "divergence"}


def test_csg_predicts_by_the_mean_over_its_draws(csg):
    images = examples().images

    @compiled_quickly
    def probabilities(key):
        return csg_probabilities(CSG_MODEL, {"params": csg}, images, key, num_samples=500)

    found, other = probabilities(KEY), probabilities(jax.random.key(7))
    np.testing.assert_allclose(found.sum(1), 1.0, rtol=1e-5)
    np.testing.assert_allclose(found, other, atol=0.08)
    assert np.ptp(found[:, 0]) > 0.2  # images differ by more than the draws do


def test_in_a_new_domain_v_says_nothing_of_s():
    """Images of no sign of s, and of much of v, which went with s in training."""
    model = LaCIM(
        Identity(), MLPDecoder((2,), ()), MLP((2,)), num_domains=1, s_dim=1, v_dim=1,
        likelihood=UNIT, correlated_prior=True, posterior=DomainHeads(),
    )  # fmt: skip
    images = jnp.asarray([[0.0, 3.0], [0.0, -3.0]])
    params = jax.jit(model.init)(KEY, images, jnp.zeros(2, jnp.int32))["params"]
    # A correlation of 0.9 between s and v, each of variance 1 by itself.
    params["prior_mixing"] = jnp.asarray([[[0.0, 0.0], [0.9, 0.0]]])
    rest = 8 * np.arctanh(np.log(1 - 0.9**2) / 8)
    params["prior_raw_log_var"] = jnp.asarray([[0.0, rest]], jnp.float32)
    # The posterior under p(s) p(v): evidence N(s; x1, 1) and N(v; x2, 0.01) times N(0, 1) each.
    variance = np.array([1 / (1 + 1), 1 / (1 + 100)])
    weight = variance * [1, 100]
    raw = np.concatenate([np.zeros(2), 8 * np.arctanh(np.log(variance) / 8)])
    params["posterior"]["heads"] = {
        "kernel": jnp.asarray(np.hstack([np.diag(weight), np.zeros((2, 2))])[:, None], jnp.float32),
        "bias": jnp.asarray(raw[None], jnp.float32),
    }
    params["classifier"]["Dense_0"]["kernel"] = jnp.asarray([[0.0, 3.0]])
    covariance = model.apply({"params": params}, method="priors").covariance()[0]
    np.testing.assert_allclose(covariance, [[1.0, 0.9], [0.9, 1.0]], rtol=1e-5)
    found = csg_probabilities(model, {"params": params}, images, KEY, num_samples=4000)
    np.testing.assert_allclose(found[:, 1], 0.5, atol=0.03)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ({"num_domains": 2}, "make the model with num_domains=1"),
        ({"correlated_prior": False}, "make the model with num_domains=1"),
        ({"posterior": SharedEvidence()}, r"with posterior=DomainHeads\(\)"),
    ],
)
def test_csg_needs_one_correlated_prior_that_is_not_in_its_encoder(fault, message):
    fields = {"num_domains": 1, "correlated_prior": True, "posterior": DomainHeads()} | fault
    model = LaCIM(MLPEncoder(), MLPDecoder((5,)), MLP((2,)), **fields)
    with pytest.raises(ValueError, match=message):
        csg_loss(model)
    with pytest.raises(ValueError, match=message):
        csg_probabilities(model, {"params": {}}, examples().images, KEY)


def test_csg_needs_draws_and_factors_in_their_range():
    with pytest.raises(ValueError, match="num_samples must be at least 1"):
        csg_probabilities(CSG_MODEL, {"params": {}}, examples().images, KEY, num_samples=0)
    with pytest.raises(ValueError, match="num_samples must be at least 1"):
        csg_loss(CSG_MODEL, num_samples=0)
    with pytest.raises(ValueError, match="beta must be at least 0"):
        csg_loss(CSG_MODEL, beta=-1.0)


def test_by_default_labels_are_weighed_by_what_there_is_to_be_explained(diva, csg):
    """As in LaCIM's loss: eight times the images' nats to the labels', of so many classes."""
    data = examples()
    data = data._replace(images=20 * data.images)
    nats = np.asarray(data.images).var(0).sum() / 2  # under a Gaussian of scale 1
    of_labels, of_domains = 8 * nats / np.log([2, 3])
    assert of_domains > 50
    for loss, own, params, weights in (
        (csg_loss, CSG_MODEL, csg, {"label_weight": of_labels}),
        (diva_loss, DIVA_MODEL, diva, {"label_weight": of_labels, "domain_weight": of_domains}),
    ):
        weights = {name: float(weight) for name, weight in weights.items()}
        for named in ({}, dict.fromkeys(weights, "balanced")):
            found, _ = compiled_quickly(loss(own, **named))(params, STEP, data, KEY)
            due, _ = compiled_quickly(loss(own, **weights))(params, STEP, data, KEY)
            np.testing.assert_allclose(found, due, rtol=1e-4)
        silent = own.clone(likelihood=Likelihood(*UNIT[:3]))
        with pytest.raises(ValueError, match="one has no `unexplained`"):
            loss(silent)
        loss(silent, **weights)
        with pytest.raises(ValueError, match="label_weight must be at least 0"):
            loss(own, label_weight=-1.0)
    with pytest.raises(ValueError, match="domain_weight must be at least 0"):
        diva_loss(DIVA_MODEL, domain_weight=-1.0)


def test_all_latents_of_ivae_may_cause_the_label():
    model = ivae(
        MLPEncoder((8,)), MLPDecoder((5,), (8,)), MLP((2,)), num_domains=3, dim=3, likelihood=UNIT
    )
    data = examples()
    params = jax.jit(model.init)(KEY, data.images, data.domains)["params"]
    grads, _ = compiled_quickly(jax.grad(lacim_loss(model, label_weight=1.0), has_aux=True))(
        params, STEP, data, KEY
    )
    assert params["classifier"]["Dense_0"]["kernel"].shape == (3, 2)
    assert min(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(grads)) > 0


def test_diva_has_a_prior_for_every_class_of_its_classifier():
    """By default there are two; others once read priors that are not there, and trained on NaN."""
    three = DIVA_MODEL.clone(classifier=MLP((3,)))
    with pytest.raises(ValueError, match=r"has 3 logits.* of 2 classes; pass num_classes=3"):
        three.init(KEY, examples().images)
    variables = three.clone(num_classes=3).init(KEY, examples().images)
    assert variables["params"]["label_mean"].shape == (3, 2)


def test_diva_bounds_its_log_variances():
    with pytest.raises(ValueError, match=r"log_var_bound must be positive and finite, got 0\.0"):
        DIVA_MODEL.clone(log_var_bound=0.0).init(KEY, examples().images)
