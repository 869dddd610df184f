"""Which density depends on what."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lacim_jax import (
    MLP,
    DomainHeads,
    Examples,
    LaCIM,
    MLPDecoder,
    MLPEncoder,
    SharedEvidence,
    elbo,
    gaussian_likelihood,
    lacim_loss,
    predict,
)
from tests.compiled import compiled_quickly

KEY = jax.random.key(0)


def small(num_domains=3, **options):
    settings = {"s_dim": 2, "v_dim": 3, **options}
    return LaCIM(
        MLPEncoder((8,)),
        MLPDecoder((4, 4, 1), (8,)),
        MLP((2,)),
        num_domains=num_domains,
        **settings,
    )


@functools.cache
def trained_like(model, n=6):
    """Images, domains and variables in which no two domains are alike."""

    @compiled_quickly
    def make():
        images = jax.random.uniform(KEY, (n, 4, 4, 1))
        domains = jnp.arange(n) % model.num_domains
        leaves, tree = jax.tree.flatten(model.init(KEY, images, domains))
        keys = jax.random.split(jax.random.key(1), len(leaves))
        noisy = [w + 0.3 * jax.random.normal(k, w.shape) for w, k in zip(leaves, keys, strict=True)]
        return images, domains, jax.tree.unflatten(tree, noisy)

    return make()


def test_shapes():
    model = small()
    images, domains, variables = trained_like(model)
    found = compiled_quickly(model.apply)(variables, images, domains)
    assert found.posterior.mean.shape == found.prior.log_var.shape == (6, 5)
    assert found.reconstruction.shape == images.shape
    assert found.logits.shape == (6, 2)
    s, v = model.split(found.posterior.mean)
    assert s.shape == (6, 2)
    assert v.shape == (6, 3)
    np.testing.assert_array_equal(jnp.concatenate([s, v], axis=1), found.posterior.mean)


def test_each_domain_has_a_head_and_a_prior_of_its_own():
    model = small(posterior=DomainHeads())
    images, domains, variables = trained_like(model)

    @compiled_quickly
    def densities(variables):
        return (
            model.apply(variables, images, method="encode_in_every_domain"),
            model.apply(variables, images, domains, method="encode"),
            model.apply(variables, method="priors"),
            model.apply(variables, domains, method="prior"),
        )

    every, own, priors, prior = jax.tree.map(np.asarray, densities(variables))
    for i, d in enumerate(np.asarray(domains)):
        np.testing.assert_array_equal(own.mean[i], every.mean[i, d])
        np.testing.assert_array_equal(own.log_var[i], every.log_var[i, d])
        np.testing.assert_array_equal(prior.mean[i], priors.mean[d])
        np.testing.assert_array_equal(prior.log_var[i], priors.log_var[d])
    assert np.ptp(every.mean, axis=1).min() > 0
    assert np.ptp(priors.mean, axis=0).min() > 0

    def of_domain(d):
        def mean(variables):
            same = jnp.full_like(domains, d)
            posterior = model.apply(variables, images, same, method="encode")
            prior = model.apply(variables, same, method="prior")
            return posterior.mean.sum() + prior.mean.sum()

        return compiled_quickly(jax.grad(mean))(variables)["params"]

    gradient = of_domain(1)
    for touched in (
        gradient["prior_mean"],
        jnp.moveaxis(gradient["posterior"]["heads"]["kernel"], 1, 0),
    ):
        moved = np.abs(np.asarray(touched)).reshape(3, -1).max(axis=1) > 0
        np.testing.assert_array_equal(moved, [False, True, False])


def test_by_default_what_one_domain_teaches_holds_in_all():
    model, heads = small(), small(posterior=DomainHeads())

    def moved(model):
        images, domains, variables = trained_like(model)

        def posterior(variables, d):
            return model.apply(variables, images, jnp.full_like(domains, d), method="encode")

        @compiled_quickly
        def differences(variables):
            gradient = jax.grad(lambda v: posterior(v, 1).mean.sum())(variables)["params"]
            # The trunk is one in any case: only what is behind it takes the step.
            step = jax.tree.map(lambda g: 0.1 * g, gradient["posterior"])
            params = {**variables["params"]}
            params["posterior"] = jax.tree.map(jnp.add, params["posterior"], step)
            after, before = posterior({"params": params}, 0), posterior(variables, 0)
            return jnp.abs(after.mean - before.mean).max()

        return float(differences(variables))

    assert moved(model) > 0.01
    assert moved(heads) == 0.0


def test_the_label_depends_on_s_alone():
    model = small()
    images, domains, variables = trained_like(model)

    def logits(latents):
        return model.apply(variables, model.split(latents).s, method="classify")

    latents = compiled_quickly(model.apply)(variables, images, domains).posterior.mean
    slopes = compiled_quickly(jax.vmap(jax.jacobian(lambda z: logits(z[None])[0])))(
        latents
    )  # [n, classes, dim]
    assert np.abs(slopes[..., :2]).min() > 0
    np.testing.assert_array_equal(slopes[..., 2:], 0)


def test_the_image_depends_on_both():
    model = small()
    images, domains, variables = trained_like(model)
    latents = compiled_quickly(model.apply)(variables, images, domains).posterior.mean[0]
    slopes = compiled_quickly(
        jax.jacobian(lambda z: model.apply(variables, z[None], method="decode")[0])
    )(latents)
    assert np.abs(np.asarray(slopes)).reshape(-1, 5).max(axis=0).min() > 0


@pytest.mark.parametrize("domain", [-1, 3, 1000])
def test_a_domain_that_was_not_trained_shows(domain):
    model = small()
    images, _, variables = trained_like(model)
    unseen = jnp.full(6, domain)
    posterior, prior = compiled_quickly(
        lambda domains: (
            model.apply(variables, images, domains, method="encode"),
            model.apply(variables, domains, method="prior"),
        )
    )(unseen)
    for parameter in (*posterior, *prior):
        assert np.isnan(parameter).all()


def test_training_starts_from_the_standard_normal_prior():
    model = small()
    init = compiled_quickly(model.init)
    variables = init(KEY, jnp.zeros((1, 4, 4, 1)), jnp.zeros(1, jnp.int32))
    for parameter in model.apply(variables, method="priors"):
        np.testing.assert_array_equal(parameter, np.zeros((3, 5)))


def test_log_variances_are_bounded():
    model = small(log_var_bound=2.0, posterior=DomainHeads())
    images, domains, variables = trained_like(model)
    wild = jax.tree.map(lambda w: 1e3 * w, variables)
    found = compiled_quickly(model.apply)(wild, images, domains)
    for gaussian in (found.posterior, found.prior):
        assert np.abs(gaussian.log_var).max() <= 2.0
        assert np.abs(gaussian.log_var).max() > 1.9


def test_the_log_variances_of_a_product_are_lower_by_log_2():
    """Of the default posterior, in both directions; the bounds are reached."""
    model = small(log_var_bound=2.0)
    images, domains, variables = trained_like(model)
    params = dict(variables["params"])
    for sign, bound in ((-1.0, -2.0 - np.log(2)), (1.0, 2.0 - np.log(2))):
        params["prior_raw_log_var"] = jnp.full((3, 5), sign * 1e3)
        bias = jnp.full(10, sign * 1e6)
        params["posterior"] = {"evidence": {**params["posterior"]["evidence"], "bias": bias}}
        found = model.apply({"params": params}, images, domains, method="encode")
        np.testing.assert_allclose(found.log_var, np.full((6, 5), bound), rtol=1e-6)


def test_models_of_equal_parts_are_equal():
    assert small() == small()
    assert hash(small()) == hash(small())
    assert small() != small(num_domains=2)


@pytest.mark.parametrize("options", [{"num_domains": 0}, {"s_dim": 0}, {"v_dim": -1}])
def test_impossible_sizes_are_refused(options):
    model = small(**options)
    with pytest.raises(ValueError, match="num_domains and s_dim must be at least 1"):
        model.init(KEY, jnp.zeros((1, 4, 4, 1)), jnp.zeros(1, jnp.int32))


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"log_var_bound": 0.0}, "log_var_bound must be positive and finite, got 0.0"),
        ({"log_var_bound": -8.0}, "log_var_bound must be positive and finite, got -8.0"),
        ({"log_var_bound": np.inf}, "log_var_bound must be positive and finite, got inf"),
        ({"posterior": SharedEvidence}, r"a module, got the class SharedEvidence; .*Evidence\("),
        ({"posterior": DomainHeads}, "posterior must be a module, got the class DomainHeads"),
    ],
)
def test_fields_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        small(**options).init(KEY, jnp.zeros((1, 4, 4, 1)), jnp.zeros(1, jnp.int32))


@pytest.mark.usefixtures("standard_promotion")
def test_a_full_covariance_starts_diagonal_and_learns_to_correlate():
    """The label's cause and the rest move together in the data, and so in the learnt prior."""
    rng = np.random.default_rng(0)
    s = rng.normal(size=200)
    images = jnp.asarray(np.stack([s, s + 0.3 * rng.normal(size=200)], axis=1), jnp.float32)
    data = Examples(images, (images[:, 0] > 0).astype(jnp.int32), jnp.zeros(200, jnp.int32))
    model = LaCIM(
        MLPEncoder((16,)),
        MLPDecoder((2,), widths=()),
        MLP((2,)),
        num_domains=1,
        s_dim=1,
        v_dim=1,
        likelihood=gaussian_likelihood(0.1),
        correlated_prior=True,
    )
    params = jax.jit(model.init)(KEY, images, data.domains)["params"]
    covariance = model.apply({"params": params}, method="priors").covariance()[0]
    np.testing.assert_array_equal(covariance, np.eye(2))
    loss, tx = lacim_loss(model, label_weight=1.0), optax.adam(0.02)
    state = tx.init(params)

    @jax.jit
    def step(params, state, key):
        grads, (_, terms) = jax.grad(loss, has_aux=True)(params, jnp.int32(0), data, key)
        updates, state = tx.update(grads, state)
        return optax.apply_updates(params, updates), state, terms["bound"]

    bounds = []
    for i in range(300):
        params, state, bound = step(params, state, jax.random.fold_in(KEY, i))
        bounds.append(float(bound))
    assert np.mean(bounds[-20:]) > np.mean(bounds[:20]) + 1
    covariance = np.asarray(model.apply({"params": params}, method="priors").covariance()[0])
    assert abs(covariance[0, 1]) / np.sqrt(covariance[0, 0] * covariance[1, 1]) > 0.2


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("correlated", [False, True])
def test_variables_may_be_arrays_of_numpy(correlated):
    """As those read from a file are."""
    model = small(correlated_prior=correlated)
    images, domains, variables = trained_like(model)
    read = jax.tree.map(np.asarray, variables)
    data = Examples(images, domains % 2, domains)
    found, due = (elbo(model, either, data, KEY).bound for either in (read, variables))
    np.testing.assert_allclose(found, due, rtol=1e-5)


def test_variables_without_parameters_are_refused():
    """As of who passes what is in the collection."""
    model = small()
    images, _, variables = trained_like(model)
    with pytest.raises(ValueError, match=r"collection .params., got 'classifier', .*; pass all"):
        predict(model, variables["params"], images, KEY)
