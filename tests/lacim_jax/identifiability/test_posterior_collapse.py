"""Collapse: divergences and activity of a model whose posterior is set by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lacim_jax import MLP, DomainHeads, LaCIM, MLPDecoder, MLPEncoder, gaussian_likelihood
from lacim_jax.identifiability import collapse

RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.normal(size=(300, 2)), jnp.float32)
D = jnp.asarray(np.arange(300) % 2, jnp.int32)


@pytest.fixture(scope="module")
def model():
    """Posterior means: s0 = relu(x0), v0 = the domain's index, v1 = 0; all variances 1 / e."""
    model = LaCIM(
        MLPEncoder((2,)), MLPDecoder((2,), widths=()), MLP((2,)), num_domains=2, s_dim=1, v_dim=2,
        posterior=DomainHeads(), likelihood=gaussian_likelihood(1.0),
    )  # fmt: skip
    shapes = jax.eval_shape(model.init, jax.random.key(0), X[:1], D[:1])["params"]
    params = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    params["encoder"]["MLP_0"]["Dense_0"]["kernel"] = jnp.eye(2)
    kernel, bias = np.zeros((2, 2, 6), np.float32), np.zeros((2, 6), np.float32)
    kernel[0, :, 0] = 1.0  # the first feature, to s, in both domains
    bias[1, 1] = 1.0
    bias[:, 3:] = -1.0
    params["posterior"]["heads"] = {"kernel": jnp.asarray(kernel), "bias": jnp.asarray(bias)}
    return model, {"params": params}


def test_a_mean_that_moves_with_the_domain_alone_is_idle(model):
    report = collapse(*model, X, D, chunk_size=300)
    mean = np.maximum(np.asarray(X[:, 0], np.float64), 0)
    var = np.exp(8 * np.tanh(-1 / 8))
    each = 0.5 * (var - 1 - np.log(var))
    due = [each + 0.5 * (mean**2).mean(), each + 0.25, each]
    np.testing.assert_allclose(report.kl, due, rtol=1e-5)
    own = [mean[np.asarray(D) == d].var() for d in range(2)]
    np.testing.assert_allclose(report.activity, [np.mean(own), 0, 0], rtol=1e-5, atol=1e-12)
    assert report.active.tolist() == [True, False, False]
    assert (report.active_s, report.active_v) == (1, 0)
    assert str(report).splitlines()[1].startswith("v: 0 of 2 units active")
    assert "(idle)" in str(report)


def test_chunks_change_nothing(model):
    whole, parts = (collapse(*model, X, D, chunk_size=size) for size in (300, 75))
    np.testing.assert_allclose(whole.kl, parts.kl, rtol=1e-6)
    np.testing.assert_array_equal(whole.active, parts.active)


def test_domains_must_fit(model):
    with pytest.raises(ValueError, match="one domain for each"):
        collapse(*model, X, D[:-1])
    with pytest.raises(ValueError, match="at least one example"):
        collapse(*model, X[:0], D[:0])
    with pytest.raises(ValueError, match="num_domains - 1 = 1, got 0 to 2"):
        collapse(*model, X, D.at[0].set(2))


def test_images_must_be_the_models(model):
    stored = (10 * np.abs(np.asarray(X))).astype(np.uint8)
    with pytest.raises(ValueError, match=r"floating-point .* got uint8\[300, 2\]; .* by 255"):
        collapse(*model, jnp.asarray(stored), D)
    with pytest.raises(ValueError, match="values must be finite"):
        collapse(*model, X.at[0].set(jnp.inf), D)


def test_one_prior_for_all_looks_at_no_domain():
    """Pool-LaCIM, with the domains it was trained on: they have no prior of their own."""
    pooled = LaCIM(
        MLPEncoder((2,)), MLPDecoder((2,)), MLP((2,)), num_domains=1, s_dim=1, v_dim=1,
        likelihood=gaussian_likelihood(1.0),
    )  # fmt: skip
    variables = pooled.init(jax.random.key(0), X[:1], D[:1] * 0)
    found, due = (collapse(pooled, variables, X, d) for d in (D, 0 * D))
    assert np.isfinite(found.kl).all()
    np.testing.assert_array_equal(found.kl, due.kl)
    np.testing.assert_array_equal(found.activity, due.activity)


@pytest.mark.usefixtures("unchecked")
def test_data_may_be_lists(model):
    found, due = (collapse(*model, x, d) for x, d in ((X.tolist(), D.tolist()), (X, D)))
    np.testing.assert_allclose(found.kl, due.kl, rtol=1e-6)
    np.testing.assert_array_equal(found.active, due.active)
    with pytest.raises(ValueError, match="at least one example"):
        collapse(*model, [], [])
    with pytest.raises(ValueError, match="0 examples and domains of shape"):
        collapse(*model, 0.5, D)


@pytest.mark.parametrize("size", [0, -3])
def test_chunks_of_no_example_are_refused(model, size):
    with pytest.raises(ValueError, match="chunk_size must be a whole number of images, at least 1"):
        collapse(*model, X, D, chunk_size=size)
