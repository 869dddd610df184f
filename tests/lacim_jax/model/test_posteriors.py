"""Evidence that the domains share, times the prior of each: exact where everything is Gaussian."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lacim_jax import (
    MLP,
    CorrelatedGaussian,
    DomainHeads,
    Examples,
    Gaussian,
    LaCIM,
    MLPDecoder,
    MLPEncoder,
    SharedEvidence,
    elbo,
    fit,
    gaussian_likelihood,
    lacim_loss,
)
from lacim_jax.model.posteriors import product
from tests.compiled import compiled_quickly
from tests.lacim_jax.exact import Identity
from tests.oracles import linear_gaussian as oracle

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)


def small(num_domains, posterior, **fields):
    return LaCIM(
        MLPEncoder((6,)), MLPDecoder((3,), (6,)), MLP((2,)), num_domains=num_domains, s_dim=1,
        v_dim=1, likelihood=gaussian_likelihood(0.5), posterior=posterior, **fields,
    )  # fmt: skip


def examples(num_domains, count=12):
    x = jnp.asarray(np.random.default_rng(1).normal(size=(count, 3)), jnp.float32)
    return Examples(x, jnp.arange(count) % 2, jnp.arange(count) % num_domains)


def noisy(params, spread=0.5):
    leaves, tree = jax.tree.flatten(params)
    rng = np.random.default_rng(2)
    moved = [w + jnp.asarray(spread * rng.normal(size=w.shape), w.dtype) for w in leaves]
    return jax.tree.unflatten(tree, moved)


def test_it_is_the_exact_posterior_of_every_domain_where_all_is_gaussian_and_linear():
    with jax.enable_x64(True):
        instance = oracle.instance(np.random.default_rng(5), domains=3)
        dim = instance.A.shape[1]
        model = LaCIM(
            Identity(), nn.Dense(len(instance.A), use_bias=False), nn.Dense(2), num_domains=3,
            s_dim=2, v_dim=2, likelihood=gaussian_likelihood(instance.sx),
            posterior=SharedEvidence(),
        )  # fmt: skip
        # The likelihood in z: precision A'A / sx^2, which is diagonal, around the least squares.
        precision = np.diag(instance.A.T @ instance.A) / instance.sx**2
        least_squares = instance.A.T / instance.sx**2 / precision[:, None]

        def raw(variance):
            return 8 * np.arctanh(np.log(variance) / 8)

        evidence = {
            "kernel": jnp.asarray(np.hstack([least_squares.T, np.zeros_like(least_squares.T)])),
            "bias": jnp.asarray(np.concatenate([np.zeros(dim), raw(1 / precision)])),
        }
        params = {
            "posterior": {"evidence": evidence}, "decoder": {"kernel": jnp.asarray(instance.A.T)},
            "prior_mean": jnp.asarray(instance.mean),
            "prior_raw_log_var": jnp.asarray(raw(instance.sd**2)),
        }  # fmt: skip
        x = oracle.draw(instance, 0, np.random.default_rng(6), 4)[0]
        found = model.apply({"params": params}, jnp.asarray(x), method="encode_in_every_domain")
        for d in range(3):
            gain, offset, variance = oracle.posterior(instance, d)
            np.testing.assert_allclose(found.mean[:, d], x @ gain.T + offset, rtol=1e-10)
            wanted = np.tile(np.log(variance), (4, 1))
            np.testing.assert_allclose(found.log_var[:, d], wanted, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("correlated", [(True, True), (True, False), (False, True)])
def test_densities_of_full_covariance_multiply(correlated):
    with jax.enable_x64(True):
        shape = (2, 3)
        factors = []
        for full in correlated:
            mean, log_var = RNG.normal(size=shape), RNG.normal(size=shape)
            mixing = [RNG.normal(size=(*shape, 3))] if full else []
            kind = CorrelatedGaussian if full else Gaussian
            factors.append(kind(*map(jnp.asarray, (mean, log_var, *mixing))))
        found = product(*factors)
        if not correlated[0]:
            # The prior alone: of the product, its mean and the diagonal of its precision.
            assert isinstance(found, Gaussian)
            inverse = np.linalg.inv(np.asarray(factors[1].covariance()))
            precision = inverse + [np.diag(v) for v in np.exp(-np.asarray(factors[0].log_var))]
            wanted = 1 / np.diagonal(precision, axis1=1, axis2=2)
            np.testing.assert_allclose(np.exp(found.log_var), wanted, rtol=1e-9)
            slope = jax.grad(lambda z: sum(f.log_prob(z).sum() for f in factors))(found.mean)
            np.testing.assert_allclose(slope, np.zeros(shape), atol=1e-9)
            return
        # Its log-density differs from the sum of theirs by a constant.
        z = jnp.asarray(RNG.normal(size=(5, *shape)))
        differences = jax.vmap(lambda z: sum(f.log_prob(z) for f in factors) - found.log_prob(z))(z)
        np.testing.assert_allclose(differences, np.tile(differences[0], (5, 1)), rtol=1e-8)


def test_where_domains_are_alike_it_is_the_pooled_encoder_to_the_bit():
    """Priors that have not moved apart, and no correction: the domain's number plays no part."""
    data = examples(5)
    own = data._replace(domains=0 * data.domains)
    encode = compiled_quickly(
        lambda m, p, e: m.apply({"params": p}, e.images, e.domains, method="encode"),
        static_argnums=0,
    )
    pooled = small(1, SharedEvidence())
    params = compiled_quickly(pooled.init)(KEY, own.images, own.domains)["params"]
    wanted = encode(pooled, params, own)
    for rank in (0, 2):
        model = small(5, SharedEvidence(rank))
        grown = compiled_quickly(model.init)(KEY, data.images, data.domains)["params"]
        for name in ("encoder", "decoder", "classifier"):
            grown[name] = params[name]
        grown["posterior"]["evidence"] = params["posterior"]["evidence"]
        for found, due in zip(encode(model, grown, data), wanted, strict=True):
            np.testing.assert_array_equal(found, due)


@pytest.mark.parametrize("posterior", [SharedEvidence(), SharedEvidence(2), DomainHeads()])
def test_the_numbers_of_domains_mean_nothing_else(posterior):
    data, order = examples(3), np.asarray([2, 0, 1])
    model = small(3, posterior)
    params = noisy(compiled_quickly(model.init)(KEY, data.images, data.domains)["params"])
    bound = compiled_quickly(lambda p, e: elbo(model, {"params": p}, e, KEY, label_weight=2.0))
    axes = {"prior_mean": 0, "prior_raw_log_var": 0, "embeddings": 0, "kernel": 1, "bias": 0}

    def permuted(path, leaf):
        name = path[-1].key
        of_domain = name not in ("kernel", "bias") or "heads" in [step.key for step in path]
        return jnp.take(leaf, order, axes[name]) if of_domain and name in axes else leaf

    moved = jax.tree_util.tree_map_with_path(permuted, params)
    renamed = data._replace(domains=jnp.asarray(np.argsort(order))[data.domains])
    for found, due in zip(bound(moved, renamed), bound(params, data), strict=True):
        np.testing.assert_allclose(found, due, rtol=1e-5, atol=1e-6)
    every = model.apply({"params": params}, data.images, method="encode_in_every_domain")
    own = model.apply({"params": params}, data.images, data.domains, method="encode")
    rows = jax.tree.map(lambda leaf: leaf[jnp.arange(12), data.domains], every)
    for found, due in zip(own, rows, strict=True):
        np.testing.assert_allclose(found, due, rtol=1e-5, atol=1e-6)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("rank", [-1, 0.5, None])
def test_a_rank_that_is_no_number_of_dimensions_is_refused(rank):
    with pytest.raises(ValueError, match=rf"rank must be a whole number, at least 0, got {rank};"):
        SharedEvidence(rank)


def test_the_prior_is_learnt_by_the_divergence_alone():
    data, model = examples(3), small(3, SharedEvidence())
    params = noisy(compiled_quickly(model.init)(KEY, data.images, data.domains)["params"])

    def slopes(beta):
        bound = jax.grad(lambda p: elbo(model, {"params": p}, data, KEY, beta=beta).bound.mean())
        return compiled_quickly(bound)(params)["prior_mean"]

    np.testing.assert_array_equal(slopes(0.0), jnp.zeros((3, 2)))
    assert np.abs(slopes(1.0)).min() > 0


@pytest.mark.usefixtures("standard_promotion")
def test_sixty_four_domains_train():
    """Sixteen examples a domain, each domain of its own mean: so are the priors."""
    rng = np.random.default_rng(3)
    domains = np.repeat(np.arange(64), 16)
    mean = 2 * rng.normal(size=(64, 2))
    z = mean[domains] + 0.5 * rng.normal(size=(1024, 2))
    x = jnp.asarray(z @ rng.normal(size=(2, 3)), jnp.float32)
    data = Examples(x, jnp.asarray(z[:, 0] > 0, jnp.int32), jnp.asarray(domains, jnp.int32))
    model = small(64, SharedEvidence(2))
    fitted = fit(
        model, data, KEY, num_steps=800, batch_size=128, optimiser=optax.adam(1e-2),
        loss=lacim_loss(model, label_weight=1.0),
    )  # fmt: skip
    bound = fitted.terms["bound"]
    assert np.isfinite(bound).all()
    assert bound[-20:].mean() > bound[:20].mean() + 1
    priors = np.asarray(model.apply(fitted.variables, method="priors").mean)
    encoded = model.apply(fitted.variables, x, data.domains, method="encode").mean
    # Each prior has moved to where the posteriors of its own domain lie.
    own = np.asarray(encoded).reshape(64, 16, 2).mean(1)
    assert ((priors - own) ** 2).mean() < 0.3 * priors.var(axis=0).mean()
