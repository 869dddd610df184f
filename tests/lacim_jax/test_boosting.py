"""Boosting of stable features, beside Bayes' rule worked out by hand."""

import jax.numpy as jnp
import numpy as np
import pytest

from lacim_jax import stable_feature_boosting

S_MEANS = np.array([[0.0, 0.0], [1.5, 0.0], [0.0, 1.5]])
V_MEANS = np.array([[2.0, 0.0, 0.0], [0.0, -2.0, 0.0], [0.0, 1.0, 2.0]])
PRIOR = np.array([0.5, 0.3, 0.2])


def gaussians(values, means):
    """log p(values | class), but for a constant: spherical Gaussians of variance 1."""
    return -0.5 * ((values[:, None, :] - means) ** 2).sum(-1)


def sample(rng, count, prior=PRIOR):
    """s and v, independent given the label, each Gaussian about its class's mean."""
    labels = rng.choice(len(prior), count, p=prior)
    s, v = (
        means[labels] + rng.normal(size=(count, means.shape[1])) for means in (S_MEANS, V_MEANS)
    )
    return labels, s, v


def normalised(logits):
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def accuracy(logits, labels):
    return float((logits.argmax(1) == labels).mean())


def test_it_is_bayes_rule_to_many_digits_where_counts_are_exact():
    """Rows in exact proportion to p(s, v), the sum over labels, which are not among them."""
    prior = np.array([2, 3, 5])
    of_s = np.array([[6, 1, 1, 0], [1, 4, 2, 1], [1, 1, 2, 4]])  # of 8, given the label
    of_v = np.array([[1, 1, 6], [5, 2, 1], [2, 4, 2]])
    joint = prior[:, None, None] * of_s[:, :, None] * of_v[:, None, :]  # [label, s, v]
    s, v = np.repeat(np.indices(joint.shape[1:]).reshape(2, -1), joint.sum(0).ravel(), axis=1)
    posterior = joint / joint.sum(0)
    of_label = [
        prior[:, None] * table / (prior @ table) for table in (of_s, of_v)
    ]  # p(y|s), p(y|v)
    stable = np.log(np.maximum(of_label[0], 1e-30)).T[s]
    boosted = stable_feature_boosting(stable, np.eye(3)[v][:, 1:])
    np.testing.assert_allclose(boosted.prior, prior / 10, rtol=1e-9)
    rates = (of_s / 8) @ of_label[0].T  # p(pseudo-label | label), through s
    np.testing.assert_allclose(boosted.confusion, rates, rtol=1e-9)
    np.testing.assert_allclose(np.exp(boosted.unstable_logits), of_label[1].T[v], atol=2e-3)
    np.testing.assert_allclose(np.exp(boosted.logits), posterior[:, s, v].T, atol=2e-3)
    turned = stable_feature_boosting(stable[:, ::-1], np.eye(3)[v]).logits[:, ::-1]
    np.testing.assert_allclose(np.exp(turned), posterior[:, s, v].T, atol=2e-3)


def test_it_comes_near_the_best_classifier_there_is():
    labels, s, v = sample(np.random.default_rng(0), 20_000)
    stable = gaussians(s, S_MEANS) + np.log(PRIOR)
    exact = normalised(gaussians(s, S_MEANS) + gaussians(v, V_MEANS) + np.log(PRIOR))
    # Logits are known up to a constant for each image.
    boosted = stable_feature_boosting(stable + np.arange(len(s))[:, None] % 7, v)
    np.testing.assert_allclose(np.exp(boosted.logits).sum(1), 1)
    assert boosted.logits.dtype == np.float64
    best = accuracy(exact, labels)
    assert accuracy(stable, labels) < 0.75 < 0.9 < best
    assert accuracy(boosted.logits, labels) > best - 0.01


def test_without_the_rates_pseudo_labels_mislead():
    """What regression of pseudo-labels on v says is the mixture, not p(y|v): the rates undo it."""
    rng = np.random.default_rng(1)
    labels = rng.integers(2, size=20_000)
    sign = 2.0 * labels - 1
    s, v = 0.5 * sign + rng.normal(size=labels.size), -sign + rng.normal(size=labels.size)
    stable = np.stack([-0.5 * s, 0.5 * s], 1)  # log p(y|s) = sigmoid(2 * 0.5 s)
    boosted = stable_feature_boosting(stable, v)
    # log p(1|v) / p(0|v) = -2 v, whereas pseudo-labels stay between 1 - C_00 and C_11.
    slope = np.polyfit(v, boosted.unstable_logits[:, 1] - boosted.unstable_logits[:, 0], 1)[0]
    np.testing.assert_allclose(slope, -2, rtol=0.1)
    assert boosted.confusion.max() < 0.65


def test_units_order_and_types_do_not_matter():
    _, s, v = sample(np.random.default_rng(2), 600)
    stable = gaussians(s, S_MEANS) + np.log(PRIOR)
    plain = stable_feature_boosting(stable, v).logits
    moved = stable_feature_boosting(stable, np.c_[1e3 * v + 5, np.ones(600)]).logits
    np.testing.assert_allclose(moved, plain, atol=1e-5)
    turned = stable_feature_boosting(stable[::-1], v[::-1]).logits[::-1]
    np.testing.assert_allclose(turned, plain, atol=1e-5)
    single = stable_feature_boosting(jnp.float32(stable), jnp.float32(v)).logits
    np.testing.assert_allclose(np.exp(single), np.exp(plain), atol=1e-3)
    # v that says nothing leaves the answer of s as it is.
    alone = stable_feature_boosting(stable, np.ones(600)).logits
    np.testing.assert_allclose(alone, normalised(stable), atol=1e-3)


def test_bad_input_is_refused():
    _, s, v = sample(np.random.default_rng(3), 20)
    stable = gaussians(s, S_MEANS)
    for logits, features in (
        (stable[:5], v),
        (stable[:, :1], v),
        (stable[:, 0], v),
        (stable[:1], v[:1]),
    ):
        with pytest.raises(ValueError, match="at least two classes and examples"):
            stable_feature_boosting(logits, features)
    for logits, features in ((stable * np.nan, v), (stable, np.inf * v)):
        with pytest.raises(ValueError, match="must be finite"):
            stable_feature_boosting(logits, features)
    same, never = np.zeros((20, 2)), np.c_[stable, np.full(20, -1e4)]
    for logits in (same, never):
        with pytest.raises(ValueError, match="must tell every class from the others"):
            stable_feature_boosting(logits, v)
