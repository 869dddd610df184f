"""The objective, on a model whose evidence and posterior are known, and its independence of y."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lacim_jax import (
    MLP,
    DomainHeads,
    Examples,
    Gaussian,
    LaCIM,
    MLPDecoder,
    MLPEncoder,
    compiled_elbo,
    elbo,
    gaussian_likelihood,
    lacim_loss,
)
from tests.compiled import compiled_quickly, counting_compilations
from tests.lacim_jax.exact import Identity, exact_model, observed
from tests.oracles import linear_gaussian as oracle

KEY = jax.random.key(0)


INSTANCE = oracle.instance(np.random.default_rng(0))


@pytest.mark.parametrize("domain", [0, 1])
def test_with_the_exact_posterior_the_bound_tends_to_the_evidence(domain):
    model, variables = exact_model(INSTANCE)
    examples, evidence = observed(INSTANCE, domain, 20)
    terms = compiled_elbo(model, variables, examples, KEY, num_samples=5000)
    np.testing.assert_allclose(terms.bound.mean(), evidence, atol=0.02)
    np.testing.assert_allclose(terms.log_evidence.mean(), evidence, atol=0.02)


@pytest.mark.parametrize("domain", [0, 1])
def test_with_the_exact_posterior_every_draw_gives_the_same_l(domain):
    # l = log p(x|z) + log p(z|d) - log q(z|x,d) is then log p(x|d), whatever z.
    model, variables = exact_model(INSTANCE)
    examples, _ = observed(INSTANCE, domain, 1000)
    terms = compiled_elbo(model, variables, examples, KEY, num_samples=1)
    values = np.asarray(terms.reconstruction - terms.divergence, np.float64)
    assert values.std() < 1e-4
    x = np.asarray(examples.images[0], np.float64)
    covariance = INSTANCE.A @ np.diag(INSTANCE.sd[domain] ** 2) @ INSTANCE.A.T
    covariance += INSTANCE.sx**2 * np.eye(len(x))
    wanted = oracle.log_normal(x, INSTANCE.A @ INSTANCE.mean[domain], covariance)
    np.testing.assert_allclose(values, wanted, atol=1e-3)


@pytest.mark.usefixtures("x64")
def test_the_importance_weighted_bound_is_never_below():
    model, variables = exact_model(INSTANCE, shift=0.3, stretch=1.4, dtype=jnp.float64)
    examples, evidence = observed(INSTANCE, 0, 2000, jnp.float64)
    terms = compiled_elbo(model, variables, examples, KEY, num_samples=8)
    assert terms.bound.dtype == jnp.float64
    gap = np.asarray(terms.log_evidence - terms.bound)
    assert gap.shape == (2000,)
    assert np.sum(gap < -1e-9) == 0
    assert gap.mean() > 0.1  # the posterior is off, so the inequality is not an equality
    assert terms.log_evidence.mean() < evidence  # both are bounds, in expectation
    assert np.all((terms.sample_size >= 1 - 1e-9) & (terms.sample_size <= 8 + 1e-9))


def small(**options):
    return LaCIM(
        MLPEncoder((8,)), MLPDecoder((4, 4, 1), (8,)), MLP((2,)), num_domains=2, s_dim=2, v_dim=3,
        **options,
    )  # fmt: skip


def batch(n=6):
    return Examples(
        images=jax.random.uniform(KEY, (n, 4, 4, 1)),
        labels=jnp.arange(n) % 2,
        domains=jnp.arange(n) // 3 % 2,
    )


@functools.cache
def start():
    """Variables of the model above."""
    examples = batch()
    return compiled_quickly(small().init)(KEY, examples.images, examples.domains)


def test_one_sample_is_the_plain_bound_on_the_same_draw():
    model, examples = small(), batch()
    variables = start()
    variables = jax.tree.map(lambda w: w + 0.1, variables)
    terms = compiled_elbo(model, variables, examples, KEY)
    # Written out by hand, from the same noise.

    @compiled_quickly
    def outputs(variables):
        posterior = model.apply(variables, examples.images, examples.domains, method="encode")
        prior = model.apply(variables, examples.domains, method="prior")
        noise = jax.random.normal(KEY, (1, 6, 5))[0]
        z = posterior.mean + jnp.exp(posterior.log_var / 2) * noise
        pixels = model.apply(variables, z, method="decode")
        return posterior, prior, z, pixels, model.apply(variables, z[:, :2], method="classify")

    posterior, prior, z, *given = outputs(variables)
    pixels, logits = (np.asarray(x, np.float64) for x in given)
    x, y = np.asarray(examples.images, np.float64), np.asarray(examples.labels)

    def normal(z, gaussian):
        mean, log_var = (np.asarray(p, np.float64) for p in gaussian)
        return -0.5 * ((z - mean) ** 2 / np.exp(log_var) + log_var + np.log(2 * np.pi)).sum(-1)

    log_x = (x * pixels - np.logaddexp(0, pixels)).sum((1, 2, 3))
    log_y = logits[np.arange(6), y] - np.logaddexp(*logits.T)
    wanted = log_y + log_x + normal(z, prior) - normal(z, posterior)
    np.testing.assert_allclose(terms.bound, wanted, rtol=1e-5)
    np.testing.assert_allclose(terms.label, log_y, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(terms.reconstruction, log_x, rtol=1e-5)
    np.testing.assert_allclose(terms.divergence, -terms.prior - terms.entropy, rtol=1e-6)
    np.testing.assert_allclose(terms.log_evidence, terms.bound, rtol=1e-5)
    np.testing.assert_array_equal(terms.sample_size, np.ones(6))


def test_several_samples_are_the_weighted_form_on_the_same_draws():
    model, examples = small(), batch()
    variables = start()
    variables = jax.tree.map(lambda w: 3 * w, variables)  # so that the weights differ
    found = compiled_elbo(model, variables, examples, KEY, num_samples=4)
    noise = jax.random.normal(KEY, (4, 6, 5))

    @compiled_quickly
    @jax.vmap
    def terms(one):
        posterior = model.apply(variables, examples.images, examples.domains, method="encode")
        prior = model.apply(variables, examples.domains, method="prior")
        z = posterior.sample(one)
        pixels = model.apply(variables, z, method="decode")
        logits = model.apply(variables, z[:, :2], method="classify")
        log_w = jax.vmap(model.label_likelihood.log_prob)(logits, examples.labels)
        log_x = jax.vmap(model.likelihood.log_prob)(pixels, examples.images)
        return log_w, log_x + prior.log_prob(z) - posterior.log_prob(z)

    log_w, ell = (np.asarray(x, np.float64) for x in terms(noise))
    w = np.exp(log_w)
    wanted = np.log(w.mean(0)) + (w * ell).sum(0) / w.sum(0)
    np.testing.assert_allclose(found.bound, wanted, rtol=1e-5)
    np.testing.assert_allclose(found.sample_size, w.sum(0) ** 2 / (w**2).sum(0), rtol=1e-4)
    assert np.asarray(found.sample_size).min() < 3.99


def test_the_weights_scale_their_terms():
    model, examples = small(), batch()
    variables = start()
    options = {"num_samples": 3}
    one = compiled_elbo(model, variables, examples, KEY, **options)
    two = compiled_elbo(
        model, variables, examples, KEY, beta=4.0, label_weight=jnp.float32(7.0), **options
    )
    np.testing.assert_allclose(
        two.bound, 7 * one.label + one.reconstruction - 4 * one.divergence, rtol=1e-5
    )
    for name in ("label", "reconstruction", "divergence", "log_evidence", "kl_per_dim"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))


def test_the_divergence_tends_to_the_exact_kl():
    model, variables = exact_model(INSTANCE)
    examples, _ = observed(INSTANCE, 0, 4000)
    terms = compiled_elbo(model, variables, examples, KEY, num_samples=1)
    assert terms.kl_per_dim.shape == (4000, 4)
    wanted = float(terms.kl_per_dim[0].sum())
    error = float(terms.divergence.std()) / np.sqrt(4000)
    assert abs(float(terms.divergence.mean()) - wanted) < 4 * error


def test_the_label_has_no_path_into_the_encoder():
    # With real-valued labels the derivative with respect to them exists.
    model, variables = exact_model(INSTANCE, shift=0.3)
    examples, _ = observed(INSTANCE, 0, 5)

    def terms(labels):
        return elbo(model, variables, examples._replace(labels=labels), KEY)

    slopes = compiled_quickly(jax.jacobian(terms))(examples.labels)
    for name in ("reconstruction", "prior", "entropy", "divergence", "kl_per_dim"):
        np.testing.assert_array_equal(getattr(slopes, name), 0)
    assert np.abs(slopes.label).max() > 0.1


def test_compiles_once():
    examples = batch(7)
    variables = start()
    with counting_compilations() as counts:
        for step in range(4):
            model, beta = small(), jnp.float32(step)  # equal, not the same object
            key = jax.random.key(step)
            compiled_elbo(model, variables, examples, key, num_samples=2, beta=beta)
    assert counts[compiled_elbo.__name__] == 1


def test_gradients_are_finite_on_extreme_inputs():
    model, examples = small(), batch()
    variables = start()
    images = jnp.round(examples.images)

    @functools.partial(compiled_quickly, static_argnames="samples")
    def gradient(scale, samples):
        def loss(params):
            wild = {"params": jax.tree.map(lambda w: scale * w, params)}
            data = examples._replace(images=images)
            return elbo(model, wild, data, KEY, num_samples=samples).bound.sum()

        return jax.value_and_grad(loss)(variables["params"])

    for scale in (0.0, 1e-20, 1e3, 1e6):
        for samples in (1, 3):
            value, grads = gradient(scale, samples)
            assert np.isfinite(value), scale
            assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads)), scale


def test_the_same_key_gives_the_same_bound():
    model, examples = small(), batch()
    variables = start()
    one, two, other = (
        compiled_elbo(model, variables, examples, jax.random.key(i)) for i in (1, 1, 2)
    )
    np.testing.assert_array_equal(one.bound, two.bound)
    assert np.all(np.asarray(one.bound) != np.asarray(other.bound))


def test_the_loss_is_minus_the_mean_bound_and_counts_its_steps():
    model, examples = small(), batch()
    params = start()["params"]
    loss = lacim_loss(
        model,
        num_samples=2,
        beta=optax.linear_schedule(0.0, 1.0, 4),
        label_weight=lambda step: 3.0 * jnp.asarray(step, jnp.float32),
    )
    compiled = compiled_quickly(loss)
    for step, beta in ((0, 0.0), (2, 0.5), (9, 1.0)):
        value, (following, terms) = compiled(params, jnp.int32(step), examples, KEY)
        wanted = compiled_elbo(
            model, {"params": params}, examples, KEY,
            num_samples=2, beta=beta, label_weight=3.0 * step,
        )  # fmt: skip
        np.testing.assert_allclose(value, -wanted.bound.mean(), rtol=1e-6)
        np.testing.assert_allclose(terms["divergence"], wanted.divergence.mean(), rtol=1e-6)
        assert following.dtype == jnp.int32
        assert following == step + 1


def test_a_correlated_encoder_makes_the_bound_tight_where_a_diagonal_one_cannot():
    """x = s + v + noise: s and v are negatively correlated given x. All densities are known."""
    model = LaCIM(
        Identity(), nn.Dense(1), nn.Dense(2), num_domains=1, s_dim=1, v_dim=1,
        likelihood=gaussian_likelihood(0.5), correlated_posterior=True, posterior=DomainHeads(),
    )  # fmt: skip
    x = jnp.asarray([[0.3], [-1.2]])
    data = Examples(x, jnp.asarray([0, 1]), jnp.zeros(2, jnp.int32))
    variables = jax.jit(model.init)(KEY, x, data.domains)
    params = jax.tree.map(jnp.zeros_like, variables["params"])
    params["decoder"]["kernel"] = jnp.ones((2, 1))
    # q(s|x) and q(v|x, s): 2.25 = 1 + 1 + 0.25 is the variance of x, 1.25 that of x given s.
    mean, variance = 1 / 2.25, 1 - 1 / 2.25
    slope = -1 / 1.25
    log_vars = 8 * np.arctanh(np.log([variance, 1 - 1 / 1.25]) / 8)
    heads = params["posterior"]["heads"]
    heads["kernel"] = heads["kernel"].at[0, 0, :2].set(mean)
    full = jnp.asarray([0, 0, *log_vars, 0, 0, slope, 0], jnp.float32)
    heads["bias"] = heads["bias"].at[0].set(full)
    terms = compiled_elbo(model, {"params": params}, data, KEY, num_samples=3)
    evidence = np.log(0.5) - 0.5 * (x[:, 0] ** 2 / 2.25 + np.log(2 * np.pi * 2.25))
    np.testing.assert_allclose(terms.bound, evidence, rtol=1e-5)
    diagonal = jax.tree.map(lambda w: w, params)
    diagonal["posterior"]["heads"]["bias"] = heads["bias"].at[0, 6].set(0.0)
    loose = compiled_elbo(model, {"params": diagonal}, data, KEY, num_samples=2000)
    assert np.all(np.asarray(loose.bound.mean()) < evidence.mean() - 0.3)


@pytest.mark.usefixtures("standard_promotion")
def test_a_domain_prior_recovers_means_and_scales():
    # The decoder is the identity and the noise small, so the latents are known up to nothing.
    mean = np.asarray([[1.0, -1.0, 0.5, 2.0], [-2.0, 0.0, 1.5, -0.5], [0.0, 2.0, -1.5, 0.0]])
    sd = np.asarray([[0.5, 1.0, 1.5, 0.8], [1.2, 0.4, 0.7, 1.0], [0.8, 0.6, 1.0, 1.4]])
    n, noise = 3000, 0.1
    rng = np.random.default_rng(3)
    domains = np.arange(n) % 3
    z = mean[domains] + sd[domains] * rng.normal(size=(n, 4))
    data = Examples(
        images=jnp.asarray(z + noise * rng.normal(size=z.shape), jnp.float32),
        labels=jnp.asarray((z[:, 0] > 0).astype(np.int32)),
        domains=jnp.asarray(domains),
    )
    model = LaCIM(
        Identity(), Identity(), nn.Dense(2), num_domains=3, s_dim=2, v_dim=2,
        likelihood=gaussian_likelihood(noise),
    )  # fmt: skip
    params = jax.jit(model.init)(KEY, data.images, data.domains)["params"]
    loss, tx = (
        lacim_loss(model, label_weight=1.0),
        optax.adam(optax.cosine_decay_schedule(0.03, 1500)),
    )

    @jax.jit
    def train(params, data):
        def step(carry, rows):
            params, opt_state, count = carry
            examples = jax.tree.map(lambda leaf: leaf[rows], data)
            key = jax.random.fold_in(KEY, count)
            gradient, (count, _) = jax.grad(loss, has_aux=True)(params, count, examples, key)
            updates, opt_state = tx.update(gradient, opt_state, params)
            return (optax.apply_updates(params, updates), opt_state, count), None

        rows = jax.random.randint(KEY, (1500, 300), 0, n)
        return jax.lax.scan(step, (params, tx.init(params), jnp.int32(0)), rows)[0][0]

    priors: Gaussian = model.apply({"params": train(params, data)}, method="priors")
    np.testing.assert_allclose(priors.mean, mean, atol=0.1)
    np.testing.assert_allclose(np.exp(np.asarray(priors.log_var) / 2), sd, atol=0.1)


def test_bad_input_is_one_clear_error():
    model, examples = small(), batch()
    variables = start()
    with pytest.raises(ValueError, match="num_samples must be at least 1, got 0"):
        elbo(model, variables, examples, KEY, num_samples=0)
    for factor in ("beta", "label_weight"):
        for value in (-1.0, float("nan"), float("inf")):
            with pytest.raises(ValueError, match=f"{factor} must be at least 0, a finite"):
                lacim_loss(model, **{factor: value})
            with pytest.raises(ValueError, match=f"{factor} must be at least 0, a finite"):
                elbo(model, variables, examples, KEY, **{factor: value})
    for bad, message in (
        (examples._replace(images=255 * examples.images), "pixels must lie between 0 and 1"),
        (examples._replace(labels=examples.labels + 1), "labels must lie between 0 and 1"),
        (examples._replace(domains=examples.domains + 1), "domains must lie between 0 and"),
        (examples._replace(labels=examples.labels[1:]), "one entry per example, got 6, 5 and 6"),
    ):
        with pytest.raises(ValueError, match=message):
            elbo(model, variables, bad, KEY)
