"""Structural causal models: stated moments, invertible mixing, data that make MCC mean something.

The three figures that a benchmark of identifiability stands on are asserted here: the domain alone
tells little, x tells all, and the domains differ in every direction.
"""

import jax
import numpy as np
import pytest

from common.data.generated.structural_design import (
    StructuralSizes,
    StructuralSpread,
    natural_parameters,
)
from common.data.generated.structural_models import structural_model
from lacim_jax import domain_diversity

KEY = jax.random.key(0)
KINDS = ("continuous", "discrete")
COUNTS = (5, 11)


def model_of(seed, m, kind, **options):
    return structural_model(jax.random.key(seed), num_domains=m, confounder=kind, **options)


def z_of(data):
    return np.concatenate([data.s, data.v], axis=1).astype(np.float64)


def by_domain(one, other, domains):
    """Pearson's correlation of matching columns in every domain."""
    return np.array(
        [
            [np.corrcoef(a, b)[0, 1] for a, b in zip(one[own].T, other[own].T, strict=True)]
            for own in (domains == d for d in np.unique(domains))
        ]
    )


def supervised(train, test):
    """Ridge regression of s and v, told, on x and 300 random rectified features of it."""
    rng = np.random.default_rng(0)
    weight, bias = 0.6 * rng.normal(size=(train.x.shape[1], 300)), 0.6 * rng.normal(size=300)

    def features(x):
        x = x.astype(np.float64)
        return np.concatenate([x, np.maximum(x @ weight + bias, 0), np.ones((len(x), 1))], axis=1)

    own = features(train.x)
    ridge = own.T @ own + 0.1 * np.eye(own.shape[1])
    return features(test.x) @ np.linalg.solve(ridge, own.T @ z_of(train))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(2))
def test_the_domain_tells_little_x_tells_all_and_domains_differ(kind, seed):
    for m in COUNTS:
        model = model_of(seed, m, kind)
        train, test = (model.sample(jax.random.key(k), 6000 // m) for k in (1, 2))
        z, domains = z_of(test), test.domains
        means = np.stack([z_of(train)[train.domains == d].mean(0) for d in range(m)])
        guessed = [np.corrcoef(a, b)[0, 1] for a, b in zip(means[domains].T, z.T, strict=True)]
        assert np.mean(guessed) < 0.6
        assert model.domain_mean_correlation().max() < 0.6
        np.testing.assert_allclose(guessed, model.domain_mean_correlation(), atol=0.08)
        assert by_domain(supervised(train, test), z, domains).mean() > 0.95
        assert by_domain(model.unmix(test.x), z, domains).mean() > 0.95
        variance = np.einsum("dii->di", model.covariance)
        for block in (slice(0, 2), slice(2, 4)):
            report = domain_diversity(model.mean[:, block], variance[:, block])
            assert report.sufficient
            assert report.condition < 100
            eta = natural_parameters(model.mean[:, block], variance[:, block])
            assert np.linalg.cond(eta[1:] - eta[0]) < 100


@pytest.mark.parametrize("kind", KINDS)
def test_samples_have_the_moments_that_are_stated(kind):
    model = model_of(0, 3, kind)
    data = model.sample(KEY, 30_000)
    for d in range(3):
        z = z_of(data)[data.domains == d]
        np.testing.assert_allclose(z.mean(0), model.mean[d], atol=0.05)
        np.testing.assert_allclose(np.cov(z.T), model.covariance[d], atol=0.12)
    noise = data.x - model.mix(z_of(data))
    np.testing.assert_allclose(noise.std(0), model.noise, rtol=0.02)
    off_diagonal = model.covariance * (1 - np.eye(4))
    # Given the domain s and v are independent if C is continuous, and not if it is discrete.
    assert (np.abs(off_diagonal).max() > 0.05) == (kind == "discrete")


def test_s_alone_makes_the_label_and_c_makes_s_and_v():
    """Within a class of equal s the label does not depend on v; z stays 0.1 around c."""
    model = model_of(1, 3, "continuous")
    data = model.sample(KEY, 20_000)
    np.testing.assert_allclose((z_of(data) - data.c).std(0), 0.1, rtol=0.02)
    logits = model.slope * data.s @ model.label_directions
    shares = np.exp(logits - logits.max(1, keepdims=True))
    shares /= shares.sum(1, keepdims=True)
    residual = np.eye(4)[data.labels] - shares
    assert np.abs(residual.mean(0)).max() < 0.01
    moved = residual.T @ np.concatenate([data.s, data.v], axis=1) / len(residual)
    assert np.abs(moved).max() < 0.015
    discrete = model_of(1, 2, "discrete").sample(KEY, 20_000)
    for d in range(2):
        share = np.bincount(discrete.c[discrete.domains == d], minlength=6) / 20_000
        np.testing.assert_allclose(share, model_of(1, 2, "discrete").shares[d], atol=0.015)


@pytest.mark.parametrize("leak", [0.2, 0.4, 1.0])
def test_the_mixing_is_injective_and_bends_unless_its_leak_is_1(leak):
    model = model_of(2, 2, "continuous", leak=leak, sizes=StructuralSizes(s_dim=3, v_dim=2))
    z = np.random.default_rng(0).normal(size=(500, 5))
    x = model.mix(z)
    np.testing.assert_allclose(model.unmix(x), z, atol=1e-9)
    design = np.concatenate([z, np.ones((500, 1))], axis=1)
    rest = x - design @ np.linalg.lstsq(design, x, rcond=None)[0]
    assert (np.abs(rest).max() < 1e-9) == (leak == 1.0)


@pytest.mark.parametrize("kind", KINDS)
def test_fewer_domains_are_the_first_of_more(kind):
    few, many = model_of(0, 3, kind), model_of(0, 7, kind)
    np.testing.assert_array_equal(few.mean, many.mean[:3])
    np.testing.assert_array_equal(few.covariance, many.covariance[:3])
    for one, other in zip(few.rotations, many.rotations, strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(few.label_directions, many.label_directions)
    again = few.sample(KEY, 5)
    for one, other in zip(few.sample(KEY, 5), again, strict=True):
        np.testing.assert_array_equal(one, other)


def test_arguments_out_of_range_are_named():
    for options, message in [
        ({"num_domains": 0}, "num_domains"),
        ({"leak": 0.0}, "leak"),
        ({"confounder": "none"}, "confounder"),
    ]:
        with pytest.raises(ValueError, match=message):
            structural_model(KEY, **{"num_domains": 2, **options})
    with pytest.raises(ValueError, match="could not be recovered from x"):
        StructuralSizes(x_dim=3)
    with pytest.raises(ValueError, match="num_classes"):
        StructuralSizes(num_classes=1)
    with pytest.raises(ValueError, match="num_values"):
        StructuralSpread(num_values=1)
    with pytest.raises(ValueError, match="sds"):
        StructuralSpread(sds=(0.05, 1.0))
    with pytest.raises(ValueError, match="size"):
        structural_model(KEY, num_domains=1).sample(KEY, 0)
