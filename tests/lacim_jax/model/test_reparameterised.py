"""The variant with one noise: exact where its maps are affine, and usable wherever LaCIM is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lacim_jax import (
    MLP,
    DomainHeads,
    Examples,
    LaCIM,
    MLPDecoder,
    MLPEncoder,
    ReparameterisedLaCIM,
    Search,
    SharedEvidence,
    compiled_elbo,
    gaussian_likelihood,
    infer,
    lacim_loss,
    predict,
)
from tests.compiled import compiled_quickly

KEY = jax.random.key(0)
SIZES = {"num_domains": 3, "s_dim": 2, "v_dim": 1, "likelihood": gaussian_likelihood(1.0)}


def modules():
    return MLPEncoder((8,)), MLPDecoder((5,), widths=(8,)), MLP((2,))


def examples(n=6):
    images = jax.random.normal(KEY, (n, 5))
    return Examples(images, (images[:, 0] > 0).astype(jnp.int32), jnp.arange(n) % 3)


def initialised(model):
    data = examples()
    return compiled_quickly(model.init)(KEY, data.images, data.domains)


@pytest.fixture(scope="module")
def affine():
    """The variant with affine maps, moved off the identity, and its variables."""
    model = ReparameterisedLaCIM(*modules(), **SIZES, map_widths=())
    variables = initialised(model)
    maps = variables["params"]["maps"]
    keys = jax.random.split(jax.random.key(1))
    maps["matrix"] += 0.3 * jax.random.normal(keys[0], maps["matrix"].shape)
    maps["shift"] += jax.random.normal(keys[1], maps["shift"].shape)
    return model, variables


@pytest.mark.parametrize("posterior", [SharedEvidence(2), DomainHeads(), SharedEvidence()])
def test_a_posterior_that_would_not_be_used_is_refused(posterior):
    model, data = ReparameterisedLaCIM(*modules(), **SIZES, posterior=posterior), examples()
    with pytest.raises(ValueError, match=r"one head of its own, got posterior=.*; leave it out"):
        model.init(KEY, data.images, data.domains)


def test_domains_start_alike_and_as_the_identity():
    model = ReparameterisedLaCIM(*modules(), **SIZES)
    noise = jax.random.normal(KEY, (6, 3))
    latents = model.apply(initialised(model), noise, examples().domains, method="latents")
    np.testing.assert_allclose(latents, noise, rtol=1e-6)


def test_each_example_goes_through_its_own_domains_map(affine):
    model, variables = affine
    noise, domains = jax.random.normal(KEY, (6, 3)), jnp.asarray([2, 0, 1, 1, 0, 2])
    maps = variables["params"]["maps"]
    wanted = [maps["matrix"][d] @ e + maps["shift"][d] for d, e in zip(domains, noise, strict=True)]
    found = model.apply(variables, noise, domains, method="latents")
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
    strangers = model.apply(variables, noise, domains + 3, method="latents")
    assert np.isnan(strangers).all()


def test_the_moments_of_an_affine_map_are_exact(affine):
    model, variables = affine
    maps, priors = variables["params"]["maps"], model.apply(variables, method="priors")
    np.testing.assert_allclose(priors.mean, maps["shift"], rtol=1e-5, atol=1e-6)
    wanted = np.einsum("dij,dij->di", maps["matrix"], maps["matrix"])
    np.testing.assert_allclose(np.exp(priors.log_var), wanted, rtol=1e-5)


def test_with_the_identity_for_a_map_its_bound_is_lacims():
    model = ReparameterisedLaCIM(*modules(), **SIZES)
    variables = initialised(model)
    plain = LaCIM(*modules(), **(SIZES | {"num_domains": 1}), posterior=DomainHeads())
    params = {k: v for k, v in variables["params"].items() if k != "maps"}
    head = params.pop("head")
    heads = {"kernel": head["kernel"][:, None], "bias": head["bias"][None]}
    params["posterior"] = {"heads": heads}
    params["prior_mean"] = params["prior_raw_log_var"] = jnp.zeros((1, 3))
    data = examples()
    found = compiled_elbo(model, variables, data, KEY, num_samples=4)
    pooled = data._replace(domains=jnp.zeros_like(data.domains))
    wanted = compiled_elbo(plain, {"params": params}, pooled, KEY, num_samples=4)
    for name, value in found._asdict().items():
        np.testing.assert_allclose(value, getattr(wanted, name), rtol=2e-5, atol=1e-5, err_msg=name)


def test_starts_are_the_noise_through_every_map(affine):
    model, variables = affine
    images, noise = examples().images, jax.random.normal(KEY, (2, 3, 3))
    starts = model.apply(variables, images, noise, method="starts")
    assert starts.shape == (6, 9, 3)
    posterior = model.apply(variables, images, examples().domains, method="encode")
    maps = variables["params"]["maps"]
    for domain in range(3):
        matrix, shift = maps["matrix"][domain], maps["shift"][domain]
        np.testing.assert_allclose(
            starts[:, domain], posterior.mean @ matrix.T + shift[None], rtol=1e-4, atol=1e-5
        )
        for draw in range(2):
            scaled = jnp.exp(posterior.log_var / 2) * noise[draw, domain][None]
            wanted = (posterior.mean + scaled) @ matrix.T + shift[None]
            found = starts[:, 3 + 3 * draw + domain]
            np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("standard_promotion")
def test_without_draws_every_map_is_one_start(affine):
    model, variables = affine
    images = examples().images
    found = infer(model, variables, images, KEY, steps=0, search=Search(draws=0, chunk_size=6))
    assert found.candidates.s.shape == (6, 3, 2)
    starts = model.apply(variables, images, jnp.zeros((0, 3, 3)), method="starts")
    assert starts.shape == (6, 3, 3)


@pytest.mark.usefixtures("standard_promotion")
def test_it_trains_and_predicts_as_lacim_does():
    model, data = ReparameterisedLaCIM(*modules(), **SIZES), examples(30)
    params = initialised(model)["params"]
    gradient = compiled_quickly(
        jax.value_and_grad(lacim_loss(model, label_weight=1.0), has_aux=True)
    )
    step, losses = jnp.zeros([], jnp.int32), []
    for i in range(60):
        (loss, (step, _)), grads = gradient(params, step, data, jax.random.fold_in(KEY, i))
        params = jax.tree.map(lambda w, g: w - 0.02 * g, params, grads)
        losses.append(float(loss))
    assert np.mean(losses[-10:]) < np.mean(losses[:10]) - 0.3
    sizes = jax.tree.map(lambda g: float(jnp.abs(g).max()), grads)
    assert min(jax.tree.leaves(sizes)) > 0  # every domain's map, too
    found = predict(
        model, {"params": params}, data.images, KEY, steps=5, search=Search(chunk_size=30)
    )
    assert (found.objective_after >= found.objective_before).all()
    assert np.isfinite(found.probabilities).all()


@pytest.mark.usefixtures("standard_promotion")
def test_its_sizes_may_be_lists():
    """Of the maps, and of the modules; prediction tells compiled models apart by their hash."""

    def listed(sizes):
        return ReparameterisedLaCIM(
            MLPEncoder(sizes([4])), MLPDecoder(sizes([2, 2]), sizes([4])), MLP(sizes([2])),
            num_domains=2, s_dim=1, v_dim=1, map_widths=sizes([3]),
        )  # fmt: skip

    model = listed(list)
    assert model == listed(tuple)
    assert hash(model) == hash(listed(tuple))
    images = jnp.full((2, 2, 2), 0.5)
    variables = jax.jit(model.init)(jax.random.key(0), images, jnp.arange(2))
    found = predict(model, variables, images, jax.random.key(1), steps=1)
    assert found.probabilities.shape == (2, 2)
